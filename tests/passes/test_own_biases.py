"""Convolutions that share a bias get one each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.ir import constant_value
from superlower.passes.own_biases import OwnBiases
from support.graphs import GraphBuilder, outcome

RNG = np.random.default_rng(0)
FRAMES = 3


def window(constants_as_nodes: bool = False, op: str = "Conv") -> ir.Model:
    """One convolution and activation on each of three frames."""
    g = GraphBuilder(constants_as_nodes)
    weight, bias = g.const(RNG.standard_normal((4, 4, 3, 3)) / 6), g.const(RNG.standard_normal(4))
    frames = [g.input(f"x{i}", 1, 4, 8, 8) for i in range(FRAMES)]
    return g.model(*(g.Relu(getattr(g, op)(x, weight, bias, pads=[1] * 4)) for x in frames))


def biases(model: ir.Model) -> list[ir.Value]:
    convolutions = (node for node in model.graph if node.op_type.startswith("Conv"))
    return [bias for node in convolutions if (bias := node.inputs[2]) is not None]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("constants_as_nodes", [True, False])
def test_each_convolution_has_its_own(op: str, constants_as_nodes: bool) -> None:
    result = outcome(window(constants_as_nodes, op), OwnBiases())
    found = biases(result.model)
    assert len({bias.name for bias in found}) == FRAMES
    assert len({np.asarray(constant_value(bias)).tobytes() for bias in found}) == 1
    weights = {node.inputs[1] for node in result.model.graph if node.op_type == op}
    assert len(weights) == 1, "weights stay shared"
    assert result.moved() == 0
    assert len(result.applied.rewritten) == FRAMES - 1
    assert not OwnBiases().run(result.model).changed


def test_one_that_another_node_reads_is_copied() -> None:
    g = GraphBuilder()
    bias = g.const(RNG.standard_normal(4))
    x = g.input("x", 1, 4, 8, 8)
    convolved = g.Conv(x, g.const(RNG.standard_normal((4, 4, 1, 1))), bias)
    result = outcome(g.model(g.Add(convolved, g.Reshape(bias, g.ints(1, 4, 1, 1)))), OwnBiases())
    assert len(result.applied.rewritten) == 1
    assert len(biases(result.model)[0].uses()) == 1
    assert result.moved() == 0


@pytest.mark.parametrize("bias", ["none", "an input", "its own"])
def test_left_alone(bias: str) -> None:
    g = GraphBuilder()
    frames = [g.input(f"x{i}", 1, 4, 8, 8) for i in range(2)]
    weight = g.const(RNG.standard_normal((4, 4, 3, 3)))
    given = g.input("bias", 4) if bias == "an input" else None
    own = [g.const(RNG.standard_normal(4)) if bias == "its own" else given for _ in frames]
    pairs = zip(frames, own, strict=True)
    convolved = (g.Conv(x, weight, b) if b is not None else g.Conv(x, weight) for x, b in pairs)
    assert not OwnBiases().run(g.model(*convolved)).changed
