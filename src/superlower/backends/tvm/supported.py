"""Operators TVM's ONNX importer takes and computes wrongly, each compared with ONNX Runtime at TVM 0.27.

The importer itself says what it can't take; these are the cases where it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from superlower.ir import constant_value, node_name, node_op


def silent_error(node: ir.Node) -> str | None:
    """Why TVM would compute this node wrongly without a word; None if it is known of no such case."""
    if node.domain not in ("", "ai.onnx"):
        # The importer looks operators up by type alone: a foreign operator would run as ONNX's of that name.
        return f"TVM's importer knows no operators of domain {node.domain}"
    check = _CHECKS.get(node.op_type)
    return check(node) if check is not None else None


def refused(model: ir.Model) -> str | None:
    """The first node TVM would compute wrongly, with the reason; None if there is none."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        reason = silent_error(node)
        if reason is not None:
            return f"{node_op(node)} at node '{node_name(node)}': {reason}"
    return None


def _resize(node: ir.Node) -> str | None:
    if _int(node, "antialias"):
        return "TVM ignores antialias: resize without it, or before the graph"
    if "axes" in node.attributes:
        return "TVM ignores axes: give sizes for every axis"
    policy = node.attributes.get("keep_aspect_ratio_policy")
    if policy is not None and policy.as_string() != "stretch":
        return "TVM ignores keep_aspect_ratio_policy: give the final sizes"
    scales = _input(node, 2)
    if scales is None:
        return None
    factors, data = constant_value(scales), node.inputs[0]
    shape = (
        None if data is None or data.shape is None else data.shape.numpy() if data.shape.is_static() else None
    )
    if factors is None or shape is None:
        return "TVM needs constant scales and a static input shape: give constant sizes"
    sizes = np.array(shape) * factors.astype(np.float64)
    mode = node.attributes.get("coordinate_transformation_mode")
    # TVM derives the scale from the rounded size; with align_corners the scale isn't used at all.
    if np.any(sizes != np.floor(sizes)) and (mode is None or mode.as_string() != "align_corners"):
        return f"TVM rounds scales {factors.tolist()} of {list(shape)} to whole sizes: give sizes instead"
    return None


def _conv_transpose(node: ir.Node) -> str | None:
    if "output_shape" in node.attributes:
        return "TVM ignores output_shape: give pads and output_padding"
    return None


def _grid_sample(node: ir.Node) -> str | None:
    data = node.inputs[0]
    if data is not None and data.dtype not in (None, ir.DataType.FLOAT):
        return f"TVM types GridSample of {data.dtype} as float32: cast to float32 before it and back after"
    return None


def _input(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input; None where it is absent, or a constant without elements, which means absent."""
    value = node.inputs[index] if index < len(node.inputs) else None
    constant = constant_value(value)
    return None if constant is not None and constant.size == 0 else value


def _int(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else attribute.as_int()


_CHECKS: dict[str, Callable[[ir.Node], str | None]] = {
    "Resize": _resize,
    "ConvTranspose": _conv_transpose,
    "GridSample": _grid_sample,
}
