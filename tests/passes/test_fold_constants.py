"""Folding: bit for bit what the graph would have computed, nothing dead left, claims truthful."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.ir import constant_value
from superlower.passes.base import Site
from superlower.passes.fold_constants import FoldConstants
from support.graphs import GraphBuilder, outcome


def test_a_computed_base_grid_becomes_one_initializer() -> None:
    g = GraphBuilder(constants_as_nodes=True)
    x = g.input("x", 1, 144, 176, 2)
    columns = g.Expand(g.Range(g.const(0), g.const(176), g.const(1)), g.ints(144, 176))
    rows = g.Expand(g.Unsqueeze(g.Range(g.const(0), g.const(144), g.const(1)), g.ints(1)), g.ints(144, 176))
    grid = g.Concat(g.Unsqueeze(columns, g.ints(2)), g.Unsqueeze(rows, g.ints(2)), axis=2)
    result = outcome(g.model(g.Add(x, grid)), FoldConstants())
    assert result.ops == {"Add": 1}
    assert result.moved() == 0
    (initializer,) = result.model.graph.initializers.values()
    y, x_ = np.mgrid[0:144, 0:176].astype(np.float32)
    assert np.array_equal(np.asarray(constant_value(initializer)), np.stack([x_, y], -1))


def test_shape_arithmetic_folds() -> None:
    g = GraphBuilder()
    x = g.input("x", 2, 3, 4, 5)
    height = g.Gather(g.Shape(x), g.const(2, np.int64))
    flat = g.Concat(g.ints(2), g.Unsqueeze(g.Mul(height, g.const(15, np.int64)), g.ints(0)), axis=0)
    result = outcome(g.model(g.Reshape(x, flat)), FoldConstants())
    assert result.ops == {"Reshape": 1}
    assert result.after["out0"].shape == (2, 60)


def test_shape_with_start_end_and_size() -> None:
    g = GraphBuilder()
    x = g.input("x", 2, 3, 4, 5)
    tail = g.Shape(x, start=-2, end=3)
    result = outcome(g.model(g.Add(g.Cast(tail, to=7), g.Size(x))), FoldConstants())
    assert result.ops == {"Constant": 1}
    assert result.after["out0"].tolist() == [124]


def test_a_cast_to_the_type_of_an_input() -> None:
    """What torch.onnx makes of Tensor.new_zeros when it doesn't optimise."""
    g = GraphBuilder(constants_as_nodes=True)
    x = g.input("x", 2, 3, dtype=ir.DataType.FLOAT16)
    zeros = g.Expand(g.CastLike(g.const(0.25), g.Slice(x, g.ints(0), g.ints(1), g.ints(0))), g.ints(2, 3))
    result = outcome(g.model(g.Add(x, zeros)), FoldConstants())
    assert result.ops == {"Add": 1}
    assert result.moved() == 0
    (initializer,) = result.model.graph.initializers.values()
    assert initializer.dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize("like", [False, True])
def test_bf16_stays_bf16(like: bool) -> None:
    """ONNX Runtime's CPU computes it in fp32; the graph's types must not follow."""
    g = GraphBuilder(constants_as_nodes=True)
    x = g.input("x", 2, dtype=ir.DataType.BFLOAT16)
    number = g.const([1.003, 7.0])
    model = g.model(g.Add(x, g.CastLike(number, x) if like else g.Cast(number, to=ir.DataType.BFLOAT16)))
    assert FoldConstants().run(model).changed
    assert [n.op_type for n in model.graph] == ["Add"]
    (initializer,) = model.graph.initializers.values()
    assert initializer.dtype == ir.DataType.BFLOAT16
    assert initializer.const_value is not None
    # Seven bits follow the point: steps of 1/128 above one.
    assert initializer.const_value.numpy().astype(np.float32).tolist() == [1.0, 7.0]


def test_a_cast_to_an_unknown_type_is_left() -> None:
    g = GraphBuilder()
    x = g.input("x", 1)
    cast = g.CastLike(g.const([0.25]), x)
    model = g.model(g.Add(x, cast))
    model.graph.inputs[0].type = None
    assert not FoldConstants().run(model).changed


def test_unknown_sizes_are_left() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3)
    x.shape = ir.Shape([1, "n"])
    model = g.model(g.Shape(x))
    assert not FoldConstants().run(model).changed
    assert [n.op_type for n in model.graph] == ["Shape"]


def test_a_constant_output_keeps_its_name() -> None:
    g = GraphBuilder()
    g.input("x", 1)
    result = outcome(g.model(g.Exp(g.const([1.0, 2.0]))), FoldConstants())
    assert result.ops == {"Constant": 1}
    assert result.moved() == 0


def test_random_numbers_and_quantised_weights_are_left() -> None:
    g = GraphBuilder()
    x = g.input("x", 2)
    weight = g.DequantizeLinear(g.const([3, 4], np.int8), g.const(0.5), g.const(0, np.int8))
    noise = g.RandomNormal(shape=[2], dtype=1, seed=1.0)
    model = g.model(g.Add(g.Add(x, weight), noise))
    assert not FoldConstants().run(model).changed
    assert [n.op_type for n in model.graph] == ["DequantizeLinear", "RandomNormal", "Add", "Add"]


def test_too_large_is_refused_with_the_size() -> None:
    g = GraphBuilder()
    x = g.input("x", 1)
    big = g.ConstantOfShape(g.ints(100, 100))
    result = outcome(g.model(g.Add(x, big)), FoldConstants(max_elements=9_999))
    assert result.applied.refused == (Site("ConstantOfShape_0", "10000 elements, over max_elements=9999"),)
    assert result.ops == {"ConstantOfShape": 1, "Add": 1}


def test_what_the_runtime_cannot_compute_is_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2)
    bad = g.Gather(g.const([1.0, 2.0]), g.ints(7))
    model = g.model(g.Add(x, bad))
    applied = FoldConstants().run(model)
    assert not applied.changed
    assert applied.refused[0].node == "Gather_0"
    assert "ONNX Runtime can't compute it" in applied.refused[0].detail


def test_equal_initializers_are_merged_and_dead_ones_dropped() -> None:
    g = GraphBuilder()
    x = g.input("x", 4)
    ones = [g.const([1, 2, 3, 4]) for _ in range(3)]
    g.const([9, 9])
    result = outcome(g.model(g.Mul(g.Add(g.Add(x, ones[0]), ones[1]), ones[2])), FoldConstants())
    assert len(result.model.graph.initializers) == 1
    assert result.ops == {"Add": 2, "Mul": 1}


def test_weights_stay_as_they_are() -> None:
    g = GraphBuilder()
    weight = g.const(np.random.default_rng(0).standard_normal((4, 3, 3, 3)))
    model = g.model(g.Conv(g.input("x", 1, 3, 8, 8), weight))
    applied = FoldConstants().run(model)
    assert not applied.changed
    assert [v.name for v in model.graph.initializers.values()] == ["c0"]


def test_only_the_frontier_is_kept() -> None:
    """Of a chain of constants the middle is neither reported nor stored."""
    g = GraphBuilder()
    x = g.input("x", 3)
    chain = g.Exp(g.Neg(g.Abs(g.const([1.0, 2.0, 3.0]))))
    model = g.model(g.Add(x, chain))
    applied = FoldConstants().run(model)
    assert applied.rewritten == (Site("Exp_2", "Exp is float32[3]"),)
    assert len(model.graph.initializers) == 1
