"""Batch normalisation as part of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter import MatchResult

from superlower.errors import BadInputError
from superlower.ir import constant_value, static_shape
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    apply_rules,
    integer,
    integers,
    maker,
    producer,
    read_once,
    tensor,
    text,
)
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants

Vector = NDArray[np.float64]
CONVOLUTION, ARITHMETIC = "convolution", "arithmetic"


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalisation, at inference, into the convolution before or after it.

    ::

        BatchNormalization(x, scale, bias, mean, var)  is  x * s + o  for each channel, with
            s = scale / sqrt(var + epsilon),  o = bias - mean * s

        BatchNormalization(Conv(x, w, b))           ->  Conv(x, w * s, b * s + o)
        BatchNormalization(ConvTranspose(x, w, b))  ->  ConvTranspose(x, w * s, b * s + o)
        Conv(BatchNormalization(x), w, b)           ->  Conv(x, w * s, b + sum of w * o)      where pads are 0
        BatchNormalization(x), alone                ->  Conv(x, diag(s), o), 1x1 and depthwise
                                                        or Add(Mul(x, s), o)

    New constants are worked out in float64 and rounded once. A convolution whose output has other uses isn't
    folded into, nor is a batch norm with other uses: that would compute the convolution twice, or leave both.
    A batch norm before a convolution with padding is folded only where o is 0: the padding's zeros are
    put in after the normalisation. Groups, strides and dilations are as they are.

    Refused: constants that aren't known or aren't finite, training mode, types other than fp32 and fp64 (a
    scale beyond fp16's range shows only once it is multiplied in).

    Attributes:
        alone: "convolution" (EGVSR, section III-C: a convolution can be fused with what follows) or
            "arithmetic" (a Mul and an Add) for a batch norm with no convolution beside it.
    """

    name: ClassVar[str] = "fold-batch-norm"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "weights, biases and scales are each rounded once more, to 2^-24: 4 roundings a layer of what is "
        "summed, which cancellation may magnify 4 times; 70 layers together 6.7e-5",
    )
    alone: str = CONVOLUTION

    def __post_init__(self) -> None:
        """Check the option."""
        if self.alone not in (CONVOLUTION, ARITHMETIC):
            raise BadInputError(
                f"fold-batch-norm.alone is '{self.alone}': it takes {CONVOLUTION} or {ARITHMETIC}"
            )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        folded = apply_rules(model, [_IntoFormer(), _IntoLatter("Conv")])
        alone = apply_rules(model, [_Alone(self.alone)])
        return Applied((*folded.rewritten, *alone.rewritten), alone.refused)


@dataclass(frozen=True)
class _Norm:
    """x * scale + offset, by channel."""

    scale: Vector
    offset: Vector

    @staticmethod
    def of(node: ir.Node) -> _Norm | str:
        """The node's arithmetic, or why it isn't known."""
        if integer(node, "training_mode", 0) or len([v for v in node.outputs if v.name and v.uses()]) > 1:
            return "it is in training mode"
        data = node.inputs[0]
        if data is None or data.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return f"its type is {None if data is None else data.dtype}"
        arrays = [constant_value(v) for v in node.inputs[1:5]]
        if any(a is None for a in arrays):
            return "its scale, bias, mean and variance aren't all constant"
        scale, bias, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        with np.errstate(all="ignore"):
            norm = _Norm(s := scale / np.sqrt(variance + epsilon), bias - mean * s)
        if not (np.all(np.isfinite(norm.scale)) and np.all(np.isfinite(norm.offset))):
            return "its arithmetic isn't finite: a variance is negative, or a constant isn't finite"
        return norm


class _IntoFormer(OnOperator):
    """A batch norm after a convolution."""

    def __init__(self) -> None:
        super().__init__("BatchNormalization")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        data, norm = node.inputs[0], _Norm.of(node)
        found = producer(data, "Conv") or producer(data, "ConvTranspose")
        if found is None or isinstance(norm, str) or not read_once(data):
            return self.skip(node)
        parts = _weights(found)
        if parts is None:
            return self.skip(node)
        self.norm, self.convolution, (self.weight, self.bias) = norm, found, parts
        return self.accept(node, f"into {found.op_type} '{found.name}' before it")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        convolution, norm = self.convolution, self.norm
        weight, bias = self.weight, self.bias
        if convolution.op_type == "Conv":
            weight = weight * norm.scale.reshape(-1, *[1] * (weight.ndim - 1))
        else:
            # [in, out of a group, ...]: a group's inputs meet its own outputs only.
            groups = integer(convolution, "group", 1)
            scale = np.repeat(norm.scale.reshape(groups, 1, -1), weight.shape[0] // groups, axis=1)
            weight = weight * scale.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
        return _emit(op, convolution, weight, bias * norm.scale + norm.offset)


class _IntoLatter(OnOperator):
    """A batch norm before a convolution."""

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        convolution = maker(out)
        node = producer(convolution.inputs[0], "BatchNormalization")
        parts = _weights(convolution)
        if node is None or parts is None or not read_once(convolution.inputs[0]):
            return self.skip(convolution)
        norm = _Norm.of(node)
        if isinstance(norm, str) or (np.any(norm.offset) and not _unpadded(convolution)):
            return self.skip(convolution)
        self.norm, self.node, (self.weight, self.bias) = norm, node, parts
        return self.accept(node, f"into {convolution.op_type} '{convolution.name}' after it")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        convolution, norm, weight = maker(out), self.norm, self.weight
        groups = integer(convolution, "group", 1)
        # [out, in of a group, ...]: each output's own group of channels.
        shape = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (grouped * norm.scale.reshape(shape)).reshape(weight.shape)
        added = (grouped * norm.offset.reshape(shape)).reshape(len(weight), -1).sum(axis=1)
        return _emit(op, convolution, scaled, self.bias + added, self.node.inputs[0])


class _Alone(OnOperator):
    """A batch norm with no convolution to go into."""

    def __init__(self, form: str) -> None:
        super().__init__("BatchNormalization")
        self.form = form

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        norm = _Norm.of(node)
        if isinstance(norm, str):
            return self.refuse(node, norm)
        self.norm = norm
        self.rank = len(cast(ir.Value, node.inputs[0]).shape or ())
        if self.rank == 0:
            return self.refuse(node, "the rank of its input isn't known")
        self.as_convolution = self.form == CONVOLUTION and self.rank > 2
        return self.accept(node, "as a 1x1 depthwise Conv" if self.as_convolution else "as Mul and Add")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        data, dtype = maker(out).inputs[0], cast(ir.DataType, out.dtype)
        channels = len(self.norm.scale)
        if self.as_convolution:
            ones = [1] * (self.rank - 2)
            weight = op.Constant(value=tensor(self.norm.scale.reshape(-1, 1, *ones), dtype))
            offset = op.Constant(value=tensor(self.norm.offset, dtype))
            return op.Conv(data, weight, offset, group=channels, kernel_shape=ones)
        shape = (1, channels, *[1] * (self.rank - 2))
        scale, offset = (
            op.Constant(value=tensor(a.reshape(shape), dtype)) for a in (self.norm.scale, self.norm.offset)
        )
        return op.Add(op.Mul(data, scale), offset)


def _weights(node: ir.Node) -> tuple[Vector, Vector] | None:
    """A convolution's constant weight and bias (zeros for none), in float64."""
    weight = constant_value(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_value(given)
    if weight is None or (given is not None and bias is None):
        return None
    groups = integer(node, "group", 1)
    outputs = weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * groups
    return np.asarray(weight, np.float64), np.zeros(outputs) if bias is None else np.asarray(bias, np.float64)


def _emit(
    op: Emitter, convolution: ir.Node, weight: Vector, bias: Vector, data: ir.Value | None = None
) -> ir.Value:
    dtype = cast(ir.DataType, cast(ir.Value, convolution.inputs[1]).dtype)
    constants = [op.Constant(value=tensor(a, dtype)) for a in (weight, bias)]
    make = getattr(op, convolution.op_type)
    made: ir.Value = make(data or convolution.inputs[0], *constants, **convolution.attributes)
    return made


def _unpadded(node: ir.Node) -> bool:
    """Whether no output of a Conv looks beyond its input."""
    mode = text(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        return not any(integers(node, "pads"))
    kernel = (static_shape(node.inputs[1]) or ())[2:]
    return mode == "VALID" or (bool(kernel) and max(kernel) == 1)
