"""Pixel shuffles behind activations and in DCR order: the same numbers, moved once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.passes.reorder_depth_to_space import ReorderDepthToSpace
from support.graphs import GraphBuilder, outcome

RNG = np.random.default_rng(0)


def shuffled(
    g: GraphBuilder, channels: int = 3, *, groups: int = 1, mode: str = "CRD", bias: bool = True
) -> ir.Value:
    """A convolution and a pixel shuffle by two, of an input of its own."""
    x = g.input("x", 1, 4 * groups, 5, 6)
    operands = [g.const(RNG.standard_normal((4 * channels, 4, 3, 3)))]
    operands += [g.const(RNG.standard_normal(4 * channels))] if bias else []
    return g.DepthToSpace(g.Conv(x, *operands, pads=[1] * 4, group=groups), blocksize=2, mode=mode)


def order(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


@pytest.mark.parametrize("constants_as_nodes", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_activation_and_channels(bias: bool, constants_as_nodes: bool) -> None:
    g = GraphBuilder(constants_as_nodes)
    result = outcome(g.model(g.LeakyRelu(shuffled(g, bias=bias), alpha=0.2)), ReorderDepthToSpace())
    assert order(result.model) == ["Conv", "LeakyRelu", "DepthToSpace"]
    (shuffle,) = [node for node in result.model.graph if node.op_type == "DepthToSpace"]
    assert shuffle.attributes.get_string("mode") == "DCR"
    assert result.moved() == 0


def test_a_shuffle_without_a_convolution_lets_the_activation_pass() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 8, 3, 3)
    result = outcome(g.model(g.Relu(g.DepthToSpace(x, blocksize=2, mode="CRD"))), ReorderDepthToSpace())
    assert order(result.model) == ["Relu", "DepthToSpace"]
    assert result.moved() == 0


def test_dcr_is_dcr_already() -> None:
    g = GraphBuilder()
    assert not outcome(g.model(shuffled(g, mode="DCR")), ReorderDepthToSpace()).applied.changed


def test_grouped_convolutions_keep_their_order() -> None:
    g = GraphBuilder()
    assert not outcome(g.model(shuffled(g, 4, groups=2)), ReorderDepthToSpace()).applied.changed


def test_a_shuffle_read_twice_stays() -> None:
    g = GraphBuilder()
    made = shuffled(g)
    result = outcome(g.model(g.LeakyRelu(made), g.Neg(made)), ReorderDepthToSpace())
    assert order(result.model)[:2] == ["Conv", "DepthToSpace"]
    assert result.moved() == 0


def test_a_convolution_read_twice_stays() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 4, 5, 6)
    made = g.Conv(x, g.const(RNG.standard_normal((12, 4, 3, 3))), pads=[1] * 4)
    result = outcome(
        g.model(g.DepthToSpace(made, blocksize=2, mode="CRD"), g.Neg(made)), ReorderDepthToSpace()
    )
    assert not result.applied.changed
