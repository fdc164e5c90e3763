"""Fused layers as the engine inspector tells them, in the words of old and new versions."""

from __future__ import annotations

import json

import pytest

from superlower.backends.tensorrt.inspector import read_inspector
from superlower.backends.tensorrt.layers import LayerTensor


def _one(**layer: object) -> str:
    return json.dumps({"Layers": [{"Name": "conv", **layer}], "Bindings": ["x"]})


@pytest.mark.parametrize(
    ("told", "dtype"),
    [
        ({"Format/Datatype": "Half"}, "float16"),
        ({"Format/Datatype": "Float"}, "float32"),
        ({"Format/Datatype": "BFloat16"}, "bfloat16"),
        ({"Format/Datatype": "Int8"}, "int8"),
        ({"Format/Datatype": "Row major linear FP32"}, "float32"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "float16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Format": "kLINEAR", "Datatype": "Half"}, "float16"),
    ],
)
def test_types_are_read_out_of_either_wording(told: dict[str, str], dtype: str) -> None:
    layers = read_inspector(_one(Outputs=[{"Name": "y", "Dimensions": [1, 8, 4, 4], **told}]))
    (tensor,) = layers.layers[0].outputs
    assert (tensor.name, tensor.shape, tensor.dtype) == ("y", (1, 8, 4, 4), dtype)
    assert tensor.format == told.get("Format", told.get("Format/Datatype"))


def test_a_layer_is_read_whole() -> None:
    layers = read_inspector(
        _one(
            LayerType="CaskConvolution",
            Inputs=[{"Name": "x", "Dimensions": [1, 3, 4, 4], "Format/Datatype": "Half"}],
            Constants=[{"Name": "w", "Dimensions": [8, 3, 3, 3], "Format/Datatype": "Half"}],
            Outputs=[{"Name": "y", "Dimensions": [1, 8, 4, 4], "Format/Datatype": "Half"}],
            TacticName="sm70_xmma_fprop",
            StreamId=1,
            Metadata="[ONNX Layer: trunk.conv1]\x1e[ONNX Layer: trunk.relu]",
        ),
        activation_bytes=4096,
        weights_bytes=128,
    )
    (layer,) = layers.layers
    assert (layer.type, layer.tactic, layer.stream) == ("CaskConvolution", "sm70_xmma_fprop", 1)
    assert layer.nodes == ("trunk.conv1", "trunk.relu")
    assert layer.constants == (LayerTensor(name="w", shape=(8, 3, 3, 3), dtype="float16", format="Half"),)
    assert layers.facts() == {
        "layers": 1,
        "half_layers": 1,
        "float_layers": 0,
        "activation_bytes": 4096,
        "weights_bytes": 128,
    }


def test_what_has_another_form_is_kept() -> None:
    # Names only: an engine that was built with less than detailed verbosity.
    layers = read_inspector(json.dumps({"Layers": ["conv + relu", {"Other": 1}]}))
    assert layers.layers == ()
    assert layers.unread == ("conv + relu", '{"Other":1}')
