"""Small graphs shared by the backends' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.ir import IR_VERSION, OPSET
from superlower.targets.base import Precision, Target

Array = NDArray[np.generic]


GAIN = 0.9
"""Of every convolution: the hidden state neither dies out nor grows over many frames."""


class _Graph:
    """Nodes and initializers of a graph being written down; every method returns the name of its result."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, name: str, x: str, into: int, out: int) -> str:
        weight = self.rng.standard_normal((out, into, 3, 3)) * GAIN / np.sqrt(into * 9)
        bias = self.rng.standard_normal(out) * 0.1
        w = self.constant(f"{name}.weight", weight.astype(np.float32))
        b = self.constant(f"{name}.bias", bias.astype(np.float32))
        return self.op("Conv", name, x, w, b, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _flow_warp(g: _Graph, x: str, flow: str, height: int, width: int) -> str:
    """Sample x (1, C, H, W) at pixel + flow (1, 2, H, W), in pixels: bilinear, zeros outside."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    pixels = g.constant("warp.pixels", np.stack([columns, rows], axis=-1)[None])
    scale = g.constant("warp.scale", np.array([2 / (width - 1), 2 / (height - 1)], np.float32))
    one = g.constant("warp.one", np.array(1.0, np.float32))
    moved = g.op("Add", "warp.add_flow", pixels, g.op("Transpose", "warp.flow_last", flow, perm=[0, 2, 3, 1]))
    grid = g.op("Sub", "warp.centre", g.op("Mul", "warp.normalise", moved, scale), one)
    return g.op("GridSample", "warp.sample", x, grid, mode="bilinear", padding_mode="zeros", align_corners=1)


def warp_step(
    height: int = 32, width: int = 32, channels: int = 8, blocks: int = 2, seed: int = 0
) -> ir.Model:
    """One step of a recurrent upscaler, x4, as BasicVSR's forward sweep has it.

    Inputs: frame (1, 3, H, W) in [0, 1], hidden (1, C, H, W), flow (1, 2, H, W) in pixels.
    Outputs: hidden_out (1, C, H, W), output (1, 3, 4H, 4W).
    """
    g, c = _Graph(seed), channels
    warped = _flow_warp(g, "hidden", "flow", height, width)
    x = g.conv("trunk.first", g.op("Concat", "trunk.concat", "frame", warped, axis=1), 3 + c, c)
    x = g.op("LeakyRelu", "trunk.lrelu", x, alpha=0.1)
    for block in range(blocks):
        y = g.op("Relu", f"trunk.{block}.relu", g.conv(f"trunk.{block}.conv1", x, c, c))
        name = f"trunk.{block}.add"
        x = g.op("Add", name, x, g.conv(f"trunk.{block}.conv2", y, c, c))
    g.nodes.append(helper.make_node("Identity", [x], ["hidden_out"], name="hidden_state"))
    for stage in range(2):
        x = g.conv(f"up.{stage}.conv", x, c, 4 * c)
        x = g.op("DepthToSpace", f"up.{stage}.shuffle", x, blocksize=2, mode="CRD")
        x = g.op("LeakyRelu", f"up.{stage}.lrelu", x, alpha=0.1)
    scales = g.constant("base.scales", np.array([1, 1, 4, 4], np.float32))
    base = g.op(
        "Resize",
        "base.resize",
        "frame",
        "",
        scales,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    g.nodes.append(helper.make_node("Add", [g.conv("last", x, c, 3), base], ["output"], name="base.add"))

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape])

    graph = helper.make_graph(
        g.nodes,
        "warp_step",
        [
            value("frame", 3, height, width),
            value("hidden", c, height, width),
            value("flow", 2, height, width),
        ],
        [value("hidden_out", c, height, width), value("output", 3, 4 * height, 4 * width)],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def warp_step_inputs(height: int = 32, width: int = 32, channels: int = 8, seed: int = 1) -> dict[str, Array]:
    """Seeded feeds for `warp_step`; the flow is of some pixels, so that samples leave the frame."""
    rng = np.random.default_rng(seed)
    return {
        "frame": rng.random((1, 3, height, width), dtype=np.float32),
        "hidden": rng.standard_normal((1, channels, height, width), dtype=np.float32),
        "flow": 3 * rng.standard_normal((1, 2, height, width), dtype=np.float32),
    }


@pytest.fixture
def warp_step_model() -> ir.Model:
    """`warp_step` at 32x32: 26 nodes, all typed and shaped."""
    return warp_step()


@pytest.fixture
def warp_step_feeds() -> dict[str, Array]:
    """Feeds for `warp_step_model`."""
    return warp_step_inputs()


@pytest.fixture(scope="session")
def make_warp_step() -> Callable[..., ir.Model]:
    """`warp_step` itself, for other sizes, blocks or seeds."""
    return warp_step


@pytest.fixture(scope="session")
def make_warp_step_inputs() -> Callable[..., dict[str, Array]]:
    """`warp_step_inputs` itself."""
    return warp_step_inputs


@pytest.fixture
def cpu_target() -> Target:
    """A CPU that every backend of the catalog's CPUs serves, at any precision."""
    return Target(
        name="test-cpu",
        title="Any CPU",
        kind="cpu",
        architecture="x86-64",
        precisions=(Precision.FP32, Precision.BF16, Precision.INT8),
        backends={"onnxruntime": "", "openvino": "", "tvm": ""},
        unserved={"tensorrt-rtx": "TensorRT-RTX compiles for NVIDIA GPUs only"},
        tvm={"kind": "llvm"},
    )


@pytest.fixture
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, where the logs of its failed builds go."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
