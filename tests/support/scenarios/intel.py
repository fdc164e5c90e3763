"""Scenarios of ONNX Runtime's and OpenVINO's rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from superlower.doctor.rules import Action
from superlower.targets.base import Precision
from superlower.targets.detect import cpu_flags
from support.scenarios.base import (
    BF16,
    F16,
    F32,
    FP8,
    I8,
    Scenario,
    convolution,
    feeds,
    graph,
    one,
    quantized,
    relu,
    weight,
)
from support.scenarios.sdks import (
    openvino_outputs,
    openvino_types,
    ort_outputs,
    refused_by_openvino,
    refused_by_ort,
    wrong_in_openvino,
)

NO_DEVICE = "needs an Intel GPU"
DOCUMENTED = "the device's documentation says so; nothing can be run"


def _casts(model: ir.Model) -> None:
    from superlower.backends.onnxruntime import _computed_in_fp32

    assert _computed_in_fp32(model) == {"it"}


def _needs_bf16() -> None:
    if not cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        pytest.skip("this CPU has no bf16 instructions, so OpenVINO has nothing to choose")


def _bf16_unless_told(model: ir.Model) -> None:
    _needs_bf16()
    assert openvino_types(model) == {"bf16"}
    assert openvino_types(model, INFERENCE_PRECISION_HINT="f32") == {"f32"}


def _bf16_for_fp16(model: ir.Model) -> None:
    _needs_bf16()
    if "avx512_fp16" in cpu_flags():
        pytest.skip("this CPU has fp16 instructions, and OpenVINO takes them")
    assert openvino_types(model, INFERENCE_PRECISION_HINT="f16") == {"bf16"}


def _sampler(padding: str) -> ir.Model:
    inputs = {"x": (F32, [1, 4, 8, 8]), "grid": (F32, [1, 8, 8, 2])}
    return one("GridSample", inputs, {"y": (F32, [1, 4, 8, 8])}, padding_mode=padding)


def deform_conv() -> ir.Model:
    """A 3x3 deformable convolution."""
    inputs = {"x": (F32, [1, 4, 8, 8]), "w": (F32, [4, 4, 3, 3]), "o": (F32, [1, 18, 8, 8])}
    return one("DeformConv", inputs, {"y": (F32, [1, 4, 8, 8])}, pads=[1, 1, 1, 1])


def resize(**attributes: Any) -> Callable[[], ir.Model]:
    """Resize of [1, 2, 9, 8] to [1, 2, 6, 4]."""
    inputs, constants = {"x": (F32, [1, 2, 9, 8])}, {"sizes": np.array([1, 2, 6, 4])}
    order = ["x", "", "", "sizes"]
    return lambda: one("Resize", inputs, {"y": (F32, None)}, constants, order=order, **attributes)


def _pool() -> ir.Model:
    shapes = {"x": (F32, [1, 2, 8, 8])}, {"y": (F32, None)}
    options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}
    return one("AveragePool", *shapes, count_include_pad=1, **options)


def _upper() -> ir.Model:
    # The full result is 11 by 11: one row and column go, at the end.
    shapes = {"x": (F32, [1, 2, 5, 5])}, {"y": (F32, [1, 3, 10, 10])}
    how: dict[str, Any] = {"strides": [2, 2], "output_shape": [10, 10], "auto_pad": "SAME_UPPER"}
    return one("ConvTranspose", *shapes, {"w": weight(F32, 2, 3, 3, 3)}, **how)


def _past_the_end() -> ir.Model:
    # The third window of 3 rows every 4 begins in the padding below 7 of them.
    shapes = {"x": (F32, [1, 2, 7, 7])}, {"y": (F32, [1, 2, 2, 2])}
    options = {"kernel_shape": [3, 3], "strides": [4, 4], "pads": [0, 0, 1, 1], "ceil_mode": 1}
    return one("MaxPool", *shapes, opset=22, **options)


def _pooled_too_often(model: ir.Model) -> None:
    assert openvino_outputs(model, feeds(model))[0].shape == (1, 2, 3, 3)


def _keeping_aspect() -> ir.Model:
    shapes = {"x": (F32, [1, 2, 7, 9])}, {"y": (F32, None)}
    how: dict[str, Any] = {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}
    constants = {"sizes": np.array([11, 16])}
    return one("Resize", *shapes, constants, order=["x", "", "", "sizes"], mode="nearest", **how)


def _halves() -> ir.Model:
    constants = {"s": np.array(1, np.float32), "z": np.array(3, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="it"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return graph(nodes, {"x": (F32, [1, 8])}, {"y": (F32, [1, 8])}, constants)


def _not_to_even(model: ir.Model) -> None:
    given = {"x": np.arange(8, dtype=np.float32)[None] + np.float32(0.5)}
    assert np.abs(ort_outputs(model, given)[0] - openvino_outputs(model, given)[0]).max() == 1


def _openvino(
    rule: str,
    model: Callable[[], ir.Model],
    action: Action = Action.REFUSE,
    without: Callable[[ir.Model], None] = wrong_in_openvino,
) -> Scenario:
    return Scenario(rule, model, action, "openvino", without=without, needs="openvino")


SCENARIOS = (
    Scenario(
        "ort-bf16",
        lambda: convolution(BF16, opset=22),
        Action.REFUSE,
        "onnxruntime",
        precision=Precision.BF16,
        without=refused_by_ort,
        needs="onnxruntime",
    ),
    Scenario(
        "ort-fp8",
        lambda: quantized(storage=FP8),
        Action.REFUSE,
        "onnxruntime",
        precision=Precision.FP8,
        unproven="ONNX Runtime runs it by casts of its own, in fp32",
    ),
    Scenario(
        "ort-fp16-casts",
        lambda: convolution(F16),
        Action.WARN,
        "onnxruntime",
        precision=Precision.FP16,
        without=_casts,
        needs="onnxruntime",
    ),
    Scenario(
        "ort-s8s8",
        lambda: quantized(storage=I8),
        Action.WARN,
        "onnxruntime",
        precision=Precision.INT8,
        unproven="a matter of speed, measured on a quiet machine",
    ),
    Scenario(
        "openvino-fp16-cpu",
        convolution,
        Action.REFUSE,
        "openvino",
        precision=Precision.FP16,
        without=_bf16_for_fp16,
        needs="openvino",
    ),
    Scenario(
        "openvino-fp8-cpu", relu(), Action.REFUSE, "openvino", precision=Precision.FP8, unproven=DOCUMENTED
    ),
    Scenario(
        "openvino-bf16-gpu",
        relu(),
        Action.REFUSE,
        "openvino",
        "intel-gpu",
        Precision.BF16,
        unproven=NO_DEVICE,
    ),
    Scenario(
        "openvino-fp8-gpu", relu(), Action.REFUSE, "openvino", "intel-gpu", Precision.FP8, unproven=NO_DEVICE
    ),
    Scenario(
        "openvino-bf16-default",
        convolution,
        Action.SET,
        "openvino",
        without=_bf16_unless_told,
        needs="openvino",
    ),
    Scenario(
        "openvino-grid-sample-slow",
        lambda: _sampler("border"),
        Action.WARN,
        "openvino",
        "intel-gpu",
        unproven=NO_DEVICE,
    ),
    Scenario(
        "openvino-deform-conv",
        deform_conv,
        Action.AVOID,
        "openvino",
        without=refused_by_openvino,
        needs="openvino",
    ),
    _openvino("openvino-resize-antialias", resize(mode="linear", antialias=1)),
    _openvino("openvino-resize-exclude-outside", resize(mode="cubic", exclude_outside=1)),
    _openvino("openvino-resize-aspect", _keeping_aspect),
    _openvino("openvino-conv-transpose-upper", _upper),
    _openvino("openvino-pool-ceil", _pool),
    _openvino("openvino-max-pool-ceil", _past_the_end, Action.WARN, _pooled_too_often),
    _openvino("openvino-rounds-halves", _halves, Action.WARN, _not_to_even),
    Scenario(
        "openvino-s8s8",
        lambda: quantized(storage=I8),
        Action.WARN,
        "openvino",
        precision=Precision.INT8,
        unproven="seen on BasicVSR as a whole; chains of quantized convolutions come out right",
    ),
)
