"""Exporter residue goes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from superlower.ir import constant_value
from superlower.passes.simplify_exporter_residue import SimplifyExporterResidue
from support.graphs import GraphBuilder, outcome


@pytest.mark.parametrize("scatter", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("unsqueeze", [True, False])
@pytest.mark.parametrize("nodes", [True, False])
def test_channels_scaled_in_place_are_one_mul(scatter: str, unsqueeze: bool, nodes: bool) -> None:
    g = GraphBuilder(constants_as_nodes=nodes)
    x = g.input("x", 2, 2, 4, 5)
    factors = (0.9166667, 1.1)
    current = x
    for i, k in enumerate(factors):
        part = g.Gather(current, g.const(i if unsqueeze else [i], np.int64), axis=1)
        part = g.Mul(part, g.const(k))
        if scatter == "ScatterElements":
            part = g.Unsqueeze(part, g.ints(1)) if unsqueeze else part
            place = g.const(np.full((2, 1, 4, 5), i), np.int64)
            current = g.ScatterElements(current, place, part, axis=1)
        else:
            part = part if unsqueeze else g.Squeeze(part, g.ints(1))
            current = g.ScatterND(current, g.const([[0, i], [1, i]], np.int64), part)
    result = outcome(g.model(current), SimplifyExporterResidue())
    assert result.ops == {"Mul": 1}
    assert result.moved() == 0
    (factor,) = result.model.graph.initializers.values()
    assert np.array_equal(np.asarray(constant_value(factor)).reshape(-1), np.float32(factors))
    assert list(factor.shape or ()) == [1, 2, 1, 1]


def test_channels_apart_and_together_again_are_nothing() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 4, 4)
    parts = g.Split(x, g.ints(1, 2), axis=1, outputs=2)
    result = outcome(g.model(g.Relu(g.Concat(*parts, axis=1))), SimplifyExporterResidue())
    assert result.ops == {"Relu": 1}
    assert result.moved() == 0


def test_channels_swapped_are_left() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 4)
    swapped = g.Concat(*(g.Gather(x, g.ints(i), axis=1) for i in (1, 0)), axis=1)
    result = outcome(g.model(swapped), SimplifyExporterResidue())
    assert result.ops == {"Slice": 2, "Concat": 1}
    assert result.moved() == 0


def test_shifted_and_scaled_channels() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 4)
    first, second = (g.Slice(x, g.ints(i), g.ints(i + 1), g.ints(1)) for i in (0, 1))
    out = g.Concat(g.Add(first, g.const(0.3)), g.Mul(g.const(1.7), second), axis=1)
    result = outcome(g.model(out), SimplifyExporterResidue())
    assert result.ops == {"Mul": 1, "Add": 1}
    assert result.moved() == 0


def test_inexact_rewrites_are_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 4)
    first, second = (g.Slice(x, g.ints(i), g.ints(i + 1), g.ints(1)) for i in (0, 1))
    out = g.Concat(g.Div(first, g.const(3)), second, axis=1)
    result = outcome(g.model(out), SimplifyExporterResidue())
    assert not result.applied.changed
    assert "rounded more than once" in result.applied.refused[0].detail


def test_a_channel_overwritten_by_a_constant_is_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 2, 2)
    zero, place = g.const(np.zeros((1, 1, 2, 2))), g.const(np.zeros((1, 1, 2, 2)), np.int64)
    result = outcome(g.model(g.ScatterElements(x, place, zero, axis=1)), SimplifyExporterResidue())
    assert result.ops == {"ScatterElements": 1}
    assert "overwritten" in result.applied.refused[0].detail


def test_scatter_that_adds_is_left() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 2, 2)
    place, part = g.const(np.zeros((1, 1, 2, 2)), np.int64), g.Slice(x, g.ints(0), g.ints(1), g.ints(1))
    out = g.ScatterElements(x, place, part, axis=1, reduction="add")
    result = outcome(g.model(out), SimplifyExporterResidue())
    assert result.ops == {"Slice": 1, "ScatterElements": 1}


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([1, 2], {"Slice": 1}),
        ([-2, -1], {"Slice": 1}),
        ([2], {"Slice": 1}),
        (1, {"Slice": 1, "Squeeze": 1}),
        (-1, {"Slice": 1, "Squeeze": 1}),
        ([0, 2], {"Gather": 1}),
        ([2, 1], {"Gather": 1}),
    ],
)
def test_gather_of_a_run_is_a_slice(indices: object, expected: dict[str, int]) -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 4, 4)
    result = outcome(g.model(g.Gather(x, g.const(indices, np.int64), axis=1)), SimplifyExporterResidue())
    assert result.ops == expected
    assert result.moved() == 0


NOTHING = {
    "cast": lambda g, x: g.Cast(x, to=1),
    "reshape": lambda g, x: g.Reshape(x, g.ints(1, -1, 4, 6)),
    "expand": lambda g, x: g.Expand(x, g.ints(1, 1, 6)),
    "transpose": lambda g, x: g.Transpose(x, perm=[0, 1, 2, 3]),
    "slice": lambda g, x: g.Slice(x, g.ints(0), g.ints(1 << 40), g.ints(2)),
    "pad": lambda g, x: g.Pad(x, g.ints(*[0] * 8)),
    "concat": lambda g, x: g.Concat(x, axis=1),
    "resize": lambda g, x: g.Resize(x, None, None, g.ints(1, 2, 4, 6), mode="linear"),
    "resize-cubic": lambda g, x: g.Resize(x, None, g.const([1, 1, 1, 1]), mode="cubic"),
}


@pytest.mark.parametrize("make", NOTHING.values(), ids=NOTHING)
def test_what_changes_nothing_goes(make) -> None:  # type: ignore[no-untyped-def]
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 6)
    result = outcome(g.model(g.Relu(make(g, x))), SimplifyExporterResidue())
    assert result.ops == {"Relu": 1}
    assert result.moved() == 0


SOMETHING = {
    "cast": lambda g, x: g.Cast(g.Cast(x, to=10), to=1),
    "reshape": lambda g, x: g.Reshape(x, g.ints(1, 2, 6, 4)),
    "flip": lambda g, x: g.Slice(x, g.ints(-1), g.ints(-(1 << 40)), g.ints(3), g.ints(-1)),
    "scales": lambda g, x: g.Resize(x, None, g.const([1, 1, 1.1, 1.1]), mode="linear"),
}


@pytest.mark.parametrize("make", SOMETHING.values(), ids=SOMETHING)
def test_what_changes_something_stays(make) -> None:  # type: ignore[no-untyped-def]
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 6)
    result = outcome(g.model(make(g, x)), SimplifyExporterResidue())
    assert not result.applied.changed
    assert result.moved() == 0


@pytest.mark.parametrize(
    ("mode", "scale", "rewritten"),
    [
        ("half_pixel", 1.5, True),
        ("half_pixel", 1.4, False),
        ("align_corners", 1.4, True),
        ("half_pixel", 2.0, None),
    ],
)
def test_fractional_scales_become_sizes_where_that_is_exact(
    mode: str, scale: float, rewritten: bool | None
) -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 6, 8)
    resized = g.Resize(
        x, None, g.const([1, 1, scale, scale]), mode="linear", coordinate_transformation_mode=mode
    )
    result = outcome(g.model(resized), SimplifyExporterResidue())
    assert result.moved() == 0
    (node,) = result.model.graph
    assert (len(node.inputs) == 4) is bool(rewritten)
    assert bool(result.applied.refused) is (rewritten is False)


def test_an_output_that_is_an_input_keeps_both_names() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 6)
    result = outcome(g.model(g.Reshape(x, g.ints(1, 2, 4, 6))), SimplifyExporterResidue())
    assert result.ops == {"Identity": 1}
    assert result.moved() == 0
