"""Transposed convolution as a convolution and a pixel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

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
    text,
)
from superlower.passes._sub_pixel import Phases, Tap, emit_shuffled, fewest_taps
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants


@dataclass(frozen=True)
class ConvTransposeToSubPixel(Pass):
    """Replace a transposed convolution by a convolution with s x s times its outputs, and a pixel shuffle.

    ::

        y = ConvTranspose(x, w [Cin, Cout, kh, kw], b), stride s
            ->  y' = DepthToSpace(Conv(x, w' [s s Cout, Cin, kh', kw'], b'), s)
                y  = y', or Slice(y') where its size isn't a multiple of s, or doesn't begin at one

    Output row i is the sum of w[k] x[j] over i = s j + k d - p (k: kernel row, d: dilation, p: padding), so
    rows of one remainder of i + p by s see the taps of one remainder only, at consecutive j: a convolution of
    its own, with as many taps as the largest remainder has. Shi et al., "Is the deconvolution layer the same
    as a convolutional layer?" (2016). Multiply-accumulates are the same where s divides the kernel, else
    the shorter remainders' kernels are filled up with zeros: a 3x3 with stride 2 takes 16/9 of them.

    Any kernel, padding, output padding, output_shape, auto_pad, dilation and groups, with and without bias;
    both strides must be equal and at least 2.

    Exact up to the order of summation. Refused: strides that differ, weights that aren't constant, volumes
    and lines, sizes that aren't static. Transposed convolutions of stride 1 are left alone.
    """

    name: ClassVar[str] = "conv-transpose-to-sub-pixel"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "the same products summed in another order: at most 10 roundings of 2^-24 of what is summed a layer "
        "at 10^4 products, which cancellation may magnify 10 times; 4 layers together 2.4e-5",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [_SubPixel()])


class _SubPixel(OnOperator):
    def __init__(self) -> None:
        super().__init__("ConvTranspose")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        weight = constant_value(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else None
        self.bias = constant_value(given)
        before, after = static_shape(node.inputs[0]), static_shape(out)
        if weight is None or (given is not None and self.bias is None):
            return self.refuse(node, "its weights aren't constant")
        strides = integers(node, "strides", [1] * (weight.ndim - 2))
        if set(strides) == {1}:
            return self.skip(node)
        if weight.ndim != 4 or before is None or after is None:
            return self.refuse(node, "sizes aren't static, or it isn't over planes")
        if len(set(strides)) != 1:
            return self.refuse(node, f"strides {list(strides)}: a pixel shuffle takes equal ones")
        self.weight, self.after, self.stride = np.asarray(weight), after, strides[0]
        starts = _first_pads(node, before, after, weight.shape)
        if starts is None:
            return self.refuse(node, f"an output of {list(after)} goes beyond what its inputs reach")
        self.phases = _phases(node, starts, before, after, weight.shape)
        taps = "x".join(str(axis.taps) for axis in self.phases)
        return self.accept(node, f"Conv of {taps} to {self.stride**2 * after[1]} channels, DepthToSpace")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        groups, stride = integer(node, "group", 1), self.stride
        into, per_group = self.weight.shape[:2]
        # [Cin, Cout / g, ...] as [g, Cout / g, Cin / g, ...]: a convolution's order.
        weight = np.moveaxis(self.weight.reshape(groups, into // groups, *self.weight.shape[1:]), 1, 2)
        weight = weight.reshape(groups * per_group, into // groups, *self.weight.shape[2:])
        data = cast(ir.Value, node.inputs[0])
        return emit_shuffled(op, node, weight, self.bias, self.phases, self.after, stride, data=data)


def _phases(
    node: ir.Node,
    starts: Sequence[int],
    before: tuple[int, ...],
    after: tuple[int, ...],
    weight: tuple[int, ...],
) -> tuple[Phases, Phases]:
    stride = integers(node, "strides")[0]
    dilations = integers(node, "dilations", (1, 1))

    def along(axis: int) -> Phases:
        shifts = [(k * dilations[axis] - starts[axis], k) for k in range(weight[2 + axis])]

        def taps(i: int) -> list[Tap]:
            return [((i - shift) // stride, k, 1.0) for shift, k in shifts if (i - shift) % stride == 0]

        return fewest_taps(taps, before[2 + axis], after[2 + axis], stride)

    return along(0), along(1)


def _first_pads(
    node: ir.Node, before: tuple[int, ...], after: tuple[int, ...], weight: tuple[int, ...]
) -> list[int] | None:
    """Padding at the top and left: as given, or the part of it that the output's size asks for.

    None where that would be less than none: the specification leaves open what lies there.
    """
    given = integers(node, "pads", (0, 0, 0, 0))
    mode = text(node, "auto_pad", "NOTSET")
    if "output_shape" not in node.attributes and mode in ("NOTSET", "VALID"):
        return [0, 0] if mode == "VALID" else [given[0], given[1]]
    strides, dilations = integers(node, "strides"), integers(node, "dilations", (1, 1))
    further = integers(node, "output_padding", (0, 0))
    starts = []
    for axis in (0, 1):
        full = strides[axis] * (before[2 + axis] - 1) + further[axis]
        full += (weight[2 + axis] - 1) * dilations[axis] + 1
        total = full - after[2 + axis]
        starts.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        if total < 0:
            return None
    return starts
