"""Arithmetic with constants becomes one Mul and one Add, rounded no worse than before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.ir import constant_value
from superlower.passes.canonicalize_affine import CanonicalizeAffine
from superlower.passes.fold_constants import FoldConstants
from support.graphs import GraphBuilder, outcome

EPS = 2.0**-24


@pytest.mark.parametrize("nodes", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_imagenet_normalisation(nodes: bool, flat: bool) -> None:
    g = GraphBuilder(constants_as_nodes=nodes)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    shape = (3, 1, 1) if flat else (1, 3, 1, 1)
    x = g.input("x", 1, 3, 8, 8)
    model = g.model(g.Div(g.Sub(x, g.const(mean.reshape(shape))), g.const(std.reshape(shape))))
    result = outcome(model, FoldConstants(), CanonicalizeAffine())
    assert result.ops == {"Mul": 1, "Add": 1}
    # Each form rounds three times at the magnitude of its largest term.
    largest = float(np.abs(result.before["out0"]).max()) + 2.2
    assert 0 < result.moved() <= 2 * 3 * EPS * largest
    scale, offset = (np.asarray(constant_value(v)) for v in result.model.graph.initializers.values())
    assert np.array_equal(scale.reshape(-1), (1 / std.astype(np.float64)).astype(np.float32))
    exact = -mean.astype(np.float64) / std.astype(np.float64)
    assert np.array_equal(offset.reshape(-1), exact.astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    chain=st.lists(
        st.tuples(
            st.sampled_from(["Add", "Sub", "Mul", "Div", "Neg", "rSub", "rAdd", "rMul"]),
            st.floats(0.25, 4, width=32),
        ),
        min_size=1,
        max_size=6,
    ),
    shape=st.sampled_from([(), (1,), (1, 1, 1, 1)]),
)
def test_any_chain(chain: list[tuple[str, float]], shape: tuple[int, ...]) -> None:
    g = GraphBuilder(scalar_shape=shape)
    value = g.input("x", 1, 2, 3, 4)
    magnitude = largest = 10.0
    for op, by in chain:
        operands = (value,) if op == "Neg" else (value, g.const(by))
        value = getattr(g, op.removeprefix("r"))(*(operands[::-1] if op[0] == "r" else operands))
        magnitude = magnitude * max(by, 1 / by) + by
        largest = max(largest, magnitude)
    result = outcome(g.model(value), CanonicalizeAffine())
    assert set(result.ops) <= {"Mul", "Add", "Identity"}
    assert sum(result.ops.values()) <= 2
    # Every step rounds once at no more than the largest magnitude, and later steps scale that by 4 at most.
    assert result.moved() <= 2 * (len(chain) + 2) * EPS * largest * 4 ** len(chain)


def test_a_value_used_twice_ends_the_chain() -> None:
    g = GraphBuilder()
    x = g.input("x", 2, 3)
    middle = g.Mul(x, g.const(3))
    model = g.model(g.Mul(g.Mul(middle, g.const(5)), g.const(0.5)), g.Relu(middle))
    result = outcome(model, CanonicalizeAffine())
    assert result.ops == {"Mul": 2, "Relu": 1}


def test_an_output_in_the_middle_is_kept() -> None:
    g = GraphBuilder()
    middle = g.Sub(g.input("x", 2, 3), g.const(3))
    result = outcome(g.model(g.Add(middle, g.const(5)), middle), CanonicalizeAffine())
    assert result.ops == {"Add": 2}


def test_neutral_arithmetic_goes() -> None:
    g = GraphBuilder()
    x = g.input("x", 2, 3)
    out = g.Relu(g.Add(g.Mul(x, g.const(1)), g.const(np.zeros((2, 1)))))
    result = outcome(g.model(out), CanonicalizeAffine())
    assert result.ops == {"Relu": 1}
    assert result.moved() == 0


@pytest.mark.parametrize("dtype", [ir.DataType.INT64, ir.DataType.FLOAT16])
def test_other_types_are_left(dtype: ir.DataType) -> None:
    """Integer division isn't multiplication, and fp16 would round elsewhere."""
    g = GraphBuilder()
    x = g.input("x", 4, dtype=dtype)
    model = g.model(g.Div(g.Sub(x, g.const([1], dtype.numpy().type)), g.const([2], dtype.numpy().type)))
    assert not outcome(model, CanonicalizeAffine()).applied.changed


def test_constants_that_widen_are_left() -> None:
    g = GraphBuilder()
    result = outcome(g.model(g.Sub(g.input("x", 1, 3), g.const(np.ones((4, 3))))), CanonicalizeAffine())
    assert result.ops == {"Sub": 1}


def test_division_by_zero_is_refused() -> None:
    g = GraphBuilder()
    model = g.model(g.Div(g.input("x", 2), g.const([0.0, 1.0])))
    (site,) = CanonicalizeAffine().run(model).refused
    assert site.detail == "its constants aren't finite"


def test_sums_of_two_values_are_left() -> None:
    g = GraphBuilder()
    result = outcome(g.model(g.Sub(g.input("x", 2), g.input("y", 2))), CanonicalizeAffine())
    assert not result.applied.changed
    assert not result.applied.refused
