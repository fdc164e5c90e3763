"""A report with something in every section, and a small recurrent model."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.backends.base import NodeSupport, Support
from superlower.program.model import Equation, Frame, Program, Stream, TemporalModel
from superlower.report.data import BeforeAfter, CoverageTable, EngineRow, Report, Searched, Timing
from support.report import png, record, variant_check


@pytest.fixture
def full_report() -> Report:
    nodes = [
        *(NodeSupport(f"conv_{i}", "Conv", Support.NATIVE) for i in range(5)),
        NodeSupport("warp_0", "GridSample", Support.REWRITTEN, "lower-grid-sample"),
        NodeSupport("align_0", "DeformConv", Support.UNSUPPORTED, "the parser has no plug-ins"),
    ]
    return Report(
        title="Compile report",
        model="basicvsr",
        machine="Test processor, 2 cores",
        created="2026-01-02",
        summary={"Latency": "the whole clip"},
        provenance={"paper": "https://arxiv.org/abs/2012.02181", "weights_sha256": "ab" * 32},
        versions={"onnx": "1.23.2"},
        checks=[
            variant_check(),
            variant_check("tvm-cpu-fp32", max_abs=(0.0, 0.0, 0.0), psnr_db=(inf, inf, inf), growth=None),
            variant_check("rtx-ada-fp16", passed=None, max_abs=(), psnr_db=(), skipped="no NVIDIA driver"),
        ],
        tolerance_reasons={"openvino-cpu-fp32": "a quarter of an 8-bit step"},
        failures={"openvino-cpu-int8": "it left its tolerance"},
        passes={
            "every variant": [
                record("fold-constants", rewritten=("mul_1: folded",), budget=1e-5, measured=2.5e-7),
                record(
                    "outline-flow-warp", nodes_after={"Conv": 3, "Mul": 9}, refused=("warp_3: read twice",)
                ),
                record("convert-opset", nodes_after={"Conv": 3, "Mul": 9}),
            ]
        },
        coverage=[CoverageTable("tvm", "cpu", "fp32", "step", nodes)],
        searches={"openvino-cpu-mixed": Searched((0.0, 0.01), ("step: entry: bf16: slower",))},
        timings=[
            Timing("PyTorch eager", 724.25, 1.0),
            Timing("openvino-cpu-fp32", 558.125, 1.3125, "2 threads"),
        ],
        engines=[
            EngineRow(
                "tensorrt-rtx",
                "rtx4090",
                "fp16",
                "step",
                19_000_000,
                build_s=1.5,
                sdk={"tensorrt-rtx": "1.7.1.116"},
                facts={
                    "layers": 88,
                    "half_layers": 79,
                    "float_layers": 9,
                    "activation_bytes": 17203200,
                    "sm": 89,
                },
                note="built without a GPU; not run here",
            )
        ],
        pictures=BeforeAfter(png(8, 6, 10), png(8, 6, 200), "bicubic", "BasicVSR, OpenVINO fp32", "frame 3"),
        notes=["Measured with the machine at rest."],
    )


@pytest.fixture
def recurrent() -> Callable[[], TemporalModel]:
    """hidden[t] = tanh(frame[t] / 2 + weight * hidden[t-1]), shuffled to twice the size."""

    def make() -> TemporalModel:
        shape = [1, 3, 8, 12]
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "hidden")]
        outputs = [
            helper.make_tensor_value_info("hidden_next", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 16, 24]),
        ]
        weight = np.full((1, 3, 8, 12), 0.25, np.float32)
        nodes = [
            helper.make_node("Mul", ["hidden", "weight"], ["kept"], name="keep"),
            helper.make_node("Add", ["x", "kept"], ["sum"], name="sum"),
            helper.make_node("Tanh", ["sum"], ["hidden_next"], name="squash"),
            helper.make_node("Concat", ["hidden_next"] * 4, ["wide"], name="widen", axis=1),
            helper.make_node("DepthToSpace", ["wide"], ["output"], name="shuffle", blocksize=2),
        ]
        graph = helper.make_graph(
            nodes, "step", inputs, outputs, [onnx.numpy_helper.from_array(weight, "weight")]
        )
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)])
        program = Program(
            name="recurrent",
            frame=Frame(height=8, width=12, scale=2),
            streams={
                "frame": Stream(shape=(1, 3, "H", "W")),
                "hidden": Stream(shape=(1, 3, "H", "W")),
                "output": Stream(shape=(1, 3, "2*H", "2*W")),
            },
            equations=(
                Equation(
                    name="step",
                    graph="step",
                    inputs={"x": "frame[t]", "hidden": "hidden[t-1]"},
                    outputs={"hidden_next": "hidden", "output": "output"},
                ),
            ),
            provenance={"architecture": "a test's"},
        )
        return TemporalModel(program, {"step": ir.from_proto(model)})

    return make
