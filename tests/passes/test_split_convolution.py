"""A convolution that is split along its channels becomes a convolution for each part."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from superlower.passes.split_convolution import SplitConvolution
from support.graphs import GraphBuilder, Outcome, outcome

EPS = 2.0**-24
RNG = np.random.default_rng(0)
PRODUCTS = 3 * 9


def split_convolution(
    g: GraphBuilder, *sizes: int, axis: int = 1, bias: bool = True, **attributes: Any
) -> tuple[ir.Value, ...]:
    """x [1, 3, 5, 5] convolved 3x3 to as many channels as the sizes have, and split into them."""
    x = g.input("x", 1, 3, 5, 5)
    per_group = 3 // attributes.get("group", 1)
    weight = g.const(np.clip(RNG.standard_normal((sum(sizes), per_group, 3, 3)), -4, 4))
    biases = [g.const(RNG.standard_normal(sum(sizes)))] if bias else []
    convolved = g.Conv(x, weight, *biases, pads=[1] * 4, **attributes)
    parts: tuple[ir.Value, ...] = g.Split(convolved, g.ints(*sizes), axis=axis, outputs=len(sizes))
    return parts


def within_rounding(result: Outcome) -> bool:
    """Either form sums 27 products of at most 8 x 4 and a bias, each rounding one of that sum."""
    return result.moved() <= 2 * (PRODUCTS + 1) * EPS * (PRODUCTS + 1) * 8 * 4


@pytest.mark.parametrize("sizes", [(4, 2), (1, 2, 3)])
@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("constants_as_nodes", [True, False])
def test_each_part_has_its_own(
    sizes: tuple[int, ...], axis: int, bias: bool, constants_as_nodes: bool
) -> None:
    g = GraphBuilder(constants_as_nodes)
    parts = split_convolution(g, *sizes, axis=axis, bias=bias)
    result = outcome(g.model(*(g.Relu(part) for part in parts)), SplitConvolution())
    assert result.ops == {"Conv": len(sizes), "Relu": len(sizes)}
    weights = [node.inputs[1] for node in result.model.graph if node.op_type == "Conv"]
    assert [w.shape[0] for w in weights if w is not None and w.shape is not None] == list(sizes)
    assert within_rounding(result)
    (site,) = result.applied.rewritten
    assert site.node.startswith("Conv_")
    assert " and ".join(map(str, sizes)) in site.detail


def test_graph_outputs_keep_their_names() -> None:
    g = GraphBuilder()
    result = outcome(g.model(*split_convolution(g, 2, 2)), SplitConvolution())
    assert [v.name for v in result.model.graph.outputs] == ["out0", "out1"]
    assert result.ops == {"Conv": 2}
    assert within_rounding(result)


def test_convolutions_share_the_parts_of_shared_weights() -> None:
    g = GraphBuilder()
    weight, bias = g.const(RNG.standard_normal((4, 3, 3, 3))), g.const(RNG.standard_normal(4))
    parts = []
    for name in ("x", "y"):
        convolved = g.Conv(g.input(name, 1, 3, 5, 5), weight, bias)
        parts += g.Split(convolved, g.ints(3, 1), axis=1, outputs=2)
    result = outcome(g.model(*parts), SplitConvolution())
    assert result.ops == {"Conv": 4}
    assert len(result.applied.rewritten) == 2
    assert len(result.model.graph.initializers) == 4
    assert within_rounding(result)


def test_a_second_run_changes_nothing() -> None:
    g = GraphBuilder()
    result = outcome(g.model(*split_convolution(g, 2, 2)), SplitConvolution())
    assert not SplitConvolution().run(result.model).changed


def test_groups_are_refused() -> None:
    g = GraphBuilder()
    result = outcome(g.model(*split_convolution(g, 3, 3, group=3)), SplitConvolution())
    assert not result.applied.changed
    (site,) = result.applied.refused
    assert "groups" in site.detail


def test_weights_that_are_computed_are_refused() -> None:
    g = GraphBuilder()
    weight = g.input("w", 4, 3, 3, 3)
    parts = g.Split(g.Conv(g.input("x", 1, 3, 5, 5), weight), g.ints(2, 2), axis=1, outputs=2)
    result = outcome(g.model(*parts), SplitConvolution())
    assert [site.detail for site in result.applied.refused] == ["its weights aren't constant"]


def test_a_split_of_rows_is_left_alone() -> None:
    g = GraphBuilder()
    convolved = g.Conv(g.input("x", 1, 3, 4, 4), g.const(np.ones((2, 3, 1, 1))))
    result = outcome(g.model(*g.Split(convolved, g.ints(2, 2), axis=2, outputs=2)), SplitConvolution())
    assert result.applied == type(result.applied)()


@pytest.mark.parametrize("how", ["reader", "output"])
def test_a_convolution_that_others_read_is_left_alone(how: str) -> None:
    g = GraphBuilder()
    parts = split_convolution(g, 2, 2)
    whole = g.nodes[-1].inputs[0]
    assert whole is not None
    result = outcome(g.model(*parts, whole if how == "output" else g.Relu(whole)), SplitConvolution())
    assert result.ops["Split"] == 1
    assert result.applied == type(result.applied)()
