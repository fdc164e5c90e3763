"""Graphs at an older opset, node by node: no converter has a way down for all that warps are made of."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from superlower.ir import node_name

_MODE_UP_TO_19 = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
_ANOTHER_MEANING = frozenset({"GroupNormalization"})
"""Operators whose definitions differ in more than names, types and defaults: its scale was one a group."""


def lower_opset(model: ir.Model, opset: int) -> str | None:
    """Bring the model down to `opset` if the older definitions of its operators mean the same.

    They do where a node has no attribute, input or element type that the older definition lacks, and no
    default that changed. GridSample's modes, which opset 20 renamed, are spelled as the older opset does.

    Returns:
        Why not, in which case the model is as it was; None if it is at `opset` now.
    """
    now = model.opset_imports[""]
    if model.functions:
        return "it has functions of its own: inline them first"
    nodes = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.domain in ("", "ai.onnx")]
    for node in nodes:
        if (reason := _misfit(node, now, opset)) is not None:
            return f"{node.op_type} at node '{node_name(node)}' {reason}"
    for node in nodes:
        if node.op_type == "GridSample" and opset < 20 <= now:
            mode = node.attributes.get_string("mode", "linear")
            node.attributes["mode"] = ir.AttrString("mode", _MODE_UP_TO_19[mode])
        older = onnx.defs.get_schema(node.op_type, opset)
        for name in [name for name in node.attributes if name not in older.attributes]:
            del node.attributes[name]
    model.opset_imports[""] = opset
    return None


def _misfit(node: ir.Node, now: int, opset: int) -> str | None:
    newer = onnx.defs.get_schema(node.op_type, now)
    try:
        older = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return f"came up after opset {opset}"
    if older.since_version == newer.since_version:
        return None
    if node.op_type in _ANOTHER_MEANING:
        return f"meant something else up to opset {opset}"
    for name in {*node.attributes, *newer.attributes}:
        said = node.attributes.get(name)
        default = _default(newer, name)
        if name not in older.attributes:
            if said is not None and said.value != default:
                return f"has an attribute {name} that opset {opset} lacks"
        elif said is None and default != _default(older, name) and (node.op_type, name) != _MODE:
            return f"relies on a default of {name} that changed"
    if node.op_type == "GridSample" and _rank(node) != 4:
        return f"isn't known to be of four dimensions, all that opset {opset} takes"
    for values, formals in ((node.inputs, older.inputs), (node.outputs, older.outputs)):
        for index, value in enumerate(values):
            formal = formals[min(index, len(formals) - 1)] if formals else None
            if formal is None or (index >= len(formals) and not _variadic(formal)):
                return f"has more inputs or outputs than at opset {opset}"
            if value is not None and value.dtype is not None and _type(value.dtype) not in formal.types:
                return f"takes no {value.dtype} at opset {opset}"
    return None


_MODE = ("GridSample", "mode")


def _default(schema: onnx.defs.OpSchema, name: str) -> object:
    attribute = schema.attributes[name]
    if attribute.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else value


def _variadic(formal: onnx.defs.OpSchema.FormalParameter) -> bool:
    return bool(formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic)


def _type(dtype: ir.DataType) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(int(dtype)).lower()})"


def _rank(node: ir.Node) -> int:
    first = node.inputs[0]
    return 0 if first is None or first.shape is None else len(first.shape)
