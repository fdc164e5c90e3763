"""Scenarios of the rules about ONNX itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from superlower.doctor.rules import Action
from superlower.ir import IR_VERSION, serialize
from support.scenarios.base import F16, F32, Scenario, graph, one, relu
from support.scenarios.sdks import exact_outputs, ort_outputs, refused_by_ort, rtx_built, rtx_parses

WIDTH = 1921
"""Coordinates reach w - 1 = 1920, which fp16 holds; those of wider images it can't even write down."""


def _mistaken() -> ir.Model:
    shape = {"x": (F32, [1, 4, 8, 8])}, {"y": (F32, [1, 4, 8, 8])}
    return one("Relu", *shape, alpha=0.1)


def _taken_by_the_parser(model: ir.Model) -> None:
    assert rtx_parses(b"hello")
    assert rtx_built(model, 86) is not None


def _warp() -> ir.Model:
    """A warp by a flow in fp16, as an fp16 export has it, of an image in fp32: sampled positions show."""
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(2)), -1)[None].astype(np.float16)
    limits = np.array([WIDTH - 1, 1], np.float16)
    constants = {"pixels": pixels, "limits": limits, "two": np.float16(2), "one": np.float16(1)}
    nodes = [
        helper.make_node("Transpose", ["flow"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["last", "pixels"], ["moved"]),
        helper.make_node("Mul", ["moved", "two"], ["doubled"]),
        helper.make_node("Div", ["doubled", "limits"], ["shared"]),
        helper.make_node("Sub", ["shared", "one"], ["grid16"]),
        helper.make_node("Cast", ["grid16"], ["grid"], to=F32),
        helper.make_node("GridSample", ["x", "grid"], ["y"], name="it", align_corners=1),
    ]
    inputs = {"flow": (F16, [1, 2, 2, WIDTH]), "x": (F32, [1, 1, 2, WIDTH])}
    return graph(
        nodes, inputs, {"y": (F32, [1, 1, 2, WIDTH])}, {k: np.array(v) for k, v in constants.items()}
    )


def _error_in_pixels(model: ir.Model) -> float:
    ramp = np.broadcast_to(np.arange(WIDTH, dtype=np.float32), (1, 1, 2, WIDTH))
    flow = np.zeros((1, 2, 2, WIDTH), np.float16)
    flow[:, 0] = np.random.default_rng(0).uniform(-3, 3, (2, WIDTH))
    # Sampled, a ramp gives the position; at its ends there are zeros beyond it.
    wanted = np.arange(WIDTH) + flow[:, :1].astype(np.float64)
    (found,) = exact_outputs(model, {"flow": flow, "x": np.ascontiguousarray(ramp)})
    return float(np.abs(found - wanted)[..., 4:-4].max())


def _off_by_pixels(model: ir.Model) -> None:
    assert _error_in_pixels(model) > 0.25


def _right_positions(model: ir.Model) -> None:
    # Three fp32 roundings of positions up to 1920, 2^-14 px each, and the ramp's own interpolation.
    assert _error_in_pixels(model) < 1e-2


def _written_by_onnx(model: ir.Model) -> None:
    newest = onnx.load_from_string(serialize(model))
    newest.ir_version = onnx.IR_VERSION
    assert newest.ir_version > 13
    import onnxruntime
    import pytest

    with pytest.raises(Exception, match="IR version"):
        onnxruntime.InferenceSession(newest.SerializeToString(), providers=["CPUExecutionProvider"])
    # What superlower writes of the same model is read.
    model.ir_version = onnx.IR_VERSION
    ort_outputs(model)
    assert model.ir_version == IR_VERSION


SCENARIOS = (
    Scenario(
        "invalid-graph",
        _mistaken,
        Action.REFUSE,
        "tensorrt-rtx",
        "rtx3090",
        without=_taken_by_the_parser,
        needs="tensorrt_rtx",
    ),
    Scenario(
        "newer-opset",
        relu(opset=27),
        Action.REWRITE,
        "onnxruntime",
        without=refused_by_ort,
        needs="onnxruntime",
        mended=lambda model: ort_outputs(model) and None,
    ),
    Scenario(
        "narrow-grid",
        _warp,
        Action.REWRITE,
        "onnxruntime",
        without=_off_by_pixels,
        needs="onnxruntime",
        mended=_right_positions,
    ),
    Scenario(
        "newer-ir-version",
        relu(),
        Action.AVOID,
        "onnxruntime",
        without=_written_by_onnx,
        needs="onnxruntime",
    ),
)
