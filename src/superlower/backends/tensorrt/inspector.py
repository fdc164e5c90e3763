"""The fused layers of an engine, as TensorRT's engine inspector tells them where there is a GPU.

The inspector's words differ by version: element types are "Half" and "Float" in newer ones, and hidden in a
sentence ("Row major linear FP16 format") in older ones.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from superlower.backends.tensorrt.layers import (
    EngineLayers,
    Layer,
    LayerTensor,
    Sampler,
    onnx_nodes,
    type_name,
)

_WORDS = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3fn",
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}


def read_inspector(
    information: str, samplers: tuple[Sampler, ...] = (), *, activation_bytes: int = 0, weights_bytes: int = 0
) -> EngineLayers:
    """Read what `get_engine_information` gives in JSON.

    With less than detailed verbosity a layer is its name only; such are kept in `unread`, as are all of an
    unknown form.
    """
    layers: list[Layer] = []
    unread: list[str] = []
    for told in msgspec.json.decode(information).get("Layers", ()):
        if not isinstance(told, dict) or "Name" not in told:
            unread.append(told if isinstance(told, str) else msgspec.json.encode(told).decode())
            continue
        layers.append(
            Layer(
                name=told["Name"],
                type=told.get("LayerType", ""),
                inputs=_tensors(told.get("Inputs")),
                outputs=_tensors(told.get("Outputs")),
                constants=_tensors(told.get("Constants")),
                tactic=told.get("TacticName", ""),
                nodes=onnx_nodes(told.get("Metadata", "")),
                stream=int(told.get("StreamId", 0)),
            )
        )
    return EngineLayers(
        layers=tuple(layers),
        activation_bytes=activation_bytes,
        weights_bytes=weights_bytes,
        samplers=samplers,
        unread=tuple(unread),
    )


def _tensors(told: Any) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(
            name=tensor.get("Name", ""),
            shape=tuple(int(size) for size in tensor.get("Dimensions", ())),
            dtype=_dtype(tensor),
            format=tensor.get("Format", tensor.get("Format/Datatype", "")),
        )
        for tensor in told or ()
    )


def _dtype(tensor: dict[str, Any]) -> str:
    told = tensor.get("Datatype") or tensor.get("Format/Datatype", "")
    for word in re.findall(r"\w+", told.lower()):
        if word in _WORDS:
            return _WORDS[word]
    return type_name(told)
