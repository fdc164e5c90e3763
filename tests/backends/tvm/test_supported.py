"""What TVM would compute wrongly without a word is refused, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from superlower.backends import tables
from superlower.backends.base import Support
from superlower.backends.tvm.backend import Tvm
from superlower.doctor.examine import Context, examine
from superlower.doctor.rules import rules
from superlower.targets.base import Precision
from superlower.targets.catalog import target

Attributes = dict[str, object]


def refused(model: ir.Model) -> str | None:
    """Why the known-bugs rules refuse TVM the model as it stands; None if they don't."""
    build = Context("tvm", Tvm().versions(), target("cpu"), Precision.FP32)
    known = [rule for rule in rules() if rule.backends == ("tvm",)]
    error = examine(known, build, model).after_passes().refusal()
    return None if error is None else str(error)


def _resize(
    *, scales: list[float] | None = None, sizes: list[int] | None = None, **attributes: object
) -> ir.Model:
    """Resize of (1, 2, 6, 9)."""
    constants = []
    if scales is not None:
        constants.append(numpy_helper.from_array(np.array(scales, np.float32), "scales"))
    if sizes is not None:
        constants.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    inputs = ["x", "", "scales" if scales else "", "sizes" if sizes else ""]
    node = helper.make_node("Resize", inputs, ["y"], name="enlarge", **attributes)
    return _model(node, {"x": (TensorProto.FLOAT, [1, 2, 6, 9])}, constants)


def _model(
    node: onnx.NodeProto,
    inputs: dict[str, tuple[int, list[int]]],
    constants: list[onnx.TensorProto] | None = None,
) -> ir.Model:
    values = [helper.make_tensor_value_info(name, *typed) for name, typed in inputs.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", values, [output], constants or [])
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("acme", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scales": [1, 1, 1.3, 1.3], "mode": "linear"}, "sizes"),
        ({"scales": [1, 1, 1, 0.5], "mode": "nearest"}, "sizes"),
        ({"sizes": [1, 2, 3, 3], "mode": "linear", "antialias": 1}, "antialias"),
        ({"sizes": [12, 18], "mode": "linear", "axes": [2, 3]}, "axes"),
        (
            {"sizes": [1, 2, 9, 9], "mode": "linear", "keep_aspect_ratio_policy": "not_larger"},
            "keep_aspect_ratio_policy",
        ),
    ],
)
def test_a_resize_it_gets_wrong_is_refused(options: dict[str, object], reason: str) -> None:
    message = refused(_resize(**options))  # type: ignore[arg-type]
    assert message is not None
    assert "(Resize at enlarge): " in message
    assert reason in message


@pytest.mark.parametrize(
    "options",
    [
        {"scales": [1, 1, 4, 4], "mode": "linear"},
        {"scales": [1, 1, 0.5, 1 / 3], "mode": "cubic", "coordinate_transformation_mode": "align_corners"},
        {"scales": [1, 1, 1.3, 1.3], "mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"sizes": [1, 2, 7, 13], "mode": "linear", "antialias": 0},
    ],
)
def test_other_resizes_are_not(options: dict[str, object]) -> None:
    assert refused(_resize(**options)) is None  # type: ignore[arg-type]


def test_scales_that_are_computed_are_refused() -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], name="enlarge", mode="linear")
    shapes = {"x": (TensorProto.FLOAT, [1, 2, 6, 9]), "scales": (TensorProto.FLOAT, [4])}
    assert "constant scales" in str(refused(_model(node, shapes)))


def test_output_shape_of_a_transposed_convolution_is_refused() -> None:
    shapes = {"x": (TensorProto.FLOAT, [1, 2, 4, 4]), "w": (TensorProto.FLOAT, [2, 3, 3, 3])}
    plain = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    shaped = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[10, 10])
    assert refused(_model(plain, shapes)) is None
    assert "output_shape" in str(refused(_model(shaped, shapes)))


@pytest.mark.parametrize(("kind", "wrong"), [(TensorProto.FLOAT, False), (TensorProto.FLOAT16, True)])
def test_half_precision_sampling_needs_casts(kind: int, wrong: bool) -> None:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], name="warp")
    shapes = {"x": (kind, [1, 2, 4, 4]), "grid": (kind, [1, 4, 4, 2])}
    assert ("cast to float32" in str(refused(_model(node, shapes)))) == wrong


def test_an_operator_of_a_foreign_domain_never_passes_for_onnxs_own() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="theirs", domain="acme")
    message = refused(_model(node, {"x": (TensorProto.FLOAT, [4])}))
    assert message is not None
    assert message.startswith("tvm on cpu: TVM's importer knows no operators of domain acme, and takes them")
    assert "(acme::Relu at theirs)" in message


def test_rules_hold_where_a_table_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest probe, SAME_UPPER without a shape, is right."""
    monkeypatch.setenv(tables.FORCED, "1")
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    shape = {"output_shape": [8, 8], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", **shape)
    model = _model(node, {"x": (TensorProto.FLOAT, [1, 2, 4, 4])}, [weights])
    (found,) = Tvm().coverage(model, target("cpu"), Precision.FP32)
    assert (found.support, found.detail) == (Support.UNSUPPORTED, "TVM ignores output_shape")
