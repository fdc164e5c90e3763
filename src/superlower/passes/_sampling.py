"""The arithmetic of GridSample, emitted operator by operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.passes._rules import Emitter, integer, text

CHANNELS_LAST = "channels_last"
CHANNELS_FIRST = "channels_first"


class PixelGather:
    """Pixels of an image by their place in it, in either layout."""

    def __init__(self, op: Emitter, x: ir.Value, shape: tuple[int, ...], grid: tuple[int, ...], layout: str):
        self.op, self.last = op, layout == CHANNELS_LAST
        self.batch, self.channels = shape[:2]
        self.grid = grid[:3]
        if self.last:
            x, flat = op.Transpose(x, perm=[0, 2, 3, 1]), [-1, self.channels]
        else:
            x, flat = (x if self.batch == 1 else op.Transpose(x, perm=[1, 0, 2, 3])), [self.channels, -1]
        self.image = op.Reshape(x, op.Constant(value_ints=flat))

    def pixels(self, places: ir.Value) -> ir.Value:
        """The pixels at whole places, all channels of each."""
        places = self.op.Reshape(places, self.op.Constant(value_ints=[-1]))
        return self.op.Gather(self.image, places, axis=0 if self.last else 1)

    def flat(self, weight: ir.Value) -> ir.Value:
        """A weight a sample, shaped to multiply what `pixels` gives."""
        return self.op.Reshape(weight, self.op.Constant(value_ints=[-1, 1] if self.last else [1, -1]))

    def back(self, pixels: ir.Value) -> ir.Value:
        """Gathered pixels as an image [N, C, H', W']."""
        op, (batch, height, width) = self.op, self.grid
        if self.last:
            shaped = op.Reshape(pixels, op.Constant(value_ints=[batch, height, width, self.channels]))
            return op.Transpose(shaped, perm=[0, 3, 1, 2])
        if batch == 1:
            return op.Reshape(pixels, op.Constant(value_ints=[1, self.channels, height, width]))
        shaped = op.Reshape(pixels, op.Constant(value_ints=[self.channels, batch, height, width]))
        return op.Transpose(shaped, perm=[1, 0, 2, 3])


def positions(op: Emitter, node: ir.Node, grid: ir.Value, size: NDArray[np.int64]) -> ir.Value:
    """Where the grid points, in pixels, within the image or one pixel outside: [N, H', W', 2]."""
    kind = coordinate_type(grid)

    def constant(numbers: object) -> ir.Value:
        return op.Constant(value=ir.tensor(np.asarray(numbers).astype(kind.numpy())))

    aligned = bool(integer(node, "align_corners", 0))
    half = (size - 1) / 2 if aligned else size / 2
    grid = grid if grid.dtype == kind else op.Cast(grid, to=kind)
    p = op.Add(op.Mul(grid, constant(half)), constant((size - 1) / 2))
    mode = text(node, "padding_mode", "zeros")
    if mode == "reflection":
        # Folded at the centres of the border pixels with align_corners, at their outer edges without.
        span, edge = (np.maximum(size - 1, 1), 0.0) if aligned else (size, 0.5)
        p = op.Abs(op.Add(p, constant([edge])) if edge else p)
        turns = op.Floor(op.Mul(p, constant(0.5 / span)))
        p = op.Sub(p, op.Mul(turns, constant(2 * span)))
        p = op.Sub(constant(span - edge), op.Abs(op.Sub(p, constant(span))))
    outside = 1 if mode == "zeros" else 0
    return op.Max(op.Min(p, constant(size - 1 + outside)), constant([-outside]))


def columns_and_rows(
    op: Emitter, low: ir.Value, first: int, limit: NDArray[np.int64]
) -> list[list[ir.Value]]:
    """Whole columns and rows, each [at or before p, after p], from `first` to `limit`."""
    whole = whole_places(op, low, first)
    after = op.Min(op.Add(whole, integers_of(op, [1])), integers_of(op, limit))
    return [[take_channel(op, v, axis) for v in (whole, after)] for axis in (0, 1)]


def whole_places(op: Emitter, places: ir.Value, first: int) -> ir.Value:
    """Places that were clamped as floating-point numbers, as integers that can be gathered at.

    A place that is no number gets one within the image, too: TVM's gathers read wherever they are told to.
    """
    return op.Max(op.Cast(places, to=ir.DataType.INT64), integers_of(op, [first]))


def take_channel(op: Emitter, value: ir.Value, channel: int) -> ir.Value:
    """Channel 0 (columns) or 1 (rows) of positions [N, H', W', 2]."""
    return op.Slice(value, *(op.Constant(value_ints=[i]) for i in (channel, channel + 1, 3)))


def integers_of(op: Emitter, numbers: object) -> ir.Value:
    """An INT64 constant."""
    return op.Constant(value=ir.tensor(np.asarray(numbers, np.int64)))


def coordinate_type(grid: ir.Value) -> ir.DataType:
    """What coordinates are computed in: fp32, or fp64 for an fp64 grid."""
    return ir.DataType.DOUBLE if grid.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
