"""Quantized and mixed graphs as plans: levels are what TensorRT takes, and kernels compute in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.tensorrt.layers import EngineLayers
from superlower.backends.tensorrt.rtx import TensorRtRtx
from superlower.ir import constant_value, infer_shapes, node_name
from superlower.passes.assign_precision import AssignPrecision
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.pipelines import apply
from superlower.passes.quantize import Quantize, watched
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.graphs import GraphBuilder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")

CHANNELS, BLOCKS = 32, 2


def trunk() -> ir.Model:
    """A warp of the state, then residual blocks: sums of convolutions of convolutions."""
    rng = np.random.default_rng(0)
    g = GraphBuilder()

    def conv(x: ir.Value) -> ir.Value:
        weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(CHANNELS * 9)
        weight[0] = 0  # A channel of zeros, whose scale must not be.
        return g.Conv(x, g.const(weight), g.const(np.zeros(CHANNELS)), pads=[1] * 4)

    state, grid = g.input("state", 1, CHANNELS, 32, 32), g.input("grid", 1, 32, 32, 2)
    x = g.Relu(conv(g.GridSample(state, grid, align_corners=0)))
    for _ in range(BLOCKS):
        x = g.Add(x, conv(g.Relu(conv(x))))
    return infer_shapes(g.model(x))


def convolutions(model: ir.Model) -> tuple[str, ...]:
    return tuple(node_name(node) for node in model.graph if node.op_type == "Conv")


def signed(model: ir.Model, nodes: tuple[str, ...]) -> Quantize:
    return Quantize(ranges=dict.fromkeys(watched(model), (-3.0, 2.0)), nodes=nodes, activations="int8")


def built(model: ir.Model, name: str, precision: Precision, folder: Path) -> list[tuple[str, str, str]]:
    """Type of layer, of what it reads and of what it makes, for each convolution of the plan."""
    artifact = TensorRtRtx().compile(model, target(name), BuildOptions(precision=precision), folder)
    layers = msgspec.json.decode((folder / artifact.files["layers"]).read_bytes(), type=EngineLayers)
    assert layers.unread == ()
    return [
        (layer.type, layer.inputs[0].dtype, layer.outputs[0].dtype)
        for layer in layers.layers
        if "Conv" in layer.name or layer.type == "correlation"
    ]


@pytest.mark.parametrize("name", ["rtx3090", pytest.param("rtx4090", marks=pytest.mark.slow)])
def test_every_quantized_convolution_runs_in_int8(name: str, tmp_path: Path) -> None:
    model = trunk()
    legal = TensorRtRtx().legalize(target(name), Precision.INT8)
    made, _ = apply(model, [*legal, signed(model, convolutions(model))])
    pairs = [n for n in made.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = [constant_value(node.inputs[1]) for node in pairs]
    zeros = [constant_value(node.inputs[2]) for node in pairs]
    assert all(scale is not None and (scale > 0).all() for scale in scales)
    assert all(zero is not None and (zero == 0).all() and zero.dtype == np.int8 for zero in zeros)
    per_channel = [scale for scale in scales if scale is not None and scale.shape == (CHANNELS,)]
    assert len(per_channel) == len(convolutions(model))
    kernels = built(made, name, Precision.INT8, tmp_path)
    assert len(kernels) == len(convolutions(model))
    assert {given for _, given, _ in kernels} == {"int8"}


def test_mixed_types_are_the_kernels_own(tmp_path: Path) -> None:
    model = trunk()
    first, *rest = convolutions(model)
    halves = {first: "bf16", rest[-1]: "fp16"}
    passes = [ConvertOpset(22), *TensorRtRtx().legalize(target("rtx3090"), Precision.MIXED)]
    quantized = tuple(rest[:-1])
    made, _ = apply(model, [*passes, signed(model, quantized), AssignPrecision(types=halves)])
    kernels = built(made, "rtx3090", Precision.MIXED, tmp_path)
    assert Counter(given for _, given, _ in kernels) == {"int8": len(quantized), "bfloat16": 1, "float16": 1}
