"""Batch norms go into the convolutions beside them, or become one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.errors import BadInputError
from superlower.passes.fold_batch_norm import FoldBatchNorm
from support.graphs import GraphBuilder, Outcome, outcome

EPS = 2.0**-24
RNG = np.random.default_rng(0)


def norm(g: GraphBuilder, x: ir.Value, channels: int, *, shift: bool = True, **attributes: Any) -> ir.Value:
    """A batch norm with every constant in use; without `shift` it only scales."""
    rng = np.random.default_rng(channels)
    scale, variance = rng.uniform(0.5, 2, channels), rng.uniform(0.5, 2, channels)
    bias, mean = (rng.standard_normal(channels) * shift for _ in range(2))
    return g.BatchNormalization(x, *(g.const(a) for a in (scale, bias, mean, variance)), **attributes)


def bound(result: Outcome, products: int) -> float:
    """In either form a sum of `products` of at most 8 x 4 x 3, and then some arithmetic of that size."""
    return 2 * (products + 6) * EPS * (products + 2) * 8 * 4 * 3


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_after_a_convolution(data: st.DataObject) -> None:
    draw = data.draw
    op, groups = draw(st.sampled_from(["Conv", "ConvTranspose"])), draw(st.integers(1, 3))
    into, out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, rank = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    g = GraphBuilder(constants_as_nodes=draw(st.booleans()))
    x = g.input("x", 1, groups * into, *[4] * rank)
    sides = (groups * out, into) if op == "Conv" else (groups * into, out)
    weight = np.clip(RNG.standard_normal((*sides, *[kernel] * rank)), -4, 4)
    operands = [x, g.const(weight)] + (
        [g.const(RNG.standard_normal(groups * out))] if draw(st.booleans()) else []
    )
    convolved = getattr(g, op)(*operands, group=groups, pads=[kernel // 2] * 2 * rank)
    epsilon = draw(st.sampled_from([1e-5, 0.1]))
    result = outcome(g.model(norm(g, convolved, groups * out, epsilon=epsilon)), FoldBatchNorm())
    assert result.ops == {op: 1}
    assert result.moved() <= bound(result, into * kernel**rank)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_before_a_convolution_without_padding(groups: int, bias: bool) -> None:
    g = GraphBuilder()
    operands = [norm(g, g.input("x", 1, 4, 6, 6), 4), g.const(RNG.standard_normal((6, 4 // groups, 3, 3)))]
    operands += [g.const(RNG.standard_normal(6))] if bias else []
    result = outcome(g.model(g.Conv(*operands, group=groups)), FoldBatchNorm())
    assert result.ops == {"Conv": 1}
    assert result.moved() <= bound(result, 4 // groups * 9)


def test_before_a_convolution_with_padding() -> None:
    """The padding's zeros come after the normalisation: only a norm that keeps zeros may go in."""
    weight = RNG.standard_normal((3, 4, 3, 3))
    for shift, ops in ((True, {"Conv": 2}), (False, {"Conv": 1})):
        g = GraphBuilder()
        x = norm(g, g.input("x", 1, 4, 6, 6), 4, shift=shift)
        result = outcome(g.model(g.Conv(x, g.const(weight), pads=[1] * 4)), FoldBatchNorm())
        assert result.ops == ops
        assert result.moved() <= bound(result, 4 * 9)


def test_between_two_convolutions() -> None:
    """Into the one before: that is always exact."""
    g = GraphBuilder()
    first = g.Conv(g.input("x", 1, 2, 6, 6), g.const(RNG.standard_normal((3, 2, 3, 3))))
    out = g.Conv(norm(g, first, 3), g.const(RNG.standard_normal((2, 3, 3, 3))), pads=[1] * 4)
    result = outcome(g.model(out), FoldBatchNorm())
    assert result.ops == {"Conv": 2}
    assert "before it" in result.applied.rewritten[0].detail


@pytest.mark.parametrize(
    ("alone", "ops"), [("convolution", {"Conv": 1}), ("arithmetic", {"Mul": 1, "Add": 1})]
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_alone(alone: str, ops: dict[str, int], rank: int) -> None:
    g = GraphBuilder()
    model = g.model(g.Relu(norm(g, g.input("x", 2, 3, *[4] * rank), 3)))
    result = outcome(model, FoldBatchNorm(alone=alone))
    assert result.ops == {**ops, "Relu": 1}
    assert result.moved() <= bound(result, 1)


def test_alone_without_planes_is_arithmetic() -> None:
    g = GraphBuilder()
    result = outcome(g.model(norm(g, g.input("x", 2, 3), 3)), FoldBatchNorm())
    assert result.ops == {"Mul": 1, "Add": 1}


def test_a_convolution_with_other_uses_is_left() -> None:
    g = GraphBuilder()
    convolved = g.Conv(g.input("x", 1, 2, 6, 6), g.const(RNG.standard_normal((3, 2, 3, 3))))
    result = outcome(g.model(norm(g, convolved, 3), g.Relu(convolved)), FoldBatchNorm())
    assert result.ops == {"Conv": 2, "Relu": 1}
    assert "1x1 depthwise" in result.applied.rewritten[0].detail


def test_a_norm_with_other_uses_stays_one() -> None:
    g = GraphBuilder()
    x = norm(g, g.input("x", 1, 2, 6, 6), 2)
    model = g.model(g.Conv(x, g.const(RNG.standard_normal((3, 2, 3, 3)))), g.Relu(x))
    assert outcome(model, FoldBatchNorm(alone="arithmetic")).ops == {"Mul": 1, "Add": 1, "Conv": 1, "Relu": 1}


def test_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 4, 4)
    free = g.model(g.BatchNormalization(x, g.input("s", 2), *(g.const([1, 1]) for _ in range(3))))
    half = GraphBuilder()
    small = half.input("x", 1, 2, 4, 4, dtype=ir.DataType.FLOAT16)
    constants = [half.const([1, 1], np.float16) for _ in range(4)]
    negative = GraphBuilder()
    wrong = [negative.const(a) for a in ([1, 1], [0, 0], [0, 0], [-1, 1])]
    cases = {
        "its scale, bias, mean and variance aren't all constant": free,
        "its type is FLOAT16": half.model(half.BatchNormalization(small, *constants)),
        "its arithmetic isn't finite: a variance is negative, or a constant isn't finite": negative.model(
            negative.BatchNormalization(negative.input("x", 1, 2, 4, 4), *wrong)
        ),
    }
    for reason, model in cases.items():
        applied = FoldBatchNorm().run(model)
        assert not applied.changed
        assert [site.detail for site in applied.refused] == [reason]


def test_the_option_is_checked() -> None:
    with pytest.raises(BadInputError, match="it takes convolution or arithmetic"):
        FoldBatchNorm(alone="conv")
