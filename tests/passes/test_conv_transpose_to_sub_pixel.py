"""A transposed convolution is a convolution with more outputs and a pixel shuffle, whatever its settings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from superlower.ir import constant_value
from superlower.passes.base import Pass
from superlower.passes.conv_transpose_to_sub_pixel import ConvTransposeToSubPixel
from support.graphs import GraphBuilder, Outcome, outcome

EPS = 2.0**-24


def bound(result: Outcome, products: int) -> float:
    """Either form sums the same products: within as many roundings as there are, at their total's size."""
    values = result.model.graph.initializers.values()
    weights = [np.abs(np.asarray(constant_value(value), np.float64)).max() for value in values]
    return 2 * (products + 1) * EPS * products * 8 * float(max(weights))


def transposed(shape: tuple[int, ...], weight: tuple[int, ...], bias: bool, **attributes: object) -> ir.Model:
    g = GraphBuilder()
    rng = np.random.default_rng(0)
    operands = [g.input("x", *shape), g.const(rng.standard_normal(weight))]
    if bias:
        operands.append(g.const(rng.standard_normal(weight[1] * int(attributes.get("group", 1)))))  # type: ignore[call-overload]
    return g.model(g.ConvTranspose(*operands, **attributes))


@pytest.mark.parametrize(
    ("settings_", "taps", "after"),
    [
        # FRVSR's and TecoGAN's up-convolution.
        (
            {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1], "kernel_shape": [3, 3]},
            [2, 2],
            {"Conv": 1, "DepthToSpace": 1},
        ),
        # As many taps as strides: no zeros at all.
        ({"strides": [2, 2], "kernel_shape": [2, 2]}, [1, 1], {"Conv": 1, "DepthToSpace": 1}),
        (
            {"strides": [2, 2], "pads": [1] * 4, "kernel_shape": [4, 4]},
            [2, 2],
            {"Conv": 1, "DepthToSpace": 1, "Slice": 1},
        ),
        (
            {"strides": [4, 4], "pads": [2] * 4, "kernel_shape": [8, 8]},
            [2, 2],
            {"Conv": 1, "DepthToSpace": 1, "Slice": 1},
        ),
    ],
)
def test_structure(settings_: dict[str, list[int]], taps: list[int], after: dict[str, int]) -> None:
    kernel = settings_["kernel_shape"]
    result = outcome(transposed((1, 4, 5, 6), (4, 3, *kernel), True, **settings_), ConvTransposeToSubPixel())
    assert result.ops == after
    (convolution,) = (n for n in result.model.graph if n.op_type == "Conv")
    assert convolution.attributes.get_ints("kernel_shape") == tuple(taps)
    assert result.moved() <= bound(result, 4 * kernel[0] * kernel[1])
    assert result.applied.rewritten[0].detail.startswith(f"Conv of {taps[0]}x{taps[1]} to ")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_setting(data: st.DataObject) -> None:
    draw = data.draw
    groups, stride = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    kernel = [draw(st.integers(1, 5)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    shape = (
        draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        *(draw(st.integers(1, 5)) for _ in "hw"),
    )
    attributes: dict[str, object] = {"strides": [stride] * 2, "dilations": dilations, "group": groups}
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padding = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID", "output_shape"]))
    if padding == "pads":
        attributes["pads"] = [draw(st.integers(0, 3)) for _ in range(4)]
        attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for _ in range(2)]
    elif padding == "output_shape":
        attributes["output_shape"] = [
            draw(st.integers(max(1, stride * (n - 1) + 1), stride * (n - 1) + span))
            for n, span in zip(shape[2:], spans, strict=True)
        ]
    else:
        # Padding that reaches beyond the full output is an error of the operator's, not of the rewrite.
        assume(padding == "VALID" or min(spans) >= stride)
        attributes["auto_pad"] = padding
    try:
        model = transposed(
            shape, (shape[1], draw(st.integers(1, 2)), *kernel), draw(st.booleans()), **attributes
        )
    except Exception:  # no output is left of it
        assume(False)
    assume(min(int(str(d)) for d in model.graph.outputs[0].shape or ()) > 0)
    result = outcome(model, ConvTransposeToSubPixel())
    assert "ConvTranspose" not in result.ops
    assert result.before["out0"].shape == result.after["out0"].shape
    assert result.moved() <= bound(result, shape[1] // groups * kernel[0] * kernel[1])


def test_constants_as_nodes() -> None:
    g = GraphBuilder(constants_as_nodes=True)
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3))
    model = g.model(g.ConvTranspose(g.input("x", 1, 2, 4, 4), g.const(weight), strides=[2, 2]))
    result = outcome(model, ConvTransposeToSubPixel())
    assert result.ops == {"Conv": 1, "DepthToSpace": 1, "Slice": 1}
    assert result.moved() <= bound(result, 2 * 9)


def refusal(model: ir.Model, one: Pass) -> str:
    applied = one.run(model)
    assert not applied.changed
    return applied.refused[0].detail if applied.refused else ""


def test_refused() -> None:
    one = ConvTransposeToSubPixel()
    unequal = transposed((1, 2, 4, 4), (2, 2, 3, 3), False, strides=[2, 3])
    assert refusal(unequal, one) == "strides [2, 3]: a pixel shuffle takes equal ones"
    line = transposed((1, 2, 4), (2, 2, 3), False, strides=[2])
    assert refusal(line, one) == "sizes aren't static, or it isn't over planes"
    g = GraphBuilder()
    free = g.model(g.ConvTranspose(g.input("x", 1, 2, 4, 4), g.input("w", 2, 2, 3, 3), strides=[2, 2]))
    assert refusal(free, one) == "its weights aren't constant"
    bias = GraphBuilder()
    operands = bias.input("x", 1, 2, 4, 4), bias.const(np.ones((2, 2, 3, 3))), bias.input("b", 2)
    assert (
        refusal(bias.model(bias.ConvTranspose(*operands, strides=[2, 2])), one)
        == "its weights aren't constant"
    )


def test_an_output_beyond_reach_is_refused() -> None:
    model = transposed((1, 1, 3, 3), (1, 1, 2, 2), False, strides=[3, 3], output_shape=[9, 9])
    reason = "an output of [1, 1, 9, 9] goes beyond what its inputs reach"
    assert refusal(model, ConvTransposeToSubPixel()) == reason


def test_stride_1_is_left() -> None:
    assert refusal(transposed((1, 2, 4, 4), (2, 2, 3, 3), False), ConvTransposeToSubPixel()) == ""
