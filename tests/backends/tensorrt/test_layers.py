"""The fused layers, out of a log's text."""

from __future__ import annotations

import string

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from superlower.backends.tensorrt.layers import EngineLayers, Layer, LayerTensor, read_layers

# Two lines of a log of TensorRT-RTX 1.7.1.116, with what stands around them.
LOG = """Engine generation completed in 0.0589739 seconds.
Total Activation Memory: 13221888 bytes
Total Weights Memory: 66048 bytes
Layers:
Name: __myl_AddGrid_myl0_2, LayerType: kgen, Inputs: [ { Name: grid, Dimensions: [1,64,64,2], \
Strides: [8192,128,2,1], StrideOrder: [3,2,1,0], Datatype: Float, \
Format: (Linear) Row major linear format }, { Name: hidden, Dimensions: [1,8,64,64], \
Strides: [32768,1,512,8], StrideOrder: [3,0,2,1], \
Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: one, Dimensions: [], \
Strides: [], StrideOrder: [], Datatype: Float, Format: (Linear) Row major linear format }], \
Outputs: [ { Name: out, Dimensions: [1,8,64,64], Strides: [32768,1,512,8], StrideOrder: [3,0,2,1], \
Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myl_AddGrid_0xdbf1, StreamId: 0, \
Metadata: [ONNX Layer: warp.add]\x1f[ONNX Layer: warp.sample]
Name: __myl_Move_myl0_1, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,8,64,64], \
Strides: [32768,4096,64,1], StrideOrder: [3,2,1,0], Datatype: Float, \
Format: (Linear) Row major linear format }], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
Metadata:\x20
Name: exit^bb^signal^1_myl0_77, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , \
StreamId: 1, EventId: 2, Metadata:\x20
Something new

I/O Tensors:
 Name: frame, IOMode: Input, DataType: Float
"""


def test_a_layer_is_read_whole() -> None:
    layers = read_layers(LOG)
    nhwc, linear = "(NHWC) Channel major format", "(Linear) Row major linear format"
    assert layers.layers[0] == Layer(
        name="__myl_AddGrid_myl0_2",
        type="kgen",
        inputs=(
            LayerTensor(name="grid", shape=(1, 64, 64, 2), dtype="float32", format=linear),
            LayerTensor(name="hidden", shape=(1, 8, 64, 64), dtype="float16", format=nhwc),
        ),
        constants=(LayerTensor(name="one", shape=(), dtype="float32", format=linear),),
        outputs=(LayerTensor(name="out", shape=(1, 8, 64, 64), dtype="float16", format=nhwc),),
        tactic="__myl_AddGrid_0xdbf1",
        nodes=("warp.add", "warp.sample"),
    )
    assert layers.layers[1].nodes == ()
    assert layers.layers[1].outputs == ()
    assert (layers.layers[2].type, layers.layers[2].stream) == ("signal", 1)


def test_totals_and_counts() -> None:
    assert read_layers(LOG).facts() == {
        "layers": 3,
        "half_layers": 1,
        "float_layers": 0,
        "activation_bytes": 13221888,
        "weights_bytes": 66048,
    }


def test_a_line_of_another_form_is_kept_and_ends_nothing() -> None:
    assert read_layers(LOG).unread == ("Something new",)


def test_a_log_without_layers_has_none() -> None:
    assert read_layers("Total Activation Memory: 7 bytes") == EngineLayers(
        layers=(), activation_bytes=7, weights_bytes=0
    )


_NAMES = st.text(string.ascii_letters + string.digits + "/._:[]() -", min_size=1).map(str.strip).filter(bool)


@given(name=_NAMES, nodes=st.lists(_NAMES, max_size=4), shape=st.lists(st.integers(1, 9), max_size=5))
def test_names_of_exporters_are_read_back(name: str, nodes: list[str], shape: list[int]) -> None:
    sizes = ",".join(map(str, shape))
    tensor = f"{{ Name: {name}, Dimensions: [{sizes}], Strides: [1], Datatype: Half, Format: (NHWC) major }}"
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    line = (
        f"Layers:\nName: {name}, LayerType: kgen, Inputs: [ {tensor}, {tensor}], Constants: [], "
        f"Outputs: [ {tensor}], TacticName: t, StreamId: 1, Metadata: {metadata}\n"
    )
    read = read_layers(line)
    expected = LayerTensor(name=name, shape=tuple(shape), dtype="float16", format="(NHWC) major")
    assert read.unread == ()
    assert read.layers == (
        Layer(
            name=name,
            type="kgen",
            inputs=(expected, expected),
            outputs=(expected,),
            tactic="t",
            nodes=tuple(nodes),
            stream=1,
        ),
    )
    assert msgspec.json.decode(msgspec.json.encode(read), type=EngineLayers) == read
