"""Nodes that give back their first input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value, static_shape
from superlower.passes._rules import Emitter, OnOperator, integers, maker, text


class NoOp(OnOperator):
    """A node of one of the operators in `CHANGES_NOTHING` that changes nothing."""

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        """Types equal, and the operator's own condition."""
        node = maker(out)
        data = node.inputs[0]
        if (
            data is None
            or data.dtype is None
            or data.dtype != out.dtype
            or not CHANGES_NOTHING[self.op](node)
        ):
            return self.skip(node)
        return self.accept(node, f"{self.op} changes nothing")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """The first input."""
        return op.Identity(maker(out).inputs[0])


def _same_shape(node: ir.Node) -> bool:
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    return before is not None and before == after


def _transpose(node: ir.Node) -> bool:
    order = integers(node, "perm")
    return bool(order) and order == tuple(range(len(order)))


def _slice(node: ir.Node) -> bool:
    steps = constant_value(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    return _same_shape(node) and steps is not None and bool(np.all(np.asarray(steps, np.int64) > 0))


def _pad(node: ir.Node) -> bool:
    pads = constant_value(node.inputs[1])
    return pads is not None and not np.any(pads)


def _resize(node: ir.Node) -> bool:
    """Sizes equal, so scales are 1 and every mode samples at whole coordinates."""
    scales = constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
    given = scales is not None and scales.size > 0 and bool(np.any(scales != 1))
    mode = text(node, "coordinate_transformation_mode", "half_pixel")
    return _same_shape(node) and not given and mode in _WHOLE


_WHOLE = frozenset(
    {"half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric", "pytorch_half_pixel"}
)

CHANGES_NOTHING: dict[str, Callable[[ir.Node], bool]] = {
    "Cast": lambda node: True,
    "Concat": lambda node: len(node.inputs) == 1,
    "Expand": _same_shape,
    "Pad": _pad,
    "Reshape": _same_shape,
    "Resize": _resize,
    "Slice": _slice,
    "Transpose": _transpose,
}
"""Operator -> whether a node whose types are equal gives back its first input."""
