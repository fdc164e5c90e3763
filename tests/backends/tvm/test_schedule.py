"""Default CPU schedules: tiles fit the registers, and every kind of loop nest still computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.base import BuildOptions
from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.schedule import Registers, registers, tile_sizes
from superlower.targets.catalog import target

AVX512, AVX2, NEON = Registers(16, 24), Registers(8, 12), Registers(4, 24)
HALF_ULP = 2.0**-24


@given(
    rows=st.integers(1, 512),
    columns=st.integers(1, 2048),
    vectors=st.sampled_from([AVX512, AVX2, NEON, Registers(4, 12)]),
)
def test_tiles_divide_the_output_and_fit_the_registers(rows: int, columns: int, vectors: Registers) -> None:
    height, width, lanes = tile_sizes(rows, columns, vectors)
    assert rows % height == 0
    assert columns % (width * lanes) == 0
    assert height * width <= vectors.accumulators
    assert lanes <= vectors.lanes


def test_a_trunk_convolution_fills_the_registers() -> None:
    # 64 channels, 320 pixels: four rows of five registers load the least per product of what 24 can hold.
    assert tile_sizes(64, 320, AVX512) == (4, 5, 16)
    assert tile_sizes(64, 64, AVX512) == (4, 4, 16)


def test_registers_follow_the_instruction_set() -> None:
    assert registers(frozenset({"avx", "avx2", "avx512f"})) == AVX512
    assert registers(frozenset({"avx", "avx2"})) == AVX2
    assert registers(frozenset({"neon"})) == NEON
    assert registers(frozenset()).lanes == 4


AXES = """
import json, sys
import onnx_ir as ir
from tvm import s_tir, tirx
from superlower.backends.tvm import blocks, build, schedule
from superlower.backends.tvm.processors import Cpu
where = Cpu({"kind": "llvm", "mcpu": "haswell", "num-cores": 2})
found = {}
for name, function in build.fused(ir.load(sys.argv[1]), where).functions_items():
    if not isinstance(function, tirx.PrimFunc):
        continue
    made = s_tir.Schedule(function)
    for block in made.get_child_blocks(made.get_sblock("root")):
        if blocks.is_reduction(made, block):
            spatial = [kind for kind in blocks.kinds(made, block) if kind == blocks.SPATIAL]
            found[blocks.name(made, block)] = schedule._reuse_axis(made, block, len(spatial))
print(json.dumps(found))
"""


def test_tiles_go_along_what_the_input_is_the_same_for(tmp_path: Path) -> None:
    """A convolution's channels, however many rows its frame has; a product's rows."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (8, 4, 3, 3)), ("m", (24, 16)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["a", "m"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 4, 40, 24]), ("y", [1, 8, 40, 16]))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), tmp_path / "g.onnx")
    done = subprocess.run(
        [sys.executable, "-c", AXES, str(tmp_path / "g.onnx")],
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["conv2d_nchw"] == 1
    assert found["matmul"] == 2


CASES: dict[str, tuple[str, tuple[tuple[int, ...], ...], dict[str, object]]] = {
    "conv": ("Conv", ((1, 6, 12, 20), (8, 6, 3, 3), (8,)), {"pads": [1, 1, 1, 1]}),
    "conv_1x1": ("Conv", ((1, 6, 12, 20), (16, 6, 1, 1)), {}),
    "conv_batch": ("Conv", ((3, 4, 9, 8), (5, 4, 3, 3)), {"pads": [1, 1, 1, 1]}),
    "conv_prime_width": ("Conv", ((1, 4, 7, 13), (6, 4, 3, 3)), {"pads": [1, 1, 1, 1]}),
    "conv_stride": ("Conv", ((1, 4, 12, 32), (8, 4, 3, 3)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "conv_dilated": ("Conv", ((1, 4, 12, 16), (8, 4, 3, 3)), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "conv_groups": ("Conv", ((1, 8, 8, 16), (8, 4, 3, 3)), {"group": 2, "pads": [1, 1, 1, 1]}),
    "conv_depthwise": ("Conv", ((1, 8, 8, 16), (8, 1, 3, 3)), {"group": 8, "pads": [1, 1, 1, 1]}),
    "conv_to_one_pixel": ("Conv", ((1, 4, 3, 3), (1, 4, 3, 3)), {}),
    "conv_1d": ("Conv", ((1, 4, 24), (8, 4, 3)), {"pads": [1, 1]}),
    "conv_3d": ("Conv", ((1, 2, 5, 8, 16), (4, 2, 3, 3, 3)), {"pads": [1, 1, 1, 1, 1, 1]}),
    "conv_transpose": (
        "ConvTranspose",
        ((1, 6, 8, 8), (6, 4, 4, 4)),
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "matmul": ("MatMul", ((12, 30), (30, 32)), {}),
    "matmul_batch": ("MatMul", ((2, 3, 12, 7), (2, 3, 7, 5)), {}),
    "matmul_vector": ("MatMul", ((12, 30), (30,)), {}),
    "average_pool": ("AveragePool", ((1, 4, 8, 16),), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "global_average": ("GlobalAveragePool", ((1, 8, 9, 11),), {}),
    "sum_all": ("ReduceSum", ((3, 4, 5),), {"keepdims": 0}),
}
"""Sums of products, or of values: a kind, the inputs' shapes (all but the first are weights), attributes."""


def _linear(weights_of: int) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    """All cases in one graph, so that one build answers for them."""
    rng = np.random.default_rng(weights_of)
    nodes, initializers, inputs, outputs = [], [], [], []
    feeds: dict[str, NDArray[np.float32]] = {}
    for name, (kind, shapes, attributes) in CASES.items():
        feeds[f"{name}.x"] = rng.standard_normal(shapes[0]).astype(np.float32)
        inputs.append(helper.make_tensor_value_info(f"{name}.x", TensorProto.FLOAT, shapes[0]))
        names = [f"{name}.x"]
        for i, shape in enumerate(shapes[1:]):
            names.append(f"{name}.w{i}")
            weight = rng.standard_normal(shape).astype(np.float32)
            initializers.append(numpy_helper.from_array(weight, names[-1]))
        nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "linear", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model), feeds


def _absolute(
    model: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """The sums of the terms' sizes: the model over |weights| and |inputs|."""
    magnitudes = onnx.ModelProto()
    magnitudes.CopyFrom(model)
    for tensor in magnitudes.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)), tensor.name))
    return _reference(magnitudes, {name: np.abs(value) for name, value in feeds.items()})


def _reference(
    model: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_every_sum_agrees_with_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    model, feeds = _linear(weights_of=0)
    backend = Tvm()
    artifact = backend.compile(ir.from_proto(model), target("cpu"), BuildOptions(threads=2), tmp_path)
    session = backend.load(artifact, tmp_path)
    try:
        found = session.run(feeds)
    finally:
        session.close()
    expected, magnitude = _reference(model, feeds), _absolute(model, feeds)
    assert found.keys() == expected.keys()
    for name in CASES:
        assert found[name].shape == expected[name].shape, name
        # Two float32 sums of n terms in any two orders differ by at most 2 (n - 1) u sum|terms|, each product
        # adding one rounding more (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
        bound = 2 * _terms(name) * HALF_ULP * magnitude[name] * 1.01
        assert np.all(np.abs(found[name] - expected[name]) <= bound + 1e-30), name


def _terms(name: str) -> int:
    kind, shapes, _ = CASES[name]
    if kind in ("Conv", "ConvTranspose"):
        first = shapes[1][0] if kind == "ConvTranspose" else shapes[1][1]
        return first * int(np.prod(shapes[1][2:])) + 1
    if kind == "MatMul":
        return shapes[0][-1]
    if kind == "AveragePool":
        return 4 + 1
    return int(np.prod(shapes[0])) + 1


def _chain() -> onnx.ModelProto:
    """What isn't one sum: several reductions in a kernel, and readers that aren't element-wise."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 10])
    scale = numpy_helper.from_array(np.linspace(0.5, 1.5, 10, dtype=np.float32), "scale")
    shift = numpy_helper.from_array(np.linspace(-1, 1, 10, dtype=np.float32), "shift")
    slopes = numpy_helper.from_array(np.full((4, 1, 1), 0.2, np.float32), "slopes")
    axes = numpy_helper.from_array(np.array([1, 3], np.int64), "axes")
    nodes = [
        helper.make_node("Softmax", ["x"], ["softmax"], axis=1),
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["norm"], axis=-1),
        helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("PRelu", ["pooled", "slopes"], ["prelu"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Sigmoid", ["centred"], ["gate"]),
        helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
        helper.make_node("Transpose", ["gate"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMax", ["turned", "axes"], ["highest"], keepdims=0),
    ]
    kinds = {"best": TensorProto.INT64}
    outputs = ["softmax", "norm", "prelu", "gate", "best", "highest"]
    values = [helper.make_tensor_value_info(o, kinds.get(o, TensorProto.FLOAT), None) for o in outputs]
    graph = helper.make_graph(nodes, "chain", [x], values, [scale, shift, slopes, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def test_reductions_in_a_row_agree_with_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    model = _chain()
    feeds = {"x": np.random.default_rng(3).standard_normal((1, 4, 6, 10)).astype(np.float32)}
    backend = Tvm()
    artifact = backend.compile(ir.from_proto(model), target("cpu"), BuildOptions(threads=1), tmp_path)
    session = backend.load(artifact, tmp_path)
    try:
        found = session.run(feeds)
    finally:
        session.close()
    for name, value in _reference(model, feeds).items():
        assert found[name].dtype == value.dtype
        # Values of size 3 at most, and sums of 40 at most: 40 roundings of 3 * 2^-24, twice for the variance.
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2 * 40 * 3 * HALF_ULP, err_msg=name)
