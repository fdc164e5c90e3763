"""8-bit convolutions: what is quantized, in which levels, and what isn't touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from superlower.errors import BadInputError
from superlower.ir import constant_value
from superlower.passes._levels import levels_for, quantized_weight
from superlower.passes.quantize import Quantize, watched
from support.graphs import GraphBuilder, Outcome, feeds_of, outcome

RNG = np.random.default_rng(0)
CHANNELS, KERNEL = 6, 3
SPREAD = 1.0


def conv(
    g: GraphBuilder, x: ir.Value, into: int = CHANNELS, out: int = CHANNELS, bias: bool = True
) -> ir.Value:
    operands = [g.const(RNG.standard_normal((out, into, KERNEL, KERNEL)) / np.sqrt(into * KERNEL**2))]
    operands += [g.const(RNG.standard_normal(out) * 0.1)] if bias else []
    return g.Conv(x, *operands, pads=[1] * 4)


def residual_block(**spelling: Any) -> ir.Model:
    """x + conv(relu(conv(x))), then a convolution and a pixel shuffle before another one."""
    g = GraphBuilder(**spelling)
    x = g.input("x", 1, CHANNELS, 8, 8)
    state = g.Add(x, conv(g, g.Relu(conv(g, x))))
    shuffled = g.DepthToSpace(conv(g, state, CHANNELS, 4 * CHANNELS), blocksize=2, mode="DCR")
    return g.model(conv(g, shuffled, CHANNELS, 3, bias=False), state)


def ranges_of(model: ir.Model) -> dict[str, tuple[float, float]]:
    """Extremes over the very feeds that `outcome` compares on, so that nothing is clipped."""
    probe = model.clone()
    values = {v.name: v for v in (*probe.graph.inputs, *(v for n in probe.graph for v in n.outputs))}
    wanted = watched(model)
    for name in wanted:
        if not values[name].is_graph_output() and not values[name].is_graph_input():
            probe.graph.outputs.append(values[name])
    from superlower.passes._evaluate import evaluate

    feeds = feeds_of(model, 0, SPREAD)
    found = {**feeds, **evaluate(probe, feeds)}
    return {name: (float(found[name].min()), float(found[name].max())) for name in wanted}


def quantized(model: ir.Model, **options: Any) -> Outcome:
    return outcome(model, Quantize(ranges=ranges_of(model), **options), spread=SPREAD)


def convolutions(model: ir.Model) -> tuple[str, ...]:
    return tuple(node.name or "" for node in model.graph if node.op_type == "Conv")


def sources(node: ir.Node, position: int = 0) -> list[str]:
    """Operators from an input upwards, as far as there is one way."""
    found = []
    value = node.inputs[position]
    while value is not None and (made := value.producer()) is not None:
        found.append(made.op_type)
        value = made.inputs[0]
    return found


def step_bound(model: ir.Model, layers: int) -> float:
    """What rounding to 8 bits moves an output by at most, but for one in a million.

    Rounding errors are uniform, their deviation a step by sqrt(12), and a convolution of n weights that vary
    by 1 / n hands deviations on as they are. An activation's step is its range by 127 at the worst, that of a
    weight its largest, some 3 / sqrt(n), by 127; its n errors meet activations of a sixth of their range.
    Five deviations of each layer, added up.
    """
    width = max(high - low for low, high in ranges_of(model).values())
    of_a_layer = width / 127 / np.sqrt(12) * np.hypot(1, 3 / 6)
    return float(5 * layers * of_a_layer)


@pytest.mark.parametrize("constants_as_nodes", [False, True])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_every_convolution_reads_8_bits_and_residual_sums_dont(
    activations: str, constants_as_nodes: bool
) -> None:
    model = residual_block(constants_as_nodes=constants_as_nodes)
    result = quantized(model, activations=activations, nodes=convolutions(model))
    assert [site.detail for site in result.applied.rewritten] == [f"{activations} Conv"] * 4
    assert not result.applied.refused
    (summed,) = [node for node in result.model.graph if node.op_type == "Add"]
    assert [sources(summed, i)[:1] for i in (0, 1)] == [[], ["Conv"]]
    for node in result.model.graph:
        if node.op_type == "Conv":
            assert sources(node)[0] in ("DequantizeLinear", "DepthToSpace")
            assert sources(node, 1) == ["DequantizeLinear"]
        if node.op_type == "QuantizeLinear":
            assert node.outputs[0].dtype == ir.DataType[activations.upper()]
    assert 0 < result.moved() <= step_bound(model, 4)


def test_a_sum_is_quantized_where_chosen() -> None:
    model = residual_block()
    result = quantized(model)
    (summed,) = [node for node in result.model.graph if node.op_type == "Add"]
    assert [sources(summed, i)[:1] for i in (0, 1)] == [["DequantizeLinear"], ["Conv"]]
    assert result.moved() <= step_bound(model, 4)


def test_a_value_with_two_readers_is_quantized_once() -> None:
    model = residual_block()
    result = quantized(model)
    inputs = [node.inputs[0].name for node in result.model.graph if node.op_type == "QuantizeLinear"]
    assert len(inputs) == len(set(inputs)) == 4


def test_pixel_shuffles_move_bytes() -> None:
    model = residual_block()
    result = quantized(model)
    (shuffle,) = [node for node in result.model.graph if node.op_type == "DepthToSpace"]
    assert sources(shuffle)[:3] == ["DequantizeLinear", "QuantizeLinear", "Conv"]


def test_levels_are_what_tensorrt_takes() -> None:
    """Symmetric, scales above 0, one a channel for weights."""
    model = residual_block()
    result = quantized(model, activations="int8")
    for node in result.model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (constant_value(v) for v in node.inputs[1:3])
            assert scale is not None
            assert (scale > 0).all()
            assert zero is not None
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (scale.ndim == 1) == (node.inputs[0].producer() is None and node.op_type[0] == "D")


def test_results_in_8_bits_with_biases_in_32() -> None:
    model = residual_block()
    result = quantized(model, results=True, nodes=convolutions(model))
    for node in result.model.graph:
        if node.op_type == "Conv":
            readers = [use.op_type for use, _ in node.outputs[0].uses()]
            assert readers in (["QuantizeLinear"], ["Relu"], [])
            if len(node.inputs) > 2:
                assert sources(node, 2) == ["DequantizeLinear"]
                bias = node.inputs[2].producer().inputs[0]
                assert bias.dtype == ir.DataType.INT32
    assert result.moved() <= step_bound(model, 8)


def test_only_what_is_chosen() -> None:
    model = residual_block()
    chosen = convolutions(model)[1]
    result = quantized(model, nodes=(chosen,))
    assert [site.node for site in result.applied.rewritten] == [chosen]
    assert result.ops["QuantizeLinear"] == 1


def test_a_node_without_a_range_is_refused() -> None:
    result = outcome(residual_block(), Quantize())
    assert not result.applied.changed
    assert all(site.detail.startswith("no range is known of '") for site in result.applied.refused)
    assert len(result.applied.refused) == 5


def test_computed_weights_and_plain_sums_are_left_alone() -> None:
    g = GraphBuilder()
    x, w = g.input("x", 1, 2, 5, 5), g.input("w", 2, 2, 3, 3)
    model = g.model(g.Add(g.Conv(x, w, pads=[1] * 4), g.const(1.0)), g.Add(x, x))
    assert watched(model) == ()
    assert outcome(model, Quantize()).applied.refused == ()


def test_unknown_activations() -> None:
    with pytest.raises(BadInputError, match="'int4': it takes int8 or uint8"):
        Quantize(activations="int4")


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale", "zero"),
    [
        (0.0, 2.55, "uint8", 0.01, 0),
        (0.5, 2.55, "uint8", 0.01, 0),
        (-1.0, 1.55, "uint8", 0.01, 100),
        (-2.55, -0.5, "uint8", 0.01, 255),
        (-1.27, 0.3, "int8", 0.01, 0),
        (0.0, 1.27, "int8", 0.01, 0),
        (0.0, 0.0, "uint8", 1.0, 0),
        (0.0, 1e-42, "int8", 1.0, 0),
    ],
)
def test_levels(low: float, high: float, dtype: str, scale: float, zero: int) -> None:
    levels = levels_for(low, high, dtype)
    assert levels.scale == pytest.approx(scale)
    assert (levels.zero, levels.dtype) == (zero, dtype)


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (np.nan, 1.0), (2.0, 1.0)])
def test_no_range(low: float, high: float) -> None:
    with pytest.raises(BadInputError, match="no range to quantize"):
        levels_for(low, high, "uint8")


def test_weights_have_a_scale_a_channel() -> None:
    weight = np.array([[[[1.27]], [[-0.5]]], [[[0.0]], [[0.0]]], [[[-254.0]], [[2.0]]]], np.float32)
    levels, scale = quantized_weight(weight)
    assert scale == pytest.approx([0.01, 1.0, 2.0])
    assert levels[..., 0, 0].tolist() == [[127, -50], [0, 0], [-127, 1]]
    assert (scale > 0).all()
