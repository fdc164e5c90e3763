"""Opset conversion keeps what a graph computes, GridSample's modes above all."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from superlower import ir
from superlower.errors import BadInputError
from superlower.frontends.opset import convert_opset


def warp(opset: int, mode: str | None, shape: list[int] | None = None) -> onnx.ModelProto:
    shape = shape or [1, 3, 8, 9]
    sides = shape[2:]
    attributes = {} if mode is None else {"mode": mode}
    nodes = [
        helper.make_node("GridSample", ["x", "grid"], ["s"], align_corners=1, **attributes),
        helper.make_node("Add", ["s", "x"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "warp",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, *sides, len(sides)]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize(
    ("opset", "mode", "expected"),
    [
        (16, "bilinear", "bilinear"),
        (16, "bicubic", "bicubic"),
        (20, "linear", "bilinear"),
        (20, None, "bilinear"),
        (21, "cubic", "bicubic"),
        (22, "nearest", "nearest"),
    ],
)
def test_grid_sample_keeps_its_mode(opset: int, mode: str | None, expected: str) -> None:
    before = warp(opset, mode)
    rng = np.random.default_rng(1)
    feeds = {
        "x": rng.random((1, 3, 8, 9), dtype=np.float32),
        "grid": rng.uniform(-1.2, 1.2, (1, 8, 9, 2)).astype(np.float32),
    }
    reference = run(before, feeds)
    model = convert_opset(onnx_ir.from_proto(before), "warp.onnx")
    assert model.opset_imports == {"": ir.OPSET}
    node = next(n for n in model.graph if n.op_type == "GridSample")
    assert node.domain == ""
    assert node.attributes.get_string("mode", "bilinear") == expected
    after = onnx_ir.to_proto(model)
    onnx.checker.check_model(after)
    np.testing.assert_array_equal(run(after, feeds), reference)


def test_a_warp_in_a_branch_is_converted_too() -> None:
    before = warp(20, "cubic")
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 9])
    warped = helper.make_graph(list(before.graph.node), "then", [], [made])
    as_it_is = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "else", [], [made])
    before.graph.ClearField("node")
    before.graph.node.append(
        helper.make_node("If", ["moves"], ["z"], then_branch=warped, else_branch=as_it_is)
    )
    before.graph.input.append(helper.make_tensor_value_info("moves", TensorProto.BOOL, []))
    before.graph.output[0].name = "z"
    rng = np.random.default_rng(2)
    feeds = {
        "x": rng.random((1, 3, 8, 9), dtype=np.float32),
        "grid": rng.uniform(-1.2, 1.2, (1, 8, 9, 2)).astype(np.float32),
        "moves": np.array(True),
    }
    reference = run(before, feeds)
    after = onnx_ir.to_proto(convert_opset(onnx_ir.from_proto(before), "branch.onnx"))
    onnx.checker.check_model(after)
    assert [opset.version for opset in after.opset_import] == [ir.OPSET]
    np.testing.assert_array_equal(run(after, feeds), reference)


def test_volumes_are_refused() -> None:
    model = onnx_ir.from_proto(warp(20, "linear", [1, 3, 4, 5, 6]))
    with pytest.raises(BadInputError, match=r"volume\.onnx is of opset 20.*four dimensions"):
        convert_opset(model, "volume.onnx")


def test_our_own_opset_is_left_as_it_is() -> None:
    model = onnx_ir.from_proto(warp(ir.OPSET, "bilinear"))
    before = ir.digest(model)
    assert ir.digest(convert_opset(model, "warp.onnx")) == before
