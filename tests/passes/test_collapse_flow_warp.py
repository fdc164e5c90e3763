"""Every spelling of a flow warp becomes Transpose, Mul, Add, GridSample, and samples where it did."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.ir import constant_value
from superlower.passes.base import Site
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.pipelines import count
from superlower.passes.simplify_exporter_residue import SimplifyExporterResidue
from support.graphs import SPELLINGS, GraphBuilder, Outcome, Spelling, outcome

WARP = {"Transpose": 1, "Mul": 1, "Add": 1, "GridSample": 1}


def tolerance(spelling: Spelling, result: Outcome) -> float:
    """Old and new coordinates are each within 4 roundings (2^-24) of magnitude max(2, |p|) of the true ones;
    p reaches 1 + 8 pixels of flow over the smaller side; one pixel moves a sample by twice the range."""
    longest, shortest = max(spelling.height, spelling.width), max(min(spelling.height, spelling.width) - 1, 1)
    magnitude = 2 + 2 * 10 / shortest
    values = max(float(np.abs(a).max()) for a in result.before.values())
    return 8 * 2.0**-24 * magnitude * longest / 2 * 2 * max(values, 10.0)


def collapse(spelling: Spelling) -> Outcome:
    return outcome(spelling.model(), FoldConstants(), CollapseFlowWarp())


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_one_form(spelling: Spelling) -> None:
    result = collapse(spelling)
    if spelling.used_elsewhere:
        kept = {"GridSample": 1, "Relu": 2, "Add": 2, "Mul": 2, "Gather": 1, "Div": 1, "Sub": 1}
        assert {k: v for k, v in result.ops.items() if k != "Transpose"} == kept
    else:
        assert result.ops == WARP
    assert result.moved() <= tolerance(spelling, result)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_after_the_residue_pass_too(spelling: Spelling) -> None:
    result = outcome(spelling.model(), FoldConstants(), SimplifyExporterResidue(), CollapseFlowWarp())
    assert result.ops == WARP or spelling.used_elsewhere
    assert result.moved() <= tolerance(spelling, result)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    aligned=st.booleans(),
    padding=st.sampled_from(["zeros", "border"]),
    swapped=st.booleans(),
    constants_as_nodes=st.booleans(),
    scalar_shape=st.sampled_from([(), (1,), (1, 1, 1)]),
    reciprocal=st.booleans(),
    channels_first=st.booleans(),
)
def test_any_combination(**choices: object) -> None:
    spelling = Spelling(**choices)  # type: ignore[arg-type]
    result = collapse(spelling)
    assert result.ops.keys() <= WARP.keys()
    assert all(n == 1 for n in result.ops.values())
    assert result.moved() <= tolerance(spelling, result)


def test_constants_are_small_and_right() -> None:
    spelling = Spelling(height=5, width=9)
    result = collapse(spelling)
    scale, base = (
        next(a for v in n.inputs if (a := constant_value(v)) is not None)
        for op in ("Mul", "Add")
        for n in result.model.graph
        if n.op_type == op
    )
    assert scale.shape == (1, 1, 1, 2)
    assert np.array_equal(scale.reshape(-1), np.float32([2 / 8, 2 / 4]))
    rows, columns = np.mgrid[0:5, 0:9]
    expected = np.stack([columns / 4 - 1, rows / 2 - 1], axis=-1)[None].astype(np.float32)
    assert np.array_equal(base, expected)


def test_says_which_flow() -> None:
    model = Spelling().model()
    FoldConstants().run(model)
    (site,) = CollapseFlowWarp().run(model).rewritten

    assert site.detail == "warp by flow"


def test_equal_base_grids_are_shared() -> None:
    g = GraphBuilder()
    x, flows = g.input("x", 1, 3, 4, 5), [g.input(f"flow{i}", 1, 2, 4, 5) for i in range(3)]
    outs = []
    for flow in flows:
        rows, columns = np.mgrid[0:4, 0:5]
        moved = g.Add(g.Transpose(flow, perm=[0, 2, 3, 1]), g.const(np.stack([columns, rows], -1)))
        grid = g.Sub(g.Div(g.Mul(moved, g.const(2)), g.const([4, 3])), g.const(1))
        outs.append(g.GridSample(x, grid, align_corners=1))
    result = outcome(g.model(*outs), FoldConstants(), CollapseFlowWarp())
    assert result.ops == dict.fromkeys(WARP, 3)
    assert len(result.model.graph.initializers) == 2


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (5, 6), (40, 64)])
def test_zero_flow_is_the_identity(height: int, width: int, aligned: bool) -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, height, width)
    steps = [np.linspace(-1, 1, n) if aligned else (2 * np.arange(n) + 1) / n - 1 for n in (width, height)]
    if aligned:
        steps = [s if s.size > 1 else np.array([-1.0]) for s in steps]
    grid = g.const(np.stack(np.meshgrid(*steps), axis=-1)[None])
    model = g.model(g.Relu(g.GridSample(x, grid, align_corners=int(aligned), padding_mode="border")))
    result = outcome(model, CollapseFlowWarp())
    assert result.ops == {"Relu": 1}
    # The removed sample's coordinates are within 2^-21 of the side's length in pixels of its own.
    assert result.moved() <= 2.0**-21 * max(height, width) * 2 * 10


def test_a_constant_shift_is_not_the_identity() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 4, 4)
    rows, columns = np.mgrid[0:4, 0:4]
    grid = g.const(np.stack([(columns + 0.01) * 2 / 3 - 1, rows * 2 / 3 - 1], -1)[None])
    result = outcome(g.model(g.GridSample(x, grid, align_corners=1)), CollapseFlowWarp())
    assert result.ops == {"GridSample": 1}
    assert not result.applied.changed


def refusal(model_outputs: GraphBuilder, *outputs: object) -> Site:
    result = outcome(model_outputs.model(*outputs), FoldConstants(), CollapseFlowWarp())  # type: ignore[arg-type]
    assert not result.applied.changed
    assert result.moved() == 0
    (site,) = result.applied.refused
    return site


def test_refuses_two_flows() -> None:
    g = GraphBuilder()
    x, a, b = g.input("x", 1, 3, 4, 5), g.input("a", 1, 1, 4, 5), g.input("b", 1, 1, 4, 5)
    columns, rows = (g.Mul(g.Transpose(v, perm=[0, 2, 3, 1]), g.const(0.5)) for v in (a, b))
    site = refusal(g, g.GridSample(x, g.Concat(columns, rows, axis=3)))
    assert site == Site("GridSample_5", "its grid (Concat 'Concat_4') is no affine function of one flow")


def test_a_flow_stacked_of_two_is_one_flow() -> None:
    g = GraphBuilder()
    x, a, b = g.input("x", 1, 3, 4, 5), g.input("a", 1, 1, 4, 5), g.input("b", 1, 1, 4, 5)
    last = g.Transpose(g.Concat(a, b, axis=1), perm=[0, 2, 3, 1])
    model = g.model(g.GridSample(x, g.Sub(g.Mul(last, g.const(0.25)), g.const(0.5))))
    assert outcome(model, FoldConstants(), CollapseFlowWarp()).ops == {"Concat": 1, **WARP}


def test_refuses_a_flow_that_is_squared() -> None:
    g = GraphBuilder()
    x, flow = g.input("x", 1, 3, 4, 5), g.input("flow", 1, 2, 4, 5)
    last = g.Transpose(flow, perm=[0, 2, 3, 1])
    assert "no affine function" in refusal(g, g.GridSample(x, g.Mul(last, last))).detail


def test_refuses_one_channel_used_twice() -> None:
    """Affine in elements of one flow, but not in each its own."""
    g = GraphBuilder()
    x, flow = g.input("x", 1, 3, 4, 4), g.input("flow", 1, 2, 4, 4)
    first = g.Slice(g.Transpose(flow, perm=[0, 2, 3, 1]), g.ints(0), g.ints(1), g.ints(3))
    assert "no affine function" in refusal(g, g.GridSample(x, g.Concat(first, first, axis=3))).detail


def test_a_flow_in_another_layout_is_a_flow() -> None:
    """What a foreign Transpose gives is a channels-last flow in its own right."""
    g = GraphBuilder()
    x, flow = g.input("x", 1, 3, 4, 4), g.input("flow", 1, 2, 4, 4)
    last = g.Transpose(flow, perm=[0, 3, 2, 1])
    grid = g.Sub(g.Mul(g.Mul(last, g.const(0.5)), g.const(0.5)), g.const(1))
    result = outcome(g.model(g.GridSample(x, grid)), FoldConstants(), CollapseFlowWarp())
    assert result.ops == WARP
    assert result.moved() == 0


def test_refuses_nearest() -> None:
    g = GraphBuilder()
    x, flow = g.input("x", 1, 3, 4, 5), g.input("flow", 1, 2, 4, 5)
    grid = g.Sub(g.Transpose(flow, perm=[0, 2, 3, 1]), g.const(1))
    assert "nearest" in refusal(g, g.GridSample(x, grid, mode="nearest")).detail


def test_a_grid_as_input_is_named() -> None:
    g = GraphBuilder()
    out = g.GridSample(g.input("x", 1, 3, 4, 5), g.input("grid", 1, 4, 5, 2))
    assert refusal(g, out).detail == "its grid (an input of the graph) is no affine function of one flow"


def test_scales_before_the_flow_stay_with_it() -> None:
    """SPyNet's flow is doubled, used by a convolution, and warps: the doubled value is the flow."""
    g = GraphBuilder()
    x, half = g.input("x", 1, 3, 4, 5), g.input("half", 1, 2, 4, 5)
    flow = g.Mul(half, g.const(2))
    rows, columns = np.mgrid[0:4, 0:5]
    moved = g.Add(g.Transpose(flow, perm=[0, 2, 3, 1]), g.const(np.stack([columns, rows], -1)[None]))
    grid = g.Sub(g.Div(g.Mul(moved, g.const(2)), g.const([4, 3])), g.const(1))
    model = g.model(g.GridSample(x, grid, align_corners=1), g.Relu(flow))
    result = outcome(model, FoldConstants(), CollapseFlowWarp())
    assert result.ops == {"Mul": 2, "Transpose": 1, "Add": 1, "GridSample": 1, "Relu": 1}
    scale = [constant_value(n.inputs[1]) for n in result.model.graph if n.op_type == "Mul"][1]
    assert scale is not None
    assert np.array_equal(scale.reshape(-1), np.float32([2 / 4, 2 / 3]))


def test_rectangular_output_of_another_size() -> None:
    g = GraphBuilder()
    x, flow = g.input("x", 1, 3, 8, 8), g.input("flow", 1, 2, 4, 5)
    grid = g.Sub(g.Transpose(flow, perm=[0, 2, 3, 1]), g.const([1, 0.5]))
    result = outcome(g.model(g.GridSample(x, grid)), FoldConstants(), CollapseFlowWarp())
    assert result.ops == {"Transpose": 1, "Add": 1, "GridSample": 1}
    assert result.moved() == 0


def test_double_precision_stays_double() -> None:
    """ONNX Runtime has no GridSample in fp64, so only the graph is looked at."""
    model = SPELLINGS["plain"].model(ir.DataType.DOUBLE)
    CollapseFlowWarp().run(model)
    assert count(model) == WARP
    assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.DOUBLE}


def test_half_precision_is_refused() -> None:
    model = SPELLINGS["plain"].model(ir.DataType.FLOAT16)
    (site,) = CollapseFlowWarp().run(model).refused
    assert "guard-grid-sample first" in site.detail
