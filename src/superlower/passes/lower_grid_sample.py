"""GridSample as gathers, for backends without it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.ir import static_shape
from superlower.passes._rules import Emitter, Lowering, apply_rules, maker, text
from superlower.passes._sampling import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    PixelGather,
    columns_and_rows,
    coordinate_type,
    integers_of,
    positions,
    take_channel,
)
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants


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
        return apply_rules(model, [GridSampleAsGathers(self.layout)])


class GridSampleAsGathers(Lowering):
    """The rewrite of `LowerGridSample`."""

    def __init__(self, layout: str, chosen: Collection[ir.Node] | None = None) -> None:
        super().__init__("GridSample", chosen)
        self.layout = layout

    def why_not(self, node: ir.Node) -> str | None:
        """Cubic, a volume, or sizes that aren't static."""
        shapes = [static_shape(v) for v in node.inputs]
        mode = text(node, "mode", "bilinear")
        if None in shapes or len(shapes[0] or ()) != 4:
            return "sizes aren't static, or it samples a volume"
        if mode not in ("bilinear", "linear", "nearest"):
            return f"mode {mode} takes 16 gathers: not lowered"
        return None

    def detail(self, node: ir.Node) -> str:
        """Mode, padding and layout."""
        mode = text(node, "mode", "bilinear")
        return f"{mode}, {text(node, 'padding_mode', 'zeros')}, {self.layout}"

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """Gathers, weights and sums."""
        node = maker(out)
        x, grid = (cast(ir.Value, v) for v in node.inputs)
        x_shape, grid_shape = static_shape(x) or (), static_shape(grid) or ()
        batch, channels, height, width = x_shape
        weight_type = cast(ir.DataType, x.dtype)
        nearest = text(node, "mode", "bilinear") == "nearest"
        padded = int(text(node, "padding_mode", "zeros") == "zeros")
        points = positions(op, node, grid, np.array([width, height]))
        if padded:
            pads = [0, 0, 1, 1, 0, 0, 1, 1]
            x, height, width = op.Pad(x, op.Constant(value_ints=pads)), height + 2, width + 2
        low = op.Round(points) if nearest else op.Floor(points)
        first = (np.arange(batch) * height * width).reshape(-1, 1, 1, 1) + padded * (width + 1)
        limit = np.array([width, height]) - 1 - padded
        columns, rows = columns_and_rows(op, low, -padded, limit)
        gather = PixelGather(op, x, (batch, channels, height, width), grid_shape, self.layout)
        starts = [op.Add(op.Mul(r, integers_of(op, [width])), integers_of(op, first)) for r in rows]
        if nearest:
            return gather.back(gather.pixels(op.Add(starts[0], columns[0])))
        fraction = op.Sub(points, low)
        rest = op.Sub(op.Constant(value=ir.tensor(np.ones(1, coordinate_type(grid).numpy()))), fraction)
        weights = [[take_channel(op, w, axis) for w in (rest, fraction)] for axis in (0, 1)]
        total: ir.Value | None = None
        for i in (0, 1):
            for j in (0, 1):
                weight = op.Mul(weights[1][i], weights[0][j])
                weight = weight if weight_type == coordinate_type(grid) else op.Cast(weight, to=weight_type)
                part = op.Mul(gather.pixels(op.Add(starts[i], columns[j])), gather.flat(weight))
                total = part if total is None else op.Add(total, part)
        return gather.back(cast(ir.Value, total))
