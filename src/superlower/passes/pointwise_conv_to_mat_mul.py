"""A 1x1 convolution of what was reshaped as a product of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value, static_shape
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    apply_rules,
    integer,
    integers,
    maker,
    producer,
    text,
)
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants


@dataclass(frozen=True)
class PointwiseConvToMatMul(Pass):
    """Multiply planar columns by the weights, instead of convolving them 1x1.

    ::

        Conv(Reshape(x), w [Cout, Cin, 1, 1], b)
            ->  Add(Reshape(MatMul(w [1, Cout, Cin], Reshape(x, [N, Cin, H W]))), b)

    For backends whose convolutions want channels last: what is reshaped is planar, so all Cin channels are
    transposed first, and a product of matrices takes them as they lie. The columns of a deformable
    convolution have nine times its result's channels, and OpenVINO (2026.4) transposes them all on CPUs.

    Exact up to the order of summation. Left alone: other kernels, strides, pads and groups, and data that
    wasn't reshaped. Refused: weights that aren't constant, sizes that aren't static.
    """

    name: ClassVar[str] = "pointwise-conv-to-mat-mul"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "the same products summed in another order: at most 10 roundings of 2^-24 of what is summed a layer "
        "at 10^4 products, which cancellation may magnify 10 times; 4 layers together 2.4e-5",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [_Product()])


class _Product(OnOperator):
    def __init__(self) -> None:
        super().__init__("Conv")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        weight = node.inputs[1]
        kernel = None if weight is None or weight.shape is None else list(weight.shape)[2:]
        plain = (
            integer(node, "group", 1) == 1
            and set(integers(node, "strides", (1,))) == {1}
            and not any(integers(node, "pads"))
            and text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
        )
        if kernel != [1, 1] or not plain or producer(node.inputs[0], "Reshape") is None:
            return self.skip(node)
        if any(constant_value(value) is None for value in node.inputs[1:] if value is not None):
            return self.refuse(node, "its weights aren't constant")
        before, after = static_shape(node.inputs[0]), static_shape(out)
        if before is None or after is None:
            return self.refuse(node, "sizes aren't static")
        self.before, self.after = before, after
        return self.accept(node, f"MatMul of {after[1]}x{before[1]} by {before[1]}x{prod(before[2:])}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        reshape = producer(node.inputs[0], "Reshape")
        assert reshape is not None
        weight = np.asarray(constant_value(node.inputs[1]))
        batch, channels, *sides = self.before
        columns = op.Reshape(reshape.inputs[0], op.Constant(value_ints=[batch, channels, prod(sides)]))
        matrix = op.Constant(value=ir.tensor(np.ascontiguousarray(weight.reshape(1, *weight.shape[:2]))))
        made = op.Reshape(op.MatMul(matrix, columns), op.Constant(value_ints=list(self.after)))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is None:
            return made
        values = np.asarray(constant_value(bias)).reshape(1, -1, 1, 1)
        return op.Add(made, op.Constant(value=ir.tensor(np.ascontiguousarray(values))))
