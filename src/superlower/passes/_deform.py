"""The arithmetic of DeformConv, emitted operator by operator, in two forms."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import constant_value, static_shape
from superlower.passes._rules import Emitter, integer, integers, tensor
from superlower.passes._sampling import coordinate_type, integers_of, take_channel, whole_places

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a deformable convolution of images.

    Attributes:
        batch, channels, height, width: of the input.
        out_channels, out_height, out_width: of the output.
        kernel, strides, dilations: vertical, horizontal.
        pads: top, left.
        groups: of the convolution.
        offset_groups: runs of channels that share their offsets.
    """

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    groups: int
    offset_groups: int

    @property
    def taps(self) -> int:
        """Positions each output pixel is computed from, for one channel."""
        return prod(self.kernel)

    @property
    def images(self) -> int:
        """Inputs of `channels / offset_groups` channels, each with offsets of its own."""
        return self.batch * self.offset_groups

    @property
    def depth(self) -> int:
        """Channels of each."""
        return self.channels // self.offset_groups

    def bases(self) -> Whole:
        """Where the taps are with offsets of 0: row and column [2, taps, out_height, out_width]."""
        lines = []
        for axis, size in enumerate((self.out_height, self.out_width)):
            tap = np.arange(self.kernel[axis]) * self.dilations[axis]
            start = np.arange(size) * self.strides[axis] - self.pads[axis]
            lines.append(tap[:, None] + start)
        shape = (*self.kernel, self.out_height, self.out_width)
        rows = np.broadcast_to(lines[0][:, None, :, None], shape)
        columns = np.broadcast_to(lines[1][None, :, None, :], shape)
        return np.stack([rows, columns]).reshape(2, self.taps, self.out_height, self.out_width)


def geometry(node: ir.Node) -> Geometry | str:
    """The sizes of a DeformConv node, or why it can't be lowered."""
    x, weight, offset = (static_shape(value) for value in node.inputs[:3])
    if x is None or weight is None or offset is None:
        return "sizes aren't static"
    if len(x) != 4:
        return f"its input has {len(x) - 2} spatial axes: images only are lowered"
    pads = integers(node, "pads", (0, 0, 0, 0))
    batch, channels, height, width = x
    found = Geometry(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        out_channels=weight[0],
        out_height=offset[2],
        out_width=offset[3],
        kernel=(weight[2], weight[3]),
        strides=_pair(integers(node, "strides", (1, 1))),
        dilations=_pair(integers(node, "dilations", (1, 1))),
        pads=(pads[0], pads[1]),
        groups=integer(node, "group", 1),
        offset_groups=integer(node, "offset_group", 1),
    )
    spans = [d * (k - 1) + 1 for d, k in zip(found.dilations, found.kernel, strict=True)]
    room = [size + pads[a] + pads[a + 2] - spans[a] for a, size in enumerate(x[2:])]
    sizes = tuple(r // s + 1 for r, s in zip(room, found.strides, strict=True))
    wanted = (x[0], 2 * found.offset_groups * found.taps, *sizes)
    if offset != wanted or x[1] % found.offset_groups or weight[1] * found.groups != x[1]:
        return f"its offsets are {list(offset)} and its weights {list(weight)}, which don't fit {list(x)}"
    return found


def by_grid_sample(op: Emitter, node: ir.Node, sizes: Geometry, opset: int) -> ir.Value:
    """One GridSample with the taps stacked along the rows, then a 1x1 convolution of channels x taps."""
    x, weight, offset, bias, mask = inputs(node)
    kind, given = coordinate_type(offset), cast(ir.DataType, x.dtype)
    images, taps, high, wide = sizes.images, sizes.taps, sizes.out_height, sizes.out_width
    offset = op.Reshape(as_type(op, offset, kind), op.Constant(value_ints=[images, taps, 2, high, wide]))
    # Worked out in planes, whose rows are long: OpenVINO (2026.4) takes ten times as long for pairs on a CPU.
    extent = np.array([sizes.height, sizes.width]).reshape(2, 1, 1)
    bases = sizes.bases().transpose(1, 0, 2, 3)[None]
    scaled = op.Mul(offset, op.Constant(value=tensor(2 / extent, kind)))
    places = op.Add(scaled, op.Constant(value=tensor((2 * bases + 1) / extent - 1, kind)))
    # Grids have columns before rows.
    places = op.Gather(places, integers_of(op, [1, 0]), axis=2)
    grid = op.Transpose(places, perm=[0, 1, 3, 4, 2])
    grid = op.Reshape(grid, op.Constant(value_ints=[images, taps * high, wide, 2]))
    shape = op.Constant(value_ints=[images, sizes.depth, sizes.height, sizes.width])
    image = op.Reshape(as_type(op, x, kind), shape)
    mode = "linear" if opset >= 20 else "bilinear"
    sampled = op.GridSample(image, grid, mode=mode, padding_mode="zeros", align_corners=0)
    sampled = sampled if given == kind else op.Cast(sampled, to=given)
    if mask is not None:
        shape = op.Constant(value_ints=[images, 1, taps * high, wide])
        sampled = op.Mul(sampled, op.Reshape(mask, shape))
    columns = op.Reshape(sampled, op.Constant(value_ints=[sizes.batch, sizes.channels * taps, high, wide]))
    return _pointwise(op, columns, weight, bias, sizes)


def by_gathers(op: Emitter, node: ir.Node, sizes: Geometry) -> ir.Value:
    """Bilinear gathers of channels-last pixels, then a product with the weights as one matrix.

    A tap's base is a whole number, so its pixel is base + floor(offset), and its weights are those of the
    offset alone: nothing is rounded at the position's own magnitude, however wide the image.
    """
    x, weight, offset, bias, mask = inputs(node)
    kind, given = coordinate_type(offset), cast(ir.DataType, x.dtype)
    batch, pixels, lines = sizes.batch, sizes.out_height * sizes.out_width, sizes.offset_groups * sizes.taps
    image, high, wide = _channels_last(op, x, sizes)
    # [batch, pixel, offset group and tap, row or column] throughout: the products' own order.
    offset = op.Reshape(as_type(op, offset, kind), op.Constant(value_ints=[batch, lines, 2, pixels]))
    offset = op.Transpose(offset, perm=[0, 3, 1, 2])
    low = op.Floor(offset)
    fraction = op.Sub(offset, low)
    rest = op.Sub(op.Constant(value=tensor(np.ones(1), kind)), fraction)
    weights = [[take_channel(op, share, axis) for share in (rest, fraction)] for axis in (0, 1)]
    if mask is not None:
        mask = op.Reshape(as_type(op, mask, kind), op.Constant(value_ints=[batch, lines, pixels, 1]))
        mask = op.Transpose(mask, perm=[0, 2, 1, 3])
        weights[0] = [op.Mul(share, mask) for share in weights[0]]
    bases = sizes.bases().reshape(2, sizes.taps, pixels).transpose(2, 1, 0)[None]
    bases = np.tile(bases, (1, 1, sizes.offset_groups, 1))
    corners = []
    for corner in (0, 1):
        # The border of zeros is row and column 0; what lies further out is moved there.
        place = op.Add(low, op.Constant(value=tensor(bases + 1 + corner, kind)))
        limit = op.Constant(value=tensor(np.array([high - 1, wide - 1]), kind))
        place = op.Max(op.Min(place, limit), op.Constant(value=tensor(np.zeros(1), kind)))
        place = whole_places(op, place, 0)
        corners.append([take_channel(op, place, axis) for axis in (0, 1)])
    first = np.arange(sizes.images).reshape(batch, 1, sizes.offset_groups).repeat(sizes.taps, axis=2)
    starts = [
        op.Add(op.Mul(row, integers_of(op, [wide])), integers_of(op, first[..., None] * high * wide))
        for row, _ in corners
    ]
    total: ir.Value | None = None
    for i in (0, 1):
        for j in (0, 1):
            share = op.Mul(weights[0][i], weights[1][j])
            share = share if given == kind else op.Cast(share, to=given)
            share = op.Reshape(share, op.Constant(value_ints=[-1, 1]))
            place = op.Reshape(op.Add(starts[i], corners[j][1]), op.Constant(value_ints=[-1]))
            part = op.Mul(op.Gather(image, place, axis=0), share)
            total = part if total is None else op.Add(total, part)
    return _multiplied(op, cast(ir.Value, total), weight, bias, sizes)


def inputs(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None, ir.Value | None]:
    """Input, weights, offsets, bias and mask; an optional input may be left out or left empty."""
    x, weight, offset, *optional = node.inputs
    bias, mask = (*optional, None, None)[:2]
    assert x is not None
    assert weight is not None
    assert offset is not None
    return x, weight, offset, bias, mask


def as_type(op: Emitter, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    """A value of the graph in the type wanted."""
    return value if value.dtype == wanted else op.Cast(value, to=wanted)


def _channels_last(op: Emitter, x: ir.Value, sizes: Geometry) -> tuple[ir.Value, int, int]:
    """Pixels [images * rows * columns, depth] with a border of zeros, and how many rows and columns."""
    high, wide = sizes.height + 2, sizes.width + 2
    x = op.Pad(x, op.Constant(value_ints=[0, 0, 1, 1, 0, 0, 1, 1]))
    x = op.Reshape(x, op.Constant(value_ints=[sizes.images, sizes.depth, high, wide]))
    x = op.Transpose(x, perm=[0, 2, 3, 1])
    return op.Reshape(x, op.Constant(value_ints=[-1, sizes.depth])), high, wide


def _multiplied(
    op: Emitter, pixels: ir.Value, weight: ir.Value, bias: ir.Value | None, sizes: Geometry
) -> ir.Value:
    """Sampled pixels [batch * pixel * offset group * tap, depth] times the weights."""
    batch, groups, taps, depth = sizes.batch, sizes.offset_groups, sizes.taps, sizes.depth
    high, wide = sizes.out_height, sizes.out_width
    if sizes.groups > 1:
        shaped = op.Reshape(pixels, op.Constant(value_ints=[batch, high * wide, groups, taps, depth]))
        shaped = op.Transpose(shaped, perm=[0, 2, 4, 3, 1])
        columns = op.Reshape(shaped, op.Constant(value_ints=[batch, sizes.channels * taps, high, wide]))
        return _pointwise(op, columns, weight, bias, sizes)
    rows = op.Reshape(pixels, op.Constant(value_ints=[batch * high * wide, sizes.channels * taps]))
    matrix = _moved(op, weight, [-1, groups, depth, taps], [1, 3, 2, 0], [-1, sizes.out_channels])
    product = op.MatMul(rows, matrix)
    product = product if bias is None else op.Add(product, bias)
    product = op.Reshape(product, op.Constant(value_ints=[batch, high * wide, sizes.out_channels]))
    product = op.Transpose(product, perm=[0, 2, 1])
    return op.Reshape(product, op.Constant(value_ints=[batch, sizes.out_channels, high, wide]))


def _pointwise(
    op: Emitter, columns: ir.Value, weight: ir.Value, bias: ir.Value | None, sizes: Geometry
) -> ir.Value:
    """The 1x1 convolution of [batch, channels * taps, out_height, out_width]."""
    shape = [sizes.out_channels, sizes.channels // sizes.groups * sizes.taps, 1, 1]
    given = [columns, _moved(op, weight, shape, [0, 1, 2, 3], shape), *([] if bias is None else [bias])]
    return op.Conv(*given, kernel_shape=[1, 1], group=sizes.groups)


def _moved(op: Emitter, weight: ir.Value, split: list[int], order: list[int], shape: list[int]) -> ir.Value:
    """Weights reshaped, transposed and reshaped again; constants in place."""
    array = constant_value(weight)
    if array is not None:
        moved = np.ascontiguousarray(array.reshape(split).transpose(order).reshape(shape))
        return op.Constant(value=tensor(moved, cast(ir.DataType, weight.dtype)))
    weight = op.Reshape(weight, op.Constant(value_ints=split))
    if order != sorted(order):
        weight = op.Transpose(weight, perm=order)
    return weight if split == shape else op.Reshape(weight, op.Constant(value_ints=shape))


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = numbers
    return vertical, horizontal
