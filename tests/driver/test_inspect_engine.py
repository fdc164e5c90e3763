"""What engines' files tell without the SDKs that made them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from superlower.backends.tensorrt.layers import EngineLayers, Layer, LayerTensor
from superlower.backends.tvm.engine import Io, Tensor
from superlower.driver.inspect_engine import inspect_engine
from superlower.errors import BadInputError


def plan(folder: Path) -> Path:
    """A plan of three layers: of the two convolutions the second moves more."""

    def tensor(name: str, *shape: int, dtype: str = "float16") -> LayerTensor:
        return LayerTensor(name=name, shape=shape, dtype=dtype)

    layers = EngineLayers(
        layers=(
            Layer(name="a", type="conv", inputs=(tensor("x", 4),), outputs=(tensor("y", 8),), nodes=("c1",)),
            Layer(
                name="b",
                type="conv",
                inputs=(tensor("y", 8),),
                constants=(tensor("w", 100, dtype="bfloat16"),),
                outputs=(tensor("z", 2, 3, dtype="float32"),),
            ),
            Layer(name="wait", type="signal", inputs=(), outputs=()),
        ),
        activation_bytes=64,
        weights_bytes=200,
        unread=("???",),
    )
    (folder / "layers.json").write_bytes(msgspec.json.encode(layers))
    path = folder / "engine.plan"
    path.write_bytes(bytes(1000))
    return path


def test_a_plan_is_told_by_its_layers(tmp_path: Path) -> None:
    view = inspect_engine(plan(tmp_path))
    assert (view.kind, view.nbytes, view.fused) == ("TensorRT plan", 1000, True)
    assert [layer.nbytes for layer in view.layers] == [2 * 12, 2 * 8 + 2 * 100 + 4 * 6, 0]
    assert view.types == {"conv": (2, 264), "signal": (1, 0)}
    assert [layer.name for layer in view.heaviest(2)] == ["b", "a"]
    assert view.layers[0].nodes == ("c1",)
    assert view.layers[1].dtype == "float32"
    assert "1 layers of an unknown form" in view.note


def test_a_plan_alone_says_what_is_missing(tmp_path: Path) -> None:
    path = plan(tmp_path)
    (tmp_path / "layers.json").unlink()
    assert "no layers.json beside it" in inspect_engine(path).note
    (tmp_path / "layers.json").write_text("{")
    with pytest.raises(BadInputError, match=r"layers\.json can't be read"):
        inspect_engine(path)


def test_a_library_for_a_cpu_has_no_device_code(tmp_path: Path) -> None:
    path = tmp_path / "engine.so"
    path.write_bytes(b"\x7fELF" + bytes(60))
    io = Io(inputs=(Tensor(name="x", dtype="float32", shape=(1, 3, 4, 4)),), outputs=("y",))
    (tmp_path / "engine.json").write_bytes(msgspec.json.encode(io))
    view = inspect_engine(path)
    assert (view.device_code, view.note) == ((), "no device code: for a CPU")
    assert (view.inputs, view.outputs) == ({"x": "float32 1x3x4x4"}, {"y": ""})
    (tmp_path / "engine.json").write_text("[]")
    with pytest.raises(BadInputError, match=r"engine\.json can't be read"):
        inspect_engine(path)


OPENVINO = """<?xml version="1.0"?>
<net name="n" version="11"><layers>
  <layer id="0" name="x" type="Parameter"><output>
    <port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></output></layer>
  <layer id="1" name="w" type="Const"><output>
    <port id="0" precision="FP16"><dim>4</dim></port></output></layer>
  <layer id="2" name="m" type="Multiply">
    <input><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port>
           <port id="1" precision="FP16"><dim>4</dim></port></input>
    <output><port id="2" precision="FP32"><dim>1</dim><dim>4</dim></port></output></layer>
  <layer id="3" name="y" type="Result">
    <input><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></input></layer>
</layers></net>"""


def test_an_openvino_model_is_its_operators(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(OPENVINO)
    path.with_suffix(".bin").write_bytes(bytes(500))
    view = inspect_engine(path)
    assert view.nbytes == len(OPENVINO) + 500
    assert (view.inputs, view.outputs) == ({"x": "f32 1x4"}, {"y": "f32 1x4"})
    (layer,) = view.layers
    assert (layer.name, layer.type, layer.dtype, layer.nbytes) == (
        "m",
        "Multiply",
        "f32",
        4 * 4 + 2 * 4 + 4 * 4,
    )
    assert not view.fused


@pytest.mark.parametrize("text", ["no xml", "<net/>"])
def test_what_is_no_openvino_model_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(text)
    with pytest.raises(BadInputError, match="is no OpenVINO model"):
        inspect_engine(path)


def test_an_onnx_model_as_an_engine(lone: Path) -> None:
    view = inspect_engine(lone)
    assert view.kind == "ONNX model"
    assert view.layers
    assert all(
        text.startswith("float 1x3x") for text in {**(view.inputs or {}), **(view.outputs or {})}.values()
    )


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such engine"):
        inspect_engine(tmp_path / "absent.plan")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(BadInputError, match="is no engine superlower knows"):
        inspect_engine(tmp_path / "a.txt")
