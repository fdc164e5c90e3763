"""Scenarios of ONNX Runtime's and OpenVINO's rules."""

from __future__ import annotations

import onnx_ir as ir
import pytest

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
    one,
    quantized,
    relu,
)
from support.scenarios.sdks import (
    openvino_types,
    refused_by_openvino,
    refused_by_ort,
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
    assert openvino_types(model, INFERENCE_PRECISION_HINT="f16") == {"bf16"}


def _sampler(padding: str) -> ir.Model:
    inputs = {"x": (F32, [1, 4, 8, 8]), "grid": (F32, [1, 8, 8, 2])}
    return one("GridSample", inputs, {"y": (F32, [1, 4, 8, 8])}, padding_mode=padding)


def deform_conv() -> ir.Model:
    """A 3x3 deformable convolution."""
    inputs = {"x": (F32, [1, 4, 8, 8]), "w": (F32, [4, 4, 3, 3]), "o": (F32, [1, 18, 8, 8])}
    return one("DeformConv", inputs, {"y": (F32, [1, 4, 8, 8])}, pads=[1, 1, 1, 1])


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
    Scenario(
        "openvino-s8s8",
        lambda: quantized(storage=I8),
        Action.WARN,
        "openvino",
        precision=Precision.INT8,
        unproven="seen on BasicVSR as a whole; chains of quantized convolutions come out right",
    ),
)
