"""Upsampling before a convolution, as a convolution and a pixel shuffle."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value, static_shape
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    apply_rules,
    integers,
    maker,
    producer,
    text,
)
from superlower.passes._sub_pixel import Phases, Tap, emit_shuffled, fewest_taps
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants


@dataclass(frozen=True)
class ResizeConvToSubPixel(Pass):
    """Replace an upsampling by a whole number and the convolution after it by a convolution before a shuffle.

    ::

        y = Conv(Resize(x, s times), w [Cout, Cin, kh, kw], b), stride 1
            ->  y' = DepthToSpace(Conv(x, w' [s s Cout, Cin, kh', kw'], b'), s)
                y  = y', or Slice(y') where its size isn't a multiple of s, or doesn't begin at one

    Element i of an upsampled row is x[i // s] (nearest) or lies between two neighbours (linear), so output
    s q + r is a sum of x[q + m] whose weights depend on r alone: those of w, added up. A 3x3 after a doubling
    by nearest neighbours becomes 2x2 taps at the low resolution: 4/9 of the multiply-accumulates, and no
    picture of the high resolution is made. With linear upsampling the taps are more, not fewer.

    Conditions: Resize has no other use; both sides grow by the same whole number s; the coordinates give
    i // s for nearest (half_pixel, pytorch_half_pixel, asymmetric with floor, ...); weights are constant.
    Zeros that the convolution pads the upsampled picture with are zeros beside x. Linear upsampling repeats
    x's edges where the convolution pads zeros, so there the convolution must have no padding.

    Exact up to the rounding of weights' sums and the order of summation. Refused, with the reason: what
    breaks a condition, of Resizes that enlarge and have a convolution after them.
    """

    name: ClassVar[str] = "resize-conv-to-sub-pixel"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "sums of weights are rounded once to 2^-24 and the products summed in another order: at most 10 "
        "roundings of what is summed a layer at 10^4 products, which cancellation may magnify 10 times; "
        "4 layers together 2.4e-5",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [_SubPixel("Conv")])


class _SubPixel(OnOperator):
    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        middle = node.inputs[0]
        resize = producer(middle, "Resize")
        if resize is None or middle is None:
            return self.skip(node)
        shapes = [static_shape(v) for v in (resize.inputs[0], middle, node.inputs[1], out)]
        if any(shape is None or len(shape) != 4 for shape in shapes):
            return self.refuse(node, "sizes aren't static, or it isn't over planes")
        before, large, kernel, after = (cast("tuple[int, ...]", shape) for shape in shapes)
        if not all(b < a for b, a in zip(before[2:], large[2:], strict=True)):
            return self.skip(node)
        weight = constant_value(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else None
        self.bias = constant_value(given)
        if weight is None or (given is not None and self.bias is None):
            return self.refuse(node, "its weights aren't constant")
        if len(middle.uses()) > 1 or middle.is_graph_output():
            return self.refuse(node, "the upsampled picture has other uses")
        pads = _pads(node, kernel)
        scale = large[2] // before[2]
        reason = _why_not(node, resize, before, large, scale, pads)
        if reason is not None:
            return self.refuse(node, reason)
        self.weight, self.scale, self.after, self.resize = np.asarray(weight), scale, after, resize
        self.phases = _phases(node, resize, before, kernel, after, scale, pads)
        taps = "x".join(str(axis.taps) for axis in self.phases)
        return self.accept(node, f"Conv of {taps} to {scale**2 * after[1]} channels, DepthToSpace")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        return emit_shuffled(
            op,
            maker(out),
            self.weight,
            self.bias,
            self.phases,
            self.after,
            self.scale,
            data=cast(ir.Value, self.resize.inputs[0]),
            repeat_edges=text(self.resize, "mode", "nearest") == "linear",
        )


def _why_not(
    node: ir.Node,
    resize: ir.Node,
    before: tuple[int, ...],
    large: tuple[int, ...],
    scale: int,
    pads: tuple[int, ...],
) -> str | None:
    mode = text(resize, "mode", "nearest")
    coordinates = text(resize, "coordinate_transformation_mode", "half_pixel")
    given = constant_value(resize.inputs[2]) if len(resize.inputs) > 2 else None
    if large != (*before[:2], scale * before[2], scale * before[3]):
        return f"upsampling from {list(before)} to {list(large)} isn't by one whole number"
    if given is not None and given.size and not set(given.tolist()) <= {1.0, float(scale)}:
        return f"upsampling by {given.tolist()} isn't by one whole number"
    if set(integers(node, "strides", (1, 1))) != {1}:
        return "the convolution has a stride"
    if mode not in ("nearest", "linear"):
        return f"mode {mode} takes neighbours further off"
    if mode == "linear":
        if coordinates not in _OFFSETS:
            return f"coordinates {coordinates} aren't the same in every period of {scale}"
        return "linear upsampling repeats edges where the convolution pads zeros" if any(pads) else None
    if not all(_is_repetition(resize, coordinates, size, scale) for size in before[2:]):
        rounding = text(resize, "nearest_mode", "round_prefer_floor")
        return f"nearest by {coordinates} and {rounding} doesn't repeat each pixel {scale} times"
    return None


_OFFSETS = {"half_pixel": 0.5, "pytorch_half_pixel": 0.5, "asymmetric": 0.0}
"""Coordinates -> a, where element i is sampled at (i + a) / s - a."""


def _is_repetition(resize: ir.Node, coordinates: str, size: int, scale: int) -> bool:
    """Whether nearest sampling takes x[i // scale] for every i."""
    i = np.arange(size * scale)
    if coordinates in _OFFSETS:
        a = _OFFSETS[coordinates]
        at = (i + a) / scale - a
    elif coordinates == "align_corners" and size * scale > 1:
        at = i * (size - 1) / (size * scale - 1)
    else:
        return False
    # Ties fall on halves exactly where they are representable, and half_pixel has none at whole scales.
    rounded = {
        "round_prefer_floor": np.ceil(at - 0.5),
        "round_prefer_ceil": np.floor(at + 0.5),
        "floor": np.floor(at),
        "ceil": np.ceil(at),
    }[text(resize, "nearest_mode", "round_prefer_floor")]
    return bool(np.array_equal(np.clip(rounded, 0, size - 1), i // scale))


def _pads(node: ir.Node, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Top, left, bottom, right, at stride 1."""
    mode = text(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        return integers(node, "pads", (0, 0, 0, 0))
    if mode == "VALID":
        return (0, 0, 0, 0)
    dilations = integers(node, "dilations", (1, 1))
    total = [(kernel[2 + axis] - 1) * dilations[axis] for axis in (0, 1)]
    less, more = [n // 2 for n in total], [n - n // 2 for n in total]
    return (*less, *more) if mode == "SAME_UPPER" else (*more, *less)


def _phases(
    node: ir.Node,
    resize: ir.Node,
    before: tuple[int, ...],
    kernel: tuple[int, ...],
    after: tuple[int, ...],
    scale: int,
    pads: tuple[int, ...],
) -> tuple[Phases, Phases]:
    dilations = integers(node, "dilations", (1, 1))
    linear = text(resize, "mode", "nearest") == "linear"
    offset = _OFFSETS.get(text(resize, "coordinate_transformation_mode", "half_pixel"), 0.0)

    def along(axis: int) -> Phases:
        def taps(i: int) -> list[Tap]:
            found: list[Tap] = []
            for k in range(kernel[2 + axis]):
                at = i + k * dilations[axis] - pads[axis]
                if not linear:
                    found.append((at // scale, k, 1.0))
                    continue
                place = (at + offset) / scale - offset
                low = floor(place)
                found.append((low, k, 1 - (place - low)))
                if place > low:
                    found.append((low + 1, k, place - low))
            return found

        return fewest_taps(taps, before[2 + axis], after[2 + axis], scale)

    return along(0), along(1)
