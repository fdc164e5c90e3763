"""1x1 convolutions of what was reshaped become products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from superlower.passes.lower_deform_conv import GRID_SAMPLE, LowerDeformConv
from superlower.passes.pointwise_conv_to_mat_mul import PointwiseConvToMatMul
from support.graphs import GraphBuilder, Outcome, outcome

EPS = 2.0**-24
RNG = np.random.default_rng(0)
CHANNELS = 12


def pointwise(
    g: GraphBuilder, *, bias: bool = True, kernel: int = 1, batch: int = 1, **attributes: Any
) -> ir.Value:
    """x [batch, 3, 20, 5] as [batch, 12, 5, 5], convolved to 4 channels."""
    data = g.Reshape(g.input("x", batch, 3, 20, 5), g.ints(batch, CHANNELS, 5, 5))
    depth = CHANNELS // attributes.get("group", 1)
    weight = g.const(np.clip(RNG.standard_normal((4, depth, kernel, kernel)), -4, 4))
    biases = [g.const(RNG.standard_normal(4))] if bias else []
    convolved: ir.Value = g.Conv(data, weight, *biases, **attributes)
    return convolved


def within_rounding(result: Outcome) -> bool:
    """Either form sums 12 products of at most 8 x 4 and a bias, each rounding one of that sum."""
    return result.moved() <= 2 * (CHANNELS + 1) * EPS * (CHANNELS + 1) * 8 * 4


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("constants_as_nodes", [True, False])
def test_a_product(batch: int, bias: bool, constants_as_nodes: bool) -> None:
    g = GraphBuilder(constants_as_nodes)
    model = g.model(g.Relu(pointwise(g, batch=batch, bias=bias)))
    result = outcome(model, PointwiseConvToMatMul())
    assert result.ops == {"Reshape": 2, "MatMul": 1, "Relu": 1} | ({"Add": 1} if bias else {})
    assert within_rounding(result)
    (site,) = result.applied.rewritten
    assert site.detail == "MatMul of 4x12 by 12x25"
    assert not PointwiseConvToMatMul().run(result.model).changed


@pytest.mark.parametrize(
    "attributes", [{"kernel": 3}, {"strides": [2, 2]}, {"pads": [1] * 4}, {"group": 2}], ids=str
)
def test_other_convolutions_are_left_alone(attributes: dict[str, Any]) -> None:
    g = GraphBuilder()
    result = outcome(g.model(pointwise(g, **attributes)), PointwiseConvToMatMul())
    assert result.ops == {"Reshape": 1, "Conv": 1}
    assert result.applied == type(result.applied)()


def test_what_was_not_reshaped_is_left_alone() -> None:
    g = GraphBuilder()
    convolved = g.Conv(g.Relu(g.input("x", 1, 3, 5, 5)), g.const(np.ones((2, 3, 1, 1))))
    assert not outcome(g.model(convolved), PointwiseConvToMatMul()).applied.changed


def test_weights_that_are_computed_are_refused() -> None:
    g = GraphBuilder()
    data = g.Reshape(g.input("x", 1, 3, 20, 5), g.ints(1, CHANNELS, 5, 5))
    result = outcome(g.model(g.Conv(data, g.input("w", 4, CHANNELS, 1, 1))), PointwiseConvToMatMul())
    assert [site.detail for site in result.applied.refused] == ["its weights aren't constant"]


def test_columns_of_a_deformable_convolution_are_multiplied() -> None:
    g = GraphBuilder()
    x, offset = g.input("x", 1, 4, 6, 6), g.input("offset", 1, 2 * 2 * 9, 6, 6)
    weight = g.const(RNG.standard_normal((4, 4, 3, 3)))
    model = g.model(g.DeformConv(x, weight, offset, pads=[1] * 4, offset_group=2))
    lowered = outcome(model, LowerDeformConv(form=GRID_SAMPLE)).model
    result = outcome(lowered, PointwiseConvToMatMul())
    assert result.ops["MatMul"] == 1
    assert "Conv" not in result.ops
