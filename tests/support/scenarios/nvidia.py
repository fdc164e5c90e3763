"""Scenarios of TensorRT's rules: RTX's are run, classic TensorRT's can't be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from superlower.doctor.rules import Action
from superlower.ir import serialize
from superlower.targets.base import Precision
from support.scenarios.base import (
    BF16,
    F16,
    F32,
    FP8,
    I64,
    U8,
    Scenario,
    convolution,
    floats,
    graph,
    one,
    quantized,
    relu,
    weight,
)
from support.scenarios.intel import deform_conv
from support.scenarios.sdks import not_built_for, ort_outputs, refused_by_rtx, rtx_built

NO_LIBRARIES = "classic TensorRT's libraries can't be had here"
IMAGE = [1, 4, 8, 8]


def matmul() -> ir.Model:
    """A matrix product in fp32."""
    return one("MatMul", {"x": (F32, [4, 8])}, {"y": (F32, [4, 16])}, {"w": weight(F32, 8, 16)})


def volume() -> ir.Model:
    """A 3-D convolution in fp32."""
    shapes = {"x": (F32, [1, 4, 4, 8, 8])}, {"y": (F32, [1, 4, 2, 6, 6])}
    return one("Conv", *shapes, {"w": weight(F32, 4, 4, 3, 3, 3)})


def transposed() -> ir.Model:
    """A transposed convolution in bf16."""
    shapes = {"x": (BF16, IMAGE)}, {"y": (BF16, [1, 4, 10, 10])}
    return one("ConvTranspose", *shapes, {"w": weight(BF16, 4, 4, 3, 3)}, opset=22)


def sampler() -> ir.Model:
    """A GridSample as opset 20 writes it."""
    inputs = {"x": (F32, IMAGE), "grid": (F32, [1, 8, 8, 2])}
    return one("GridSample", inputs, {"y": (F32, IMAGE)}, opset=20, mode="linear")


def _spelled_as_19(model: ir.Model) -> None:
    (node,) = model.graph
    assert (model.opset_imports[""], node.attributes["mode"].value) == (19, "bilinear")
    assert np.array_equal(ort_outputs(model)[0], ort_outputs(sampler())[0])


def _runs_as_float(model: ir.Model) -> None:
    for architectures, computes in (((75,), "float32"), ((75, 86), "float32"), ((86,), "int8")):
        plan = rtx_built(model, *architectures)
        assert plan is not None
        convolutions = [layer for layer in plan.layers if layer.type == "correlation"]
        assert {layer.inputs[0].dtype for layer in convolutions} == {computes}, architectures


def _refused_whole(model: ir.Model) -> None:
    """By parser or builder."""
    from support.scenarios.sdks import rtx_parses

    assert not rtx_parses(serialize(model)) or rtx_built(model, 86) is None


def _unsigned() -> ir.Model:
    constants = {"s": np.array(1 / 255, np.float32), "z": np.array(0, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="it"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return graph(nodes, {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)}, constants)


def _taken_for_int8(model: ir.Model) -> None:
    from support.scenarios.sdks import rtx

    rtx().clear()
    network, refusals = rtx().parse(serialize(model))
    assert not refusals
    types = {network.get_layer(i).get_output(0).dtype for i in range(network.num_layers)}
    kinds = rtx().module.DataType
    assert kinds.INT8 in types
    assert kinds.UINT8 not in types


def _foreign() -> ir.Model:
    return one("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)}, domain="acme")


def _taken_for_onnx(model: ir.Model) -> None:
    assert rtx_built(model, 86) is not None


def integer_convolution() -> ir.Model:
    """ConvInteger."""
    inputs = {"x": (U8, IMAGE), "w": (U8, [4, 4, 3, 3])}
    return one("ConvInteger", inputs, {"y": (TensorProto.INT32, [1, 4, 6, 6])})


def scatter() -> ir.Model:
    """ScatterElements that adds."""
    inputs = {"x": (F32, IMAGE), "i": (I64, IMAGE), "u": (F32, IMAGE)}
    return one("ScatterElements", inputs, {"y": (F32, IMAGE)}, reduction="add")


def resize(**attributes: Any) -> Callable[[], ir.Model]:
    """Resize to twice the size."""
    constants = {"roi": floats(0, 0, 0, 0, 1, 1, 1, 1), "scales": floats(1, 1, 2, 2)}
    shapes = {"x": (F32, IMAGE)}, {"y": (F32, [1, 4, 16, 16])}
    return lambda: one("Resize", *shapes, constants, mode="linear", **attributes)


def pool() -> ir.Model:
    """AveragePool with dilations."""
    return one("AveragePool", {"x": (F32, IMAGE)}, {"y": (F32, None)}, kernel_shape=[2, 2], dilations=[2, 2])


def _rtx(
    rule: str,
    model: Callable[[], ir.Model],
    target: str,
    without: Callable[[ir.Model], None],
    precision: Precision = Precision.FP32,
) -> Scenario:
    return Scenario(
        rule, model, Action.REFUSE, "tensorrt-rtx", target, precision, without=without, needs="tensorrt_rtx"
    )


def _classic(
    rule: str,
    model: Callable[[], ir.Model],
    precision: Precision = Precision.FP32,
    target: str = "v100",
    versions: Mapping[str, str] | None = None,
) -> Scenario:
    return Scenario(
        rule, model, Action.REFUSE, "tensorrt", target, precision, versions, unproven=NO_LIBRARIES
    )


SCENARIOS = (
    Scenario(
        "grid-sample-opset-20",
        sampler,
        Action.REWRITE,
        "tensorrt",
        "v100",
        mended=_spelled_as_19,
        unproven=NO_LIBRARIES,
    ),
    _classic("tensorrt-volta", relu(), versions={"tensorrt": "10.5.0"}),
    _classic("tensorrt-bf16-ampere", relu(), Precision.BF16),
    _classic("tensorrt-fp8-ada", relu(), Precision.FP8, target="rtx3090"),
    _classic("tensorrt-8-types", relu(), Precision.BF16, target="rtx3090", versions={"tensorrt": "8.6.1"}),
    _classic("tensorrt-bf16-graph-ampere", relu(BF16)),
    _classic("tensorrt-fp8-graph-ada", lambda: quantized(F16, FP8), target="rtx3090"),
    _rtx("zero-scale", lambda: quantized(scale=0.0), "rtx3090", _refused_whole, Precision.INT8),
    _rtx("uint8-as-int8", _unsigned, "rtx3090", _taken_for_int8, Precision.INT8),
    _rtx(
        "wide-integers",
        lambda: quantized(storage=TensorProto.INT16, opset=21),
        "rtx3090",
        _refused_whole,
        Precision.INT8,
    ),
    Scenario(
        "plans-differ-in-a-process",
        convolution,
        Action.AVOID,
        "tensorrt-rtx",
        "rtx3090",
        unproven="tests/backends/test_process.py kills and crashes builds",
    ),
    _rtx("rtx-bf16-turing", lambda: convolution(BF16, opset=22), "t4", not_built_for(75), Precision.BF16),
    _rtx("rtx-int8-turing", quantized, "t4", _runs_as_float, Precision.INT8),
    _rtx("rtx-fp8-ada", lambda: quantized(F16, FP8), "rtx3090", not_built_for(86), Precision.FP8),
    _rtx("rtx-fp32-matmul-turing", matmul, "t4", not_built_for(75)),
    _rtx("rtx-fp32-conv3d-turing", volume, "t4", not_built_for(75)),
    _rtx("rtx-bf16-conv-transpose", transposed, "rtx5090", not_built_for(120), Precision.BF16),
    _rtx("rtx-bf16-graph-turing", relu(BF16), "t4", not_built_for(75)),
    _rtx("rtx-fp8-graph-ada", lambda: quantized(F16, FP8), "rtx3090", not_built_for(86)),
    _rtx("rtx-int8-graph-turing", quantized, "t4", _runs_as_float),
    _rtx("rtx-no-plug-ins", deform_conv, "rtx3090", refused_by_rtx),
    _rtx("rtx-foreign-domain", _foreign, "rtx3090", _taken_for_onnx),
    _rtx("rtx-no-rule", integer_convolution, "rtx3090", refused_by_rtx),
    _rtx("rtx-scatter-reduction", scatter, "rtx3090", refused_by_rtx),
    _rtx("rtx-antialias", resize(antialias=1), "rtx3090", refused_by_rtx),
    _rtx(
        "rtx-resize-coordinates",
        resize(coordinate_transformation_mode="half_pixel_symmetric"),
        "rtx3090",
        refused_by_rtx,
    ),
    _rtx("rtx-pool-dilations", pool, "rtx3090", refused_by_rtx),
)
