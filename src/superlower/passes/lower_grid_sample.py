"""GridSample as gathers, for backends without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter import MatchResult

from superlower.errors import BadInputError
from superlower.passes._rules import Emitter, OnOperator, apply_rules, integer, maker, static_shape, text
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants

CHANNELS_LAST = "channels_last"
CHANNELS_FIRST = "channels_first"


@dataclass(frozen=True)
class LowerGridSample(Pass):
    """Replace GridSample by arithmetic and Gather.

    ::

        GridSample(x [N, C, H, W], grid [N, H', W', 2])
            ->  p = grid * size/2 + (size - 1)/2       ((size - 1)/2 both times with align_corners)
                padding: border clamps p, reflection folds it, zeros pads x by 1 and clamps p to -1..size
                bilinear: 4 Gathers around p, weighted by p - floor(p); nearest: 1 Gather at Round(p)

    Arithmetic as in the operator's definition in the ONNX specification; for finite grids. Coordinates are
    fp32 (fp64 grids stay fp64), weights of x's type. Refused: cubic, volumes, sizes that aren't static.

    Attributes:
        layout: "channels_last" gathers whole pixels, which is the faster on CPUs (two Transposes included);
            "channels_first" gathers in x's own layout and needs no Transpose.
    """

    name: ClassVar[str] = "lower-grid-sample"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-3,
        "a coordinate is within 2 roundings of 2^-24 W of ONNX Runtime's, 2.3e-4 px at W = 1920, and 1 px "
        "moves a bilinear sample by at most twice the largest value (nearest may jump where p lies within "
        "that of a half)",
    )
    layout: str = CHANNELS_LAST

    def __post_init__(self) -> None:
        """Check the option."""
        if self.layout not in (CHANNELS_LAST, CHANNELS_FIRST):
            raise BadInputError(
                f"lower-grid-sample.layout is '{self.layout}': it takes {CHANNELS_LAST} or {CHANNELS_FIRST}"
            )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [_Lower(self.layout)])


class _Lower(OnOperator):
    def __init__(self, layout: str) -> None:
        super().__init__("GridSample")
        self.layout = layout

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        shapes = [static_shape(v) for v in node.inputs]
        mode = text(node, "mode", "bilinear")
        if None in shapes or len(shapes[0] or ()) != 4:
            return self.refuse(node, "sizes aren't static, or it samples a volume")
        if mode not in ("bilinear", "linear", "nearest"):
            return self.refuse(node, f"mode {mode} takes 16 gathers: not lowered")
        return self.accept(node, f"{mode}, {text(node, 'padding_mode', 'zeros')}, {self.layout}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        x, grid = (cast(ir.Value, v) for v in node.inputs)
        x_shape, grid_shape = static_shape(x) or (), static_shape(grid) or ()
        batch, channels, height, width = x_shape
        weight_type = cast(ir.DataType, x.dtype)
        nearest = text(node, "mode", "bilinear") == "nearest"
        padded = int(text(node, "padding_mode", "zeros") == "zeros")
        points = _positions(op, node, grid, np.array([width, height]))
        if padded:
            pads = [0, 0, 1, 1, 0, 0, 1, 1]
            x, height, width = op.Pad(x, op.Constant(value_ints=pads)), height + 2, width + 2
        low = op.Round(points) if nearest else op.Floor(points)
        first = (np.arange(batch) * height * width).reshape(-1, 1, 1, 1) + padded * (width + 1)
        limit = np.array([width, height]) - 1 - padded
        columns, rows = _columns_and_rows(op, low, limit)
        gather = _Gather(op, x, (batch, channels, height, width), grid_shape, self.layout)
        starts = [op.Add(op.Mul(r, _int(op, [width])), _int(op, first)) for r in rows]
        if nearest:
            return gather.back(gather.pixels(op.Add(starts[0], columns[0])))
        fraction = op.Sub(points, low)
        rest = op.Sub(op.Constant(value=ir.tensor(np.ones(1, _float(grid).numpy()))), fraction)
        weights = [[_take(op, w, axis) for w in (rest, fraction)] for axis in (0, 1)]
        total: ir.Value | None = None
        for i in (0, 1):
            for j in (0, 1):
                weight = op.Mul(weights[1][i], weights[0][j])
                weight = weight if weight_type == _float(grid) else op.Cast(weight, to=weight_type)
                part = op.Mul(gather.pixels(op.Add(starts[i], columns[j])), gather.flat(weight))
                total = part if total is None else op.Add(total, part)
        return gather.back(cast(ir.Value, total))


class _Gather:
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
        places = self.op.Reshape(places, self.op.Constant(value_ints=[-1]))
        return self.op.Gather(self.image, places, axis=0 if self.last else 1)

    def flat(self, weight: ir.Value) -> ir.Value:
        return self.op.Reshape(weight, self.op.Constant(value_ints=[-1, 1] if self.last else [1, -1]))

    def back(self, pixels: ir.Value) -> ir.Value:
        op, (batch, height, width) = self.op, self.grid
        if self.last:
            shaped = op.Reshape(pixels, op.Constant(value_ints=[batch, height, width, self.channels]))
            return op.Transpose(shaped, perm=[0, 3, 1, 2])
        if batch == 1:
            return op.Reshape(pixels, op.Constant(value_ints=[1, self.channels, height, width]))
        shaped = op.Reshape(pixels, op.Constant(value_ints=[self.channels, batch, height, width]))
        return op.Transpose(shaped, perm=[1, 0, 2, 3])


def _positions(op: Emitter, node: ir.Node, grid: ir.Value, size: NDArray[np.int64]) -> ir.Value:
    """Where the grid points, in pixels, within the image or one pixel outside: [N, H', W', 2]."""
    kind = _float(grid)

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


def _columns_and_rows(op: Emitter, low: ir.Value, limit: NDArray[np.int64]) -> list[list[ir.Value]]:
    """Whole columns and rows, each [at or before p, after p], the latter no further than `limit`."""
    whole = op.Cast(low, to=ir.DataType.INT64)
    after = op.Min(op.Add(whole, _int(op, [1])), _int(op, limit))
    return [[_take(op, v, axis) for v in (whole, after)] for axis in (0, 1)]


def _take(op: Emitter, value: ir.Value, channel: int) -> ir.Value:
    return op.Slice(value, *(op.Constant(value_ints=[i]) for i in (channel, channel + 1, 3)))


def _int(op: Emitter, numbers: object) -> ir.Value:
    return op.Constant(value=ir.tensor(np.asarray(numbers, np.int64)))


def _float(grid: ir.Value) -> ir.DataType:
    return ir.DataType.DOUBLE if grid.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
