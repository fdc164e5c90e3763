"""Operations of convolutions: by hand on small graphs, and the published figures of BasicVSR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from superlower.driver.flops import Convolution, clip_macs, convolutions, graph_macs
from superlower.errors import BadInputError


def graph(
    kind: str,
    weight: tuple[int, ...],
    size: tuple[int | str, ...],
    inferred: bool = True,
    **attributes: object,
) -> ir.Model:
    """One convolution `c` of x, then a Relu."""
    nodes = [
        helper.make_node(kind, ["x", "w"], ["y"], name="c", **attributes),
        helper.make_node("Relu", ["y"], ["z"], name="r"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(weight, np.float32), "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model) if inferred else model)


@pytest.mark.parametrize("inferred", [True, False], ids=["typed", "untyped"])
@pytest.mark.parametrize(
    ("kind", "weight", "size", "attributes", "macs"),
    [
        # Each of 5 x 8 x 9 outputs sums 4 x 3 x 3 products.
        ("Conv", (5, 4, 3, 3), (1, 4, 8, 9), {"pads": [1, 1, 1, 1]}, 5 * 8 * 9 * 4 * 9),
        # Unpadded, stride 2: 3 x 4 places; batch of 2.
        ("Conv", (5, 4, 3, 3), (2, 4, 8, 9), {"strides": [2, 2]}, 2 * 5 * 3 * 4 * 4 * 9),
        # Two groups: half of the input channels each.
        ("Conv", (6, 2, 1, 1), (1, 4, 8, 8), {"group": 2}, 6 * 8 * 8 * 2),
        ("Conv", (4, 1, 5, 5), (1, 4, 8, 8), {"group": 4, "pads": [2, 2, 2, 2]}, 4 * 8 * 8 * 25),
        # Each of 4 x 8 x 8 inputs goes into 3 x 3 x 3 outputs, whatever the stride.
        ("ConvTranspose", (4, 3, 3, 3), (1, 4, 8, 8), {"strides": [2, 2]}, 4 * 8 * 8 * 3 * 9),
        # Over time as well.
        ("Conv", (5, 4, 3, 3, 3), (1, 4, 3, 8, 8), {"pads": [1] * 6}, 5 * 3 * 8 * 8 * 4 * 27),
    ],
)
def test_by_hand(kind, weight, size, attributes, macs, inferred) -> None:
    model = graph(kind, weight, size, inferred, **attributes)
    assert convolutions(model) == [Convolution("c", macs)]


def test_a_graph_without_any() -> None:
    node = helper.make_node("Relu", ["x"], ["z"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xz"]
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]))
    assert convolutions(ir.from_proto(model)) == []


def test_sizes_must_be_static() -> None:
    with pytest.raises(BadInputError, match="Conv 'c' aren't static"):
        convolutions(graph("Conv", (5, 4, 3, 3), (1, 4, "H", "W")))


def test_basicvsr_as_published() -> None:
    """337.8 GMACs without flow are the paper's "338 GFLOPs" at 180x320; 373.5 with it, over eleven frames.

    Eleven frames have ten neighbours each way, so 20/11 flows a frame: 337.76 + 20/11 * 19.65 = 373.48.
    A trunk's blocks are all alike, so one block says what thirty cost.
    """
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    from superlower.frontends.base import ExportRequest
    from superlower.frontends.zoo.basicvsr import BasicVsr

    request = ExportRequest(
        weights=Path("random:0"), height=180, width=320, options={"blocks": "1"}, source="random:0"
    )
    model = BasicVsr().export(request)
    found = graph_macs(model)
    more = 29 * 2 * 64 * 64 * 9 * 180 * 320
    assert found["flow"] / 1e9 == pytest.approx(19.65, abs=0.005)
    propagation = found["backward"] + found["forward"] + 2 * more
    assert propagation / 1e9 == pytest.approx(337.8, abs=0.05)
    clip = clip_macs(model, 11)
    assert clip == 20 * found["flow"] + 11 * (found["backward"] + found["forward"])
    assert (clip / 11 + 2 * more) / 1e9 == pytest.approx(373.5, abs=0.05)
