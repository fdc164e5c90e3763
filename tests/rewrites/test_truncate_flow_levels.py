"""The finest levels of flow pyramids left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superlower.errors import BadInputError
from superlower.program import files
from superlower.rewrites.reuse_coarse_flow import ReuseCoarseFlow
from superlower.rewrites.truncate_flow_levels import TruncateFlowLevels
from support.pyramids import FLOW_SPELLINGS, FlowPyramid
from support.windows import clip, run


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("spelling", FLOW_SPELLINGS.values(), ids=FLOW_SPELLINGS)
def test_what_is_left_is_the_network_without_its_finest_levels(spelling: FlowPyramid, levels: int) -> None:
    result = TruncateFlowLevels(levels=levels).run(spelling.model())
    expected = replace(spelling, estimated=3 - levels).model()
    frames = clip(3)
    # The same operators on the same values, in the same order: equal element by element.
    for a, b in zip(run(result.model, frames)[0], run(expected, frames)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    kinds = [[n.op_type for n in m.graphs["step"].graph] for m in (result.model, expected)]
    assert [k.count("Conv") for k in kinds] == [3 - levels] * 2
    assert kinds[0].count("GridSample") == 1 + (2 - levels), "what moved frames for the estimates is gone"
    assert len(result.applied.rewritten) == levels
    assert result.applied.refused == ()


def test_sites_name_graph_node_and_size() -> None:
    (site,) = TruncateFlowLevels().run(FlowPyramid().model()).applied.rewritten
    assert site.node.startswith("step/Add_")
    assert site.detail == "no estimate at 8x8: the coarser flow, 2 times as large"


def test_the_model_given_is_left_as_it_is() -> None:
    model = FlowPyramid().model()
    before = len(list(model.graphs["step"].graph))
    TruncateFlowLevels().run(model)
    assert len(list(model.graphs["step"].graph)) == before


@pytest.mark.parametrize("spelling", FLOW_SPELLINGS.values(), ids=FLOW_SPELLINGS)
def test_run_again_it_changes_nothing(spelling: FlowPyramid, tmp_path: Path) -> None:
    once = TruncateFlowLevels().run(spelling.model())
    files.save_model(once.model, tmp_path / "once")
    for model in (once.model, files.load_model(tmp_path / "once")):
        again = TruncateFlowLevels().run(model)
        assert again.model is model
        assert again.applied.rewritten == again.applied.refused == ()


def test_what_was_left_out_counts_among_the_levels() -> None:
    once = TruncateFlowLevels().run(FlowPyramid().model()).model
    one_more = TruncateFlowLevels(levels=2).run(once)
    assert len(one_more.applied.rewritten) == 1
    at_once = TruncateFlowLevels(levels=2).run(FlowPyramid().model())
    frames = clip(2)
    for a, b in zip(run(one_more.model, frames)[0], run(at_once.model, frames)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not TruncateFlowLevels(levels=2).run(one_more.model).applied.changed
    (refused,) = TruncateFlowLevels(levels=3).run(once).applied.refused
    assert refused.detail == "levels=3: it has 2"


@pytest.mark.parametrize(
    ("pyramid", "levels", "reason"),
    [
        (FlowPyramid(), 3, "levels=3: it has 2"),
        (FlowPyramid(independent=True), 1, "isn't estimated from the flow"),
        (FlowPyramid(activated=True), 1, "is no convolution's"),
    ],
    ids=["too-many-levels", "independent", "activated"],
)
def test_refused(pyramid: FlowPyramid, levels: int, reason: str) -> None:
    model = pyramid.model()
    result = TruncateFlowLevels(levels=levels).run(model)
    assert result.model is model
    assert not result.applied.changed
    assert reason in result.applied.refused[-1].detail


@pytest.mark.parametrize("factor", [1, 1.5, 4])
def test_a_flow_that_keeps_its_scale_is_another_thing(factor: float) -> None:
    """Enlarged twice and multiplied by something else than 2, it is no flow in pixels."""
    result = TruncateFlowLevels().run(FlowPyramid(factor=factor).model())
    assert result.applied.rewritten == result.applied.refused == ()


def test_flows_of_many_scales_are_truncated_too() -> None:
    spelling = FlowPyramid(multiscale=True)
    result = TruncateFlowLevels(levels=2).run(spelling.model())
    reused = ReuseCoarseFlow().run(spelling.model())
    frames = clip(2)
    for a, b in zip(run(result.model, frames)[0], run(reused.model, frames)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_options() -> None:
    with pytest.raises(BadInputError, match="levels=0: write how many"):
        TruncateFlowLevels(levels=0)
    with pytest.raises(BadInputError, match=r"budget_db=-0\.1: write a loss in dB"):
        TruncateFlowLevels(budget_db=-0.1)
    with pytest.raises(BadInputError, match="budget_db=nan"):
        TruncateFlowLevels(budget_db=float("nan"))
    assert TruncateFlowLevels(budget_db=0.5).budget.db == 0.5
    assert TruncateFlowLevels().options() == {"levels": 1, "budget_db": 0.1}
