"""Border padding as a clamp and zeros, against the operator's definition in float64."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.passes._evaluate import evaluate
from superlower.passes.clamp_border import ClampBorder
from superlower.probes.case import Case, widen
from superlower.probes.cases.grid_sample import cases
from support.graphs import GraphBuilder, outcome


def sampler(dtype: ir.DataType = ir.DataType.FLOAT, **attributes: object) -> ir.Model:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 5, 7, dtype=dtype), g.input("grid", 1, 4, 6, 2, dtype=dtype)
    return g.model(g.GridSample(x, grid, **{"padding_mode": "border", **attributes}))


CASES = {
    case.name: case
    for case in cases()
    if "border" in case.name
    and "/fp32" in case.name
    and not any(word in case.name for word in ("cubic", "volume"))
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_probe_is_passed(case: Case) -> None:
    """All modes and alignments at all opsets, 3840 px wide too, held to the probe's own tolerance."""
    model = case.model()
    assert ClampBorder().run(model).changed
    (node,) = (n for n in model.graph if n.op_type == "GridSample")
    assert node.attributes.get_string("padding_mode") == "zeros"
    feeds = case.feeds(np.random.default_rng(0))
    expected = case.reference({name: widen(array) for name, array in feeds.items()})["out0"]
    assert np.abs(evaluate(model, feeds)["out0"] - expected).max() <= case.tolerance.absolute


def test_positions_are_exact_with_corners_aligned() -> None:
    result = outcome(sampler(align_corners=1), ClampBorder(), spread=1.5)
    # The border pixel counted once, or twice with weights that sum to 1: 4 roundings at its size.
    assert result.moved() <= 4 * 2.0**-24 * 1.5 * 4
    assert result.ops["Max"] == result.ops["Min"] == result.ops["GridSample"] == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (5, 48)])
@pytest.mark.parametrize("aligned", [0, 1])
def test_no_zeros_come_in_at_the_border(size: tuple[int, int], aligned: int) -> None:
    """An image of ones stays ones, to the last bit of a position: a clamp past the centre would show."""
    height, width = size
    g = GraphBuilder()
    x, grid = g.input("x", 1, 1, height, width), g.input("grid", 1, 9, 9, 2)
    model = g.model(g.GridSample(x, grid, padding_mode="border", align_corners=aligned))
    ClampBorder().run(model)
    lines = np.linspace(-2, 2, 9, dtype=np.float32)
    feeds = {
        "x": np.ones((1, 1, height, width), np.float32),
        "grid": np.stack(np.meshgrid(lines, lines), axis=-1)[None],
    }
    # A sampler's own 3 roundings of a position may still take it past the centre.
    assert np.abs(evaluate(model, feeds)["out0"] - 1).max() <= 2 * 3 * 2.0**-24 * max(size) + 2.0**-22


def test_other_paddings_are_left_alone() -> None:
    for padding in ("zeros", "reflection"):
        applied = ClampBorder().run(sampler(padding_mode=padding))
        assert not applied.rewritten
        assert not applied.refused


def test_refusals() -> None:
    cubic = ClampBorder().run(sampler(mode="bicubic"))
    assert "bicubic reads beyond the border" in cubic.refused[0].detail
    half = ClampBorder().run(sampler(ir.DataType.FLOAT16))
    assert half.refused[0].detail == "its grid is FLOAT16: guard-grid-sample first"
