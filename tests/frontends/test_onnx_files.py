"""ONNX files as temporal models: contracts, sizes, opsets, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from superlower import ir
from superlower.errors import BadInputError
from superlower.frontends import onnx_files
from superlower.program import files

RNG = np.random.default_rng(11)


def upscaler(
    path: Path,
    *,
    opset: int = 19,
    shape: tuple[int | str, ...] = (1, 3, 8, 12),
    scale: int = 2,
    dtype: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> Path:
    """Convolution and depth-to-space; further inputs are added to the first."""
    channels = int(shape[1])
    weight = RNG.standard_normal((channels * scale**2, channels, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=scale, mode="CRD"),
    ]
    grown = [s * scale if isinstance(s, int) else f"{s}_out" for s in shape[2:]]
    given = [helper.make_tensor_value_info("x", dtype, shape)]
    for index in range(1, inputs):
        given.append(helper.make_tensor_value_info(f"x{index}", dtype, shape))
    graph = helper.make_graph(
        nodes,
        "g",
        given,
        [helper.make_tensor_value_info("y", dtype, [shape[0], channels, *grown])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return save(graph, path, opset)


def save(graph: onnx.GraphProto, path: Path, opset: int) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def run(data: bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize(("channels", "color"), [(3, "rgb"), (1, "y")])
def test_a_lone_file_becomes_one_equation(channels: int, color: str, tmp_path: Path) -> None:
    path = upscaler(tmp_path / "my_net.onnx", shape=(1, channels, 8, 12), scale=4)
    model = onnx_files.load(path)
    frame = model.program.frame
    assert model.program.name == "my_net"
    assert (frame.height, frame.width, frame.scale, frame.channels, frame.color) == (
        8,
        12,
        4,
        channels,
        color,
    )
    assert model.program.streams["output"].shape == (1, channels, "4*H", "4*W")
    (equation,) = model.program.equations
    assert (equation.inputs, equation.outputs) == ({"x": "frame[t]"}, {"y": "output"})
    folder = tmp_path / "folder"
    files.save_model(model, folder)
    again = onnx_files.load(folder)
    assert again.program == model.program
    assert ir.digest(again.graphs["upscale"]) == ir.digest(model.graphs["upscale"])


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (1, 3, "h", 12), (1, 3, -1, -1)])
def test_dynamic_sizes_become_those_asked_for(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    shape = tuple(f"d{i}" if s == -1 else s for i, s in enumerate(shape))
    path = upscaler(tmp_path / "net.onnx", shape=shape)
    graph = onnx_files.load(path, height=10, width=12).graphs["upscale"]
    assert ir.io_shapes(graph) == ({"x": (1, 3, 10, 12)}, {"y": (1, 3, 20, 24)})
    frame = RNG.random((1, 3, 10, 12), dtype=np.float32)
    np.testing.assert_array_equal(
        run(ir.serialize(graph), {"x": frame}), run(path.read_bytes(), {"x": frame})
    )
    with pytest.raises(BadInputError, match="say which height and width"):
        onnx_files.load(path)


def test_sizes_computed_from_the_frame_become_constant(tmp_path: Path) -> None:
    """Exporters write `interpolate(x, (2 * h, 2 * w))` of a dynamic frame as arithmetic on its shape."""
    constants = {
        "two": np.array([2], np.int64),
        "start": np.array([2], np.int64),
        "end": np.array([4], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "start", "end"], ["sides"]),
        helper.make_node("Mul", ["sides", "two"], ["grown"]),
        helper.make_node("Slice", ["shape", "zero", "start"], ["front"]),
        helper.make_node("Concat", ["front", "grown"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    constants["zero"] = np.array([0], np.int64)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    path = save(graph, tmp_path / "net.onnx", 17)
    model = onnx_files.load(path, height=6, width=10)
    assert ir.io_shapes(model.graphs["upscale"])[1] == {"y": (1, 3, 12, 20)}
    frame = RNG.random((1, 3, 6, 10), dtype=np.float32)
    found = run(ir.serialize(model.graphs["upscale"]), {"x": frame})
    np.testing.assert_array_equal(found, run(path.read_bytes(), {"x": frame}))


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 22])
def test_other_opsets_are_converted(opset: int, tmp_path: Path) -> None:
    path = upscaler(tmp_path / "net.onnx", opset=opset)
    graph = onnx_files.load(path).graphs["upscale"]
    assert graph.opset_imports[""] == ir.OPSET
    frame = RNG.random((1, 3, 8, 12), dtype=np.float32)
    np.testing.assert_array_equal(
        run(ir.serialize(graph), {"x": frame}), run(path.read_bytes(), {"x": frame})
    )


def test_an_operator_newer_than_our_opset_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gelu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    path = save(graph, tmp_path / "net.onnx", 20)
    with pytest.raises(
        BadInputError,
        match=r"opset 20 and can't be converted to 19: no conversion of Gelu; export it at opset 19",
    ):
        onnx_files.load(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 3}, r"3 inputs \(x, x1, x2\), not one: .*write a program\.json"),
        ({"dtype": TensorProto.FLOAT16}, "input 'x' is float16, not float32"),
        ({"shape": (1, 4, 8, 8)}, "input is 1x4x8x8, not one frame"),
        ({"shape": (2, 3, 8, 8)}, "input is 2x3x8x8, not one frame"),
    ],
)
def test_other_signatures_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    path = upscaler(tmp_path / "net.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=message):
        onnx_files.load(path)


def unary(path: Path, node: onnx.NodeProto, given: list[int], made: list[int]) -> Path:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
    )
    return save(graph, path, 19)


def test_shapes_that_are_no_scale_are_refused(tmp_path: Path) -> None:
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    path = unary(tmp_path / "down.onnx", pool, [1, 3, 8, 8], [1, 3, 4, 4])
    with pytest.raises(BadInputError, match="8x8 becomes 4x4, which is no whole scale"):
        onnx_files.load(path)
    flat = unary(tmp_path / "flat.onnx", helper.make_node("Relu", ["x"], ["y"]), [8, 8], [8, 8])
    with pytest.raises(BadInputError, match="input 'x' is 2-dimensional"):
        onnx_files.load(flat)


def test_another_size_than_the_file_is_built_for_is_refused(tmp_path: Path) -> None:
    path = upscaler(tmp_path / "net.onnx")
    assert onnx_files.load(path, height=8, width=12).program.frame.width == 12
    with pytest.raises(BadInputError, match="width of 12 pixels, not 13"):
        onnx_files.load(path, height=8, width=13)
    folder = tmp_path / "folder"
    files.save_model(onnx_files.load(path), folder)
    with pytest.raises(BadInputError, match="height of 8 pixels, not 16"):
        onnx_files.load(folder, height=16)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"hello"])
def test_a_damaged_file_is_refused(damage, tmp_path: Path) -> None:
    path = upscaler(tmp_path / "net.onnx")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInputError, match=r"net\.onnx is not a valid ONNX model"):
        onnx_files.load(path)


def test_functions_become_their_bodies(tmp_path: Path) -> None:
    opset = helper.make_opsetid("", 19)
    body = helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.25)
    function = helper.make_function("some.own", "Act", ["a"], ["b"], [body], [opset])
    graph = helper.make_graph(
        [helper.make_node("Act", ["x"], ["y"], domain="some.own")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    made = helper.make_model(
        graph, opset_imports=[opset, helper.make_opsetid("some.own", 1)], functions=[function], ir_version=9
    )
    onnx.save(made, tmp_path / "net.onnx")
    (loaded,) = onnx_files.load(tmp_path / "net.onnx").graphs.values()
    assert [(node.domain, node.op_type) for node in loaded.graph] == [("", "LeakyRelu")]
    assert not loaded.functions
    assert loaded.opset_imports == {"": 19}
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        run(ir.serialize(loaded), {"x": x}), np.where(x < 0, x * np.float32(0.25), x)
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no such ONNX file: .*absent\.onnx"):
        onnx_files.load(tmp_path / "absent.onnx")
