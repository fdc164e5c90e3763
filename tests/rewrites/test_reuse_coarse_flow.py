"""All scales aligned by the coarsest one's flow or offsets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from superlower.rewrites.reuse_coarse_flow import ReuseCoarseFlow
from support.pyramids import FLOW_SPELLINGS, OFFSET_SPELLINGS, FlowPyramid, OffsetPyramid
from support.windows import clip, run


@pytest.mark.parametrize("spelling", FLOW_SPELLINGS.values(), ids=FLOW_SPELLINGS)
def test_flows(spelling: FlowPyramid) -> None:
    spelling = replace(spelling, multiscale=True)
    result = ReuseCoarseFlow().run(spelling.model())
    expected = replace(spelling, estimated=1).model()
    frames = clip(3)
    for a, b in zip(run(result.model, frames)[0], run(expected, frames)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    ops = [n.op_type for n in result.model.graphs["step"].graph]
    assert (ops.count("Conv"), ops.count("GridSample")) == (1, 3)
    assert not ReuseCoarseFlow().run(result.model).applied.changed


def test_a_level_that_moved_by_both_flows_moves_once() -> None:
    """A level that is moved by the coarser flow and by its own is moved twice by one flow: once will do."""
    result = ReuseCoarseFlow().run(FlowPyramid(multiscale=True).model())
    samplers = [n for n in result.model.graphs["step"].graph if n.op_type == "GridSample"]
    assert len({tuple(n.inputs) for n in samplers}) == len(samplers) == 3


def test_flows_that_serve_finer_ones_alone_are_refused() -> None:
    result = ReuseCoarseFlow().run(FlowPyramid().model())
    assert not result.applied.changed
    (site,) = result.applied.refused
    assert "its coarser flows serve the finer ones alone: truncate-flow-levels" in site.detail


@pytest.mark.parametrize("spelling", OFFSET_SPELLINGS.values(), ids=OFFSET_SPELLINGS)
def test_offsets(spelling: OffsetPyramid) -> None:
    result = ReuseCoarseFlow().run(spelling.model())
    expected = replace(spelling, own=1).model()
    frames = clip(3)
    for a, b in zip(run(result.model, frames)[0], run(expected, frames)[0], strict=True):
        # Multiplied by 2 before or after the interpolation: powers of two round nothing.
        np.testing.assert_array_equal(a, b)
    kept, expected_ops = (
        [n.op_type for n in m.graphs["step"].graph].count("Conv") for m in (result.model, expected)
    )
    assert kept == expected_ops, "what only finer offsets were made of is gone"
    assert len(result.applied.rewritten) == spelling.levels - 1
    assert not ReuseCoarseFlow().run(result.model).applied.changed


def test_offsets_of_another_kind_are_left() -> None:
    """A cascade's offsets come from aligned features, not from coarser guides."""
    model = OffsetPyramid(levels=1, own=1).model()
    result = ReuseCoarseFlow().run(model)
    assert result.model is model
    assert result.applied.refused == ()
