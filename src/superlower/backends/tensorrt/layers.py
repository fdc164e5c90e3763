"""The fused layers of an engine, read from the build log: without a GPU there is no engine inspector.

Written down as layers.json: which ONNX nodes became one kernel, and in which types and layouts it works.
"""

from __future__ import annotations

import re

import msgspec

_TENSORS = r"\[(?P<{0}>(?:\s*\{{.*?\}}\s*,?)*)\s*\]"
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), "
    rf"Inputs: {_TENSORS.format('inputs')}, "
    rf"(?:Constants: {_TENSORS.format('constants')}, )?"
    rf"Outputs: {_TENSORS.format('outputs')}, "
    r".*?TacticName: (?P<tactic>.*?), StreamId: (?P<stream>\d+), .*?Metadata: ?(?P<metadata>.*)"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-\d,]*)\].*?"
    r"Datatype: (?P<dtype>\w+)(?:, Format: (?P<format>.*?))?\s*\}"
)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[]|$)")
_TOTAL = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")

_NO_KERNELS = ("signal", "wait")

_TYPES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "Int4": "int4",
    "Int8": "int8",
    "UInt8": "uint8",
    "Int32": "int32",
    "Int64": "int64",
    "Bool": "bool",
}


class LayerTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor a layer reads or writes: numpy name of its type, layout in the SDK's words."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    format: str = ""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel of the engine.

    Attributes:
        name, type: the SDK's.
        inputs, constants, outputs: constants are weights and other values held by the engine.
        tactic: kernel chosen, where the log says so.
        nodes: names of ONNX nodes fused into it; empty for layout changes and where the log doesn't say.
        stream: which of the engine's streams it runs on; they meet at layers of type signal and wait.
    """

    name: str
    type: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...] = ()
    tactic: str = ""
    nodes: tuple[str, ...] = ()
    stream: int = 0

    def writes(self, dtype: str) -> bool:
        """Whether the first output is of this type: what a layer is counted as."""
        return bool(self.outputs) and self.outputs[0].dtype == dtype


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    """A GridSample as the network holds it, before fusion: ONNX node, SDK's mode and padding, numpy types."""

    node: str
    mode: str
    padding: str
    input: str
    grid: str


class EngineLayers(msgspec.Struct, frozen=True, kw_only=True):
    """layers.json.

    Attributes:
        layers: in order of execution.
        activation_bytes: device memory of one execution context.
        weights_bytes: device memory of the weights.
        samplers: the network's GridSamples.
        unread: lines of the log's layer block that are of an unknown form, verbatim.
    """

    layers: tuple[Layer, ...]
    activation_bytes: int
    weights_bytes: int
    samplers: tuple[Sampler, ...] = ()
    unread: tuple[str, ...] = ()

    def facts(self) -> dict[str, int]:
        """Figures for a manifest. A layer counts as half or float by the type it writes."""
        kernels = [layer for layer in self.layers if layer.type not in _NO_KERNELS]
        return {
            "layers": len(kernels) + len(self.unread),
            "half_layers": sum(layer.writes("float16") for layer in self.layers),
            "float_layers": sum(layer.writes("float32") for layer in self.layers),
            "activation_bytes": self.activation_bytes,
            "weights_bytes": self.weights_bytes,
        }


def type_name(sdk_name: str) -> str:
    """numpy name of an element type the log calls "Half", "Float", ..."""
    return _TYPES.get(sdk_name, sdk_name.lower())


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Names of the ONNX nodes in a layer's metadata: "[ONNX Layer: a]\\x1e[ONNX Layer: b]"."""
    return tuple(_NODE.findall(metadata))


def _tensors(text: str | None) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(
            name=m["name"],
            shape=tuple(int(size) for size in m["shape"].split(",") if size),
            dtype=type_name(m["dtype"]),
            format=(m["format"] or "").strip(),
        )
        for m in _TENSOR.finditer(text or "")
    )


def read_layers(messages: str, samplers: tuple[Sampler, ...] = ()) -> EngineLayers:
    """Read the `Layers:` block and the memory totals out of verbose build messages.

    The block has one line a layer and ends at an empty line. A line of another form is kept in `unread`.
    """
    layers: list[Layer] = []
    unread: list[str] = []
    block = re.search(r"^Layers:\n(.*?)(?:\n\s*\n|\Z)", messages, re.MULTILINE | re.DOTALL)
    for line in block[1].splitlines() if block else ():
        match = _LAYER.fullmatch(line.strip())
        if match is None:
            unread.append(line)
            continue
        layers.append(
            Layer(
                name=match["name"],
                type=match["type"],
                inputs=_tensors(match["inputs"]),
                constants=_tensors(match["constants"]),
                outputs=_tensors(match["outputs"]),
                tactic=match["tactic"],
                nodes=onnx_nodes(match["metadata"]),
                stream=int(match["stream"]),
            )
        )
    totals = {kind: int(size) for kind, size in _TOTAL.findall(messages)}
    return EngineLayers(
        layers=tuple(layers),
        activation_bytes=totals.get("Activation", 0),
        weights_bytes=totals.get("Weights", 0),
        samplers=samplers,
        unread=tuple(unread),
    )
