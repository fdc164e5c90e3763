"""What a key tells apart, and what it doesn't."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.probes.key import Key, key_of
from support.graphs import GraphBuilder


def keyed(g: GraphBuilder, *outputs: ir.Value, opset: int = 19, op: str = "") -> Key:
    model = g.model(*outputs, opset=opset)
    node = next(node for node in model.graph if node.op_type == (op or next(iter(model.graph)).op_type))
    return key_of(node, opset)


def test_says_operator_definition_type_and_setting_with_defaults_filled_in() -> None:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 4, 5), g.input("grid", 1, 4, 5, 2)
    assert str(keyed(g, g.GridSample(x, grid))) == (
        "GridSample-16 fp32 align_corners=0 mode=bilinear padding_mode=zeros rank=4"
    )
    g = GraphBuilder()
    x = g.input("x", 1, 3, 4, 5, dtype=ir.DataType.FLOAT16)
    grid = g.input("grid", 1, 4, 5, 2, dtype=ir.DataType.FLOAT16)
    key = keyed(g, g.GridSample(x, grid, padding_mode="border"), opset=20)
    assert str(key) == "GridSample-20 fp16 align_corners=0 mode=linear padding_mode=border rank=4"


@pytest.mark.parametrize("opset", [16, 17, 18, 19])
def test_a_definition_spans_opsets(opset: int) -> None:
    g = GraphBuilder()
    key = keyed(g, g.PRelu(g.input("x", 1, 3, 4, 5), g.const(0.25)), opset=opset)
    assert str(key) == "PRelu-16 fp32 slope=constant"


def test_type_is_of_numbers_not_of_conditions() -> None:
    g = GraphBuilder()
    condition = g.input("c", 3, dtype=ir.DataType.BOOL)
    x, y = (g.input(name, 3, dtype=ir.DataType.INT64) for name in "xy")
    assert keyed(g, g.Where(condition, x, y)).dtype == "int64"
    g = GraphBuilder()
    assert keyed(g, g.Not(g.input("c", 3, dtype=ir.DataType.BOOL))).dtype == "bool"
    g = GraphBuilder()
    assert keyed(g, g.Constant(value=ir.tensor(np.zeros(3, np.float16)))).dtype == "fp16"


def test_casts_are_told_by_both_types() -> None:
    settings = set()
    for to in (ir.DataType.FLOAT16, ir.DataType.INT64, ir.DataType.BFLOAT16):
        g = GraphBuilder()
        settings |= set(keyed(g, g.Cast(g.input("x", 3), to=to)).setting)
    assert {"to=fp16", "to=int64", "to=bf16"} <= settings


def gathered(index: ir.Value, g: GraphBuilder) -> str:
    model = g.model(g.Gather(g.input("x", 3, 4), index, axis=1))
    node = next(node for node in model.graph if node.op_type == "Gather")
    return next(text for text in key_of(node, 19).setting if text.startswith("indices="))


def test_indices_are_constant_negative_or_computed() -> None:
    for as_nodes in (False, True):
        g = GraphBuilder(constants_as_nodes=as_nodes)
        assert gathered(g.ints(0, 2), g) == "indices=constant"
        g = GraphBuilder(constants_as_nodes=as_nodes)
        assert gathered(g.ints(0, -2), g) == "indices=negative"
    g = GraphBuilder()
    assert gathered(g.input("i", 2, dtype=ir.DataType.INT64), g) == "indices=computed"


def resized(scales: tuple[float, ...], **attributes: object) -> Key:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 7, 9)
    return keyed(g, g.Resize(x, None, g.const(scales), mode="cubic", **attributes))


def test_resize_tells_whole_from_fractional_results_and_other_kernels() -> None:
    assert "by=scales" in resized((1, 1, 2, 3)).setting
    assert "by=fractional-scales" in resized((1, 1, 1.5, 2)).setting
    assert "kernel=other" not in resized((1, 1, 2, 2), cubic_coeff_a=-0.75).setting
    assert "kernel=other" in resized((1, 1, 2, 2), cubic_coeff_a=-0.5).setting


def test_resize_tells_whether_antialiasing_does_anything() -> None:
    found = {}
    for factor in (0.5, 2.0):
        g = GraphBuilder()
        x = g.input("x", 1, 2, 8, 6)
        key = keyed(g, g.Resize(x, None, g.const((1, 1, factor, 2)), mode="linear", antialias=1))
        found[factor] = "shrinks=no" in key.setting
    assert found == {0.5: False, 2.0: True}


def test_quantization_tells_granularity_and_type() -> None:
    found = []
    for scale, zero in ((0.5, np.uint8(3)), ([0.5, 0.25], np.array([3, 4], np.int8)), (0.5, None)):
        g = GraphBuilder()
        kind = ir.DataType.UINT8 if zero is None else ir.DataType.from_numpy(np.asarray(zero).dtype)
        x = g.input("x", 3, 2, dtype=kind)
        given = (
            [g.const(scale)] if zero is None else [g.const(scale), g.const(zero, np.asarray(zero).dtype.type)]
        )
        found.append(keyed(g, g.DequantizeLinear(x, *given)).setting)
    assert found == [
        ("per=tensor", "quantized=uint8", "zero_point=other"),
        ("per=axis", "quantized=int8", "zero_point=other"),
        ("per=tensor", "quantized=uint8"),
    ]


def test_equations_are_told_by_their_form_not_by_their_letters() -> None:
    found = set()
    for equation in ("bij,bjk->bik", "nab, nbc -> nac", "xyz,xzw->xyw"):
        g = GraphBuilder()
        node = g.Einsum(g.input("x", 2, 3, 4), g.input("y", 2, 4, 5), equation=equation)
        found.add(str(keyed(g, node)))
    assert found == {"Einsum-12 fp32 equation=abc,acd->abd"}


def test_weights_bounds_slopes_steps_and_pads() -> None:
    g = GraphBuilder()
    computed = keyed(g, g.Conv(g.input("x", 1, 2, 5, 5), g.input("w", 3, 2, 3, 3)))
    assert "weights=computed" in computed.setting
    g = GraphBuilder()
    assert "bounds=computed" in keyed(g, g.Clip(g.input("x", 3), g.input("low"))).setting
    g = GraphBuilder()
    assert "bounds=constant" in keyed(g, g.Clip(g.input("x", 3), None, g.const(1.0))).setting
    g = GraphBuilder()
    back = g.Slice(g.input("x", 3), g.ints(-1), g.ints(-9), g.ints(0), g.ints(-1))
    assert "steps=negative" in keyed(g, back).setting
    g = GraphBuilder()
    assert "pads=negative" in keyed(g, g.Pad(g.input("x", 3), g.ints(-1, 0))).setting


def test_operators_of_other_domains_have_no_definition() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((3,)))
    node = ir.node("Warp", [x], {"radius": 4, "mode": "fast"}, domain="vendor")
    assert str(key_of(node, 1)) == "vendor::Warp-0 fp32 mode=fast radius=n"
