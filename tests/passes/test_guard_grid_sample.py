"""GridSample's mode follows the opset, its coordinates stay fp32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.passes._evaluate import evaluate
from superlower.passes.base import EXACT
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.guard_grid_sample import GuardGridSample
from support.graphs import GraphBuilder, Spelling, feeds_of, outcome


def sampler(opset: int, **attributes: object) -> ir.Model:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 4, 4), g.input("grid", 1, 4, 4, 2)
    return g.model(g.Identity(g.GridSample(x, grid, **attributes)), opset=opset)


@pytest.mark.parametrize(
    ("opset", "written", "expected"),
    [
        (19, "linear", "bilinear"),
        (16, "cubic", "bicubic"),
        (20, "bilinear", "linear"),
        (20, "bicubic", "cubic"),
        (19, "bilinear", None),
        (22, "linear", None),
        (19, "nearest", None),
    ],
)
def test_mode_is_named_as_the_opset_does(opset: int, written: str, expected: str | None) -> None:
    model = sampler(opset, mode=written)
    applied = GuardGridSample().run(model)
    (mode,) = (n.attributes["mode"].value for n in model.graph if n.op_type == "GridSample")
    assert mode == (expected or written)
    assert applied.changed is (expected is not None)
    assert not GuardGridSample().run(model).changed


def test_half_precision_is_sampled_between_casts() -> None:
    model = Spelling().model(ir.DataType.FLOAT16)
    result = outcome(model, FoldConstants(), GuardGridSample(), spread=1.0)
    assert result.ops["Cast"] == 3
    (node,) = (n for n in result.model.graph if n.op_type == "GridSample")
    assert {v.dtype for v in node.inputs if v} == {ir.DataType.FLOAT}
    assert result.after["out0"].dtype == np.float16
    assert result.moved() == 0


@pytest.mark.parametrize("channels_first", [True, False])
def test_widened_coordinates_are_the_true_ones(channels_first: bool) -> None:
    """At width 160 an fp16 grid is off by up to 160 * 2^-12 * 4 pixels; made again in fp32 it is not."""
    spelling = Spelling(height=6, width=160, channels_first=channels_first)
    half = spelling.model(ir.DataType.FLOAT16)
    feeds = feeds_of(half, spread=1.5)
    true = evaluate(spelling.model(), {k: v.astype(np.float32) for k, v in feeds.items()})["out0"]
    coarse = np.abs(evaluate(half, feeds)["out0"] - true).max()
    FoldConstants().run(half)
    assert GuardGridSample(widen=True).run(half).changed
    found = np.abs(evaluate(half, feeds)["out0"].astype(np.float64) - true).max()
    # What is left: the result's own rounding to 11 bits, and coordinates within 2^-21 of the width.
    assert found <= 6 * 2.0**-11 + 2.0**-21 * 160 * 2 * 6
    assert coarse > 10 * found


def test_widening_has_its_own_budget() -> None:
    assert GuardGridSample().budget == EXACT
    assert GuardGridSample(widen=True).budget.relative > 0


def test_what_cannot_be_widened_is_refused_and_cast() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 4, 4, dtype=ir.DataType.FLOAT16)
    grid = g.input("grid", 1, 4, 4, 2, dtype=ir.DataType.FLOAT16)
    model = g.model(g.GridSample(x, g.Tanh(grid)))
    applied = GuardGridSample(widen=True).run(model)
    assert [s.detail for s in applied.refused] == ["its FLOAT16 grid is no affine function of one flow"]
    assert applied.changed
