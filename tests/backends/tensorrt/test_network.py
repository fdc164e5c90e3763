"""What the parser takes but reads as something else."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest
from onnx import TensorProto

from superlower.backends.tensorrt.layers import Sampler
from superlower.backends.tensorrt.network import Sdk, misread, name_nodes, samplers
from superlower.ir import serialize

OneNode = Callable[..., ir.Model]


@pytest.fixture(scope="module")
def sdk() -> Sdk:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    return Sdk("tensorrt_rtx", echo=False)


def _grid_sample(
    one_node: OneNode, opset: int, kind: int = TensorProto.FLOAT, **attributes: object
) -> ir.Model:
    inputs = {"x": (kind, [1, 4, 8, 8]), "grid": (TensorProto.FLOAT, [1, 8, 8, 2])}
    return one_node("GridSample", inputs, {"y": (kind, [1, 4, 8, 8])}, opset=opset, **attributes)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("opset", "mode"),
    [
        (16, "bilinear"),
        (16, "bicubic"),
        (19, "nearest"),
        (20, "linear"),
        (20, "cubic"),
        (20, "nearest"),
        (22, None),
    ],
)
def test_rtx_reads_every_mode_of_every_opset(
    sdk: Sdk, one_node: OneNode, opset: int, mode: str | None, padding: str
) -> None:
    model = _grid_sample(one_node, opset, padding_mode=padding, **({"mode": mode} if mode else {}))
    network, refusals = sdk.parse(serialize(model))
    assert refusals == []
    read = samplers(sdk, network)
    assert [s.node for s in read] == ["it"]
    assert misread(list(model.graph), read) == []


def test_other_modes_are_told_apart(sdk: Sdk, one_node: OneNode) -> None:
    # Else the test above could not fail.
    modes = []
    for mode in ("linear", "cubic", "nearest"):
        network, _ = sdk.parse(serialize(_grid_sample(one_node, 20, mode=mode)))
        modes.append(samplers(sdk, network)[0].mode)
    assert modes == ["LINEAR", "CUBIC", "NEAREST"]


@pytest.mark.parametrize(
    ("mode", "padding", "reason"),
    [
        ("NEAREST", "FILL", "mode LINEAR, padding FILL is read as NEAREST, FILL"),
        ("LINEAR", "CLAMP", "mode LINEAR, padding FILL is read as LINEAR, CLAMP"),
    ],
)
def test_a_misread_grid_sample_is_a_refusal(one_node: OneNode, mode: str, padding: str, reason: str) -> None:
    model = _grid_sample(one_node, 20, mode="linear")
    read = Sampler(node="it", mode=mode, padding=padding, input="float32", grid="float32")
    assert [(r.node, r.op, r.reason) for r in misread(list(model.graph), [read])] == [
        ("it", "GridSample", reason)
    ]


def test_a_half_image_with_a_float_grid_is_refused_with_the_reason(sdk: Sdk, one_node: OneNode) -> None:
    _, refusals = sdk.parse(serialize(_grid_sample(one_node, 19, TensorProto.FLOAT16)))
    assert [(r.node, r.op) for r in refusals] == [("it", "GridSample")]
    assert "must be of same type" in refusals[0].reason
    assert "Cuda" not in refusals[0].reason, "noise of the machine without a GPU"


def test_unnamed_nodes_are_named_after_what_they_make(one_node: OneNode) -> None:
    model = _grid_sample(one_node, 19)
    next(iter(model.graph)).name = None
    name_nodes(model)
    assert [node.name for node in model.graph] == ["y"]
