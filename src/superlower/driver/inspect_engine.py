"""What an engine's files say of it, without the SDK that built it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np

from superlower.backends.tensorrt.layers import EngineLayers, Layer, LayerTensor
from superlower.backends.tvm.cubin import DeviceCode, device_code
from superlower.backends.tvm.engine import IO, Io
from superlower.driver.roofline import graph_cost
from superlower.errors import BadInputError
from superlower.ir import io_shapes, load

LAYERS = "layers.json"
PLANS = (".plan", ".engine", ".trt")
SUFFIXES = (*PLANS, ".so", ".xml")
"""Files that are engines by their names; an .onnx may be a model as well."""
_STORED = "operators as stored: they are fused when the engine is loaded"


@dataclass(frozen=True)
class LayerView:
    """One layer of an engine.

    Attributes:
        name, type: the SDK's.
        dtype: of what it writes.
        nbytes: of the tensors it reads and writes, its weights among them; 0 where their types aren't known.
        nodes: names of the ONNX nodes in it, where the SDK says.
    """

    name: str
    type: str
    dtype: str
    nbytes: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineView:
    """An engine.

    Attributes:
        file: its path.
        kind: what it is, in words.
        nbytes: of the file, and of the weights beside it.
        layers: in order; empty where the format doesn't tell.
        device_code: binaries for GPUs inside it.
        inputs, outputs: name -> type and shape in words, where the format tells.
        note: what isn't known, and why.
        fused: whether the layers are what runs; else they are operators still to be fused.
    """

    file: str
    kind: str
    nbytes: int
    layers: tuple[LayerView, ...] = ()
    device_code: tuple[DeviceCode, ...] = ()
    inputs: dict[str, str] | None = None
    outputs: dict[str, str] | None = None
    note: str = ""
    fused: bool = False

    @property
    def types(self) -> dict[str, tuple[int, int]]:
        """Type of layer -> how many, and bytes they read and write; the most bytes first."""
        count, moved = Counter[str](), Counter[str]()
        for layer in self.layers:
            count[layer.type] += 1
            moved[layer.type] += layer.nbytes
        return {kind: (count[kind], moved[kind]) for kind in sorted(count, key=lambda k: -moved[k])}

    def heaviest(self, most: int = 5) -> list[LayerView]:
        """The layers that read and write the most bytes."""
        return sorted(self.layers, key=lambda layer: -layer.nbytes)[:most]


def inspect_engine(path: Path) -> EngineView:
    """Read an engine's file: a TensorRT plan with its layers.json, TVM's library, OpenVINO's .xml, an .onnx.

    Raises:
        BadInputError: no such file, of no known kind, or damaged.
    """
    if not path.is_file():
        raise BadInputError(f"no such engine: {path}")
    if path.suffix in PLANS:
        return _plan(path)
    if path.suffix == ".so":
        return _library(path)
    if path.suffix == ".xml":
        return _openvino(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    raise BadInputError(f"{path} is no engine superlower knows: it reads {', '.join(SUFFIXES)} and .onnx")


def _plan(path: Path) -> EngineView:
    size, beside = path.stat().st_size, path.with_name(LAYERS)
    if not beside.is_file():
        return EngineView(
            str(path), "TensorRT plan", size, note=f"its layers aren't known: no {LAYERS} beside it"
        )
    try:
        found = msgspec.json.decode(beside.read_bytes(), type=EngineLayers)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInputError(f"{beside} can't be read ({error}): compile the model again") from error
    layers = tuple(
        LayerView(
            name=layer.name,
            type=layer.type,
            dtype=layer.outputs[0].dtype if layer.outputs else "",
            nbytes=layer_bytes(layer),
            nodes=layer.nodes,
        )
        for layer in found.layers
    )
    note = f"{len(found.unread)} layers of an unknown form" if found.unread else ""
    return EngineView(str(path), "TensorRT plan", size, layers=layers, note=note, fused=True)


def layer_bytes(layer: Layer) -> int:
    """Bytes that a fused layer reads and writes, its weights among them."""
    return sum(map(_nbytes, (*layer.inputs, *layer.constants, *layer.outputs)))


def _nbytes(tensor: LayerTensor) -> int:
    try:
        itemsize = np.dtype(tensor.dtype).itemsize
    except TypeError:
        itemsize = {"bfloat16": 2, "float8_e4m3fn": 1}.get(tensor.dtype, 0)
    return prod(tensor.shape) * itemsize


def _library(path: Path) -> EngineView:
    codes = tuple(device_code(path))
    inputs = outputs = None
    beside = path.with_name(IO)
    if beside.is_file():
        try:
            io = msgspec.json.decode(beside.read_bytes(), type=Io)
        except msgspec.DecodeError as error:
            raise BadInputError(f"{beside} can't be read ({error}): compile the model again") from error
        inputs = {tensor.name: _described(tensor.dtype, tensor.shape) for tensor in io.inputs}
        outputs = dict.fromkeys(io.outputs, "")
    note = "" if codes else "no device code: for a CPU"
    return EngineView(
        str(path),
        "TVM library",
        path.stat().st_size,
        device_code=codes,
        inputs=inputs,
        outputs=outputs,
        note=note,
    )


_OPENVINO = {"f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i8": 1, "u8": 1, "boolean": 1}
_OPENVINO_TYPES = {
    "FP32": "f32",
    "FP16": "f16",
    "BF16": "bf16",
    "I64": "i64",
    "I32": "i32",
    "I8": "i8",
    "U8": "u8",
}


def _openvino(path: Path) -> EngineView:
    """OpenVINO's IR: a graph that the plug-in fuses only when it loads it."""
    try:
        layers = ElementTree.parse(path).getroot().findall("layers/layer")
    except ElementTree.ParseError as error:
        raise BadInputError(f"{path} is no OpenVINO model: {error}") from error
    if not layers:
        raise BadInputError(f"{path} is no OpenVINO model: it has no layers")
    views, inputs, outputs = [], {}, {}
    for layer in layers:
        name, kind = layer.get("name", ""), layer.get("type", "")
        ports = [*layer.findall("input/port"), *layer.findall("output/port")]
        types = [_OPENVINO_TYPES.get(p.get("precision", ""), p.get("precision", "").lower()) for p in ports]
        shapes = [tuple(int(dim.text or 0) for dim in port.findall("dim")) for port in ports]
        if kind == "Parameter":
            inputs[name] = _described(types[0], shapes[0])
        elif kind == "Result":
            outputs[name] = _described(types[0], shapes[0])
        elif kind != "Const":
            moved = sum(prod(s) * _OPENVINO.get(t, 0) for t, s in zip(types, shapes, strict=True))
            views.append(LayerView(name, kind, types[-1] if types else "", moved))
    weights = path.with_suffix(".bin")
    size = path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
    return EngineView(
        str(path),
        "OpenVINO model",
        size,
        layers=tuple(views),
        inputs=inputs,
        outputs=outputs,
        note=_STORED,
    )


def _onnx(path: Path) -> EngineView:
    """ONNX Runtime's model: a graph that it fuses when it makes a session."""
    model = load(path)
    inputs, outputs = io_shapes(model)
    types = {str(v.name): str(v.dtype).lower() for v in (*model.graph.inputs, *model.graph.outputs)}
    return EngineView(
        str(path),
        "ONNX model",
        path.stat().st_size,
        layers=tuple(
            LayerView(node.node, node.op, "", node.moved.nbytes()) for node in graph_cost(model).nodes
        ),
        inputs={name: _described(types[name], shape) for name, shape in inputs.items()},
        outputs={name: _described(types[name], shape) for name, shape in outputs.items()},
        note=_STORED,
    )


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'x'.join(map(str, shape))}".strip()
