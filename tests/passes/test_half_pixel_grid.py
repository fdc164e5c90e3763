"""GridSample without align_corners, against the operator's definition in float64."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.passes._evaluate import evaluate
from superlower.passes.half_pixel_grid import HalfPixelGrid
from superlower.probes.case import Case, widen
from superlower.probes.cases.grid_sample import cases
from support.graphs import GraphBuilder, outcome


def sampler(dtype: ir.DataType = ir.DataType.FLOAT, height: int = 5, **attributes: object) -> ir.Model:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, height, 7, dtype=dtype), g.input("grid", 1, 4, 6, 2, dtype=dtype)
    return g.model(g.GridSample(x, grid, **{"align_corners": 1, **attributes}))


CASES = {
    case.name: case
    for case in cases()
    if "corners" in case.name
    and "/fp32" in case.name
    and not any(word in case.name for word in ("reflection", "nearest", "volume"))
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_probe_is_passed(case: Case) -> None:
    """Bilinear and cubic, zeros and border, at all opsets and 3840 px wide, held to the probe's tolerance."""
    model = case.model()
    assert HalfPixelGrid().run(model).changed
    (node,) = (n for n in model.graph if n.op_type == "GridSample")
    assert node.attributes.get_int("align_corners") == 0
    feeds = case.feeds(np.random.default_rng(0))
    expected = case.reference({name: widen(array) for name, array in feeds.items()})["out0"]
    assert np.abs(evaluate(model, feeds)["out0"] - expected).max() <= case.tolerance.absolute


@pytest.mark.parametrize("height", [1, 5])
def test_one_product_more(height: int) -> None:
    result = outcome(sampler(height=height), HalfPixelGrid(), spread=0.8)
    assert result.ops == {"Mul": 1, "GridSample": 1}
    # Each position rounds at most 8 times at the magnitude of 3.2 sizes, and 1 px is twice the largest value.
    assert result.moved() <= 8 * 2.0**-24 * 3.2 * 7 * 2 * 3


def test_refusals() -> None:
    refused = {
        "reflection folds elsewhere without align_corners": sampler(padding_mode="reflection"),
        "mode nearest jumps where a coordinate is rounded differently": sampler(mode="nearest"),
        "its grid is FLOAT16: guard-grid-sample first": sampler(ir.DataType.FLOAT16),
    }
    for reason, model in refused.items():
        assert [site.detail for site in HalfPixelGrid().run(model).refused] == [reason]


def test_without_align_corners_there_is_nothing_to_do() -> None:
    applied = HalfPixelGrid().run(sampler(align_corners=0))
    assert applied.rewritten == applied.refused == ()
