"""GridSample with its grid measured between the outer edges of the image, not between pixel centres."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import static_shape
from superlower.passes._rules import (
    Emitter,
    Lowering,
    apply_rules,
    as_before,
    integer,
    maker,
    tensor,
    text,
)
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.guard_grid_sample import GuardGridSample

_WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class HalfPixelGrid(Pass):
    """Sample without align_corners.

    ::

        GridSample(x, g){align_corners = 1}  ->  GridSample(x, g * (size - 1)/size){align_corners = 0}

    A position is (g + 1) (size - 1)/2 with align_corners and ((g + 1) size - 1)/2 without. ONNX Runtime
    1.31's CPU samples bilinearly with zeros and without align_corners by a kernel of its own, several times
    as fast as the one for all else.

    Refused: reflection, which folds at pixel centres with align_corners and at outer edges without; mode
    nearest, where a coordinate rounded differently jumps to another pixel; volumes; sizes that aren't static;
    grids below fp32 (guard-grid-sample first).
    """

    name: ClassVar[str] = "half-pixel-grid"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, GuardGridSample)
    budget: ClassVar[Budget] = Budget(
        1e-3,
        "a coordinate is within 2 roundings of 2^-24 W of where it was, 2.3e-4 px at W = 1920, and 1 px "
        "moves a bilinear sample by at most twice the largest value",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [CornersUnaligned()])


class CornersUnaligned(Lowering):
    """The rewrite of `HalfPixelGrid`."""

    def __init__(self, chosen: Collection[ir.Node] | None = None) -> None:
        super().__init__("GridSample", chosen)

    def check(self, context: object, out: ir.Value) -> MatchResult:
        """With align_corners only."""
        node = maker(out)
        return super().check(context, out) if integer(node, "align_corners", 0) else self.skip(node)

    def why_not(self, node: ir.Node) -> str | None:
        """Not aligned, reflection, nearest, a volume, unknown sizes, or a grid of reduced precision."""
        shape, grid = static_shape(node.inputs[0]), cast(ir.Value, node.inputs[1])
        if not integer(node, "align_corners", 0):
            return "its corners aren't aligned"
        if text(node, "padding_mode", "zeros") == "reflection":
            return "reflection folds elsewhere without align_corners"
        if text(node, "mode", "bilinear") == "nearest":
            return "mode nearest jumps where a coordinate is rounded differently"
        if shape is None or len(shape) != 4:
            return "sizes aren't static, or it samples a volume"
        if grid.dtype not in _WIDE:
            return f"its grid is {grid.dtype}: guard-grid-sample first"
        return None

    def detail(self, node: ir.Node) -> str:
        """What is done."""
        return "grid scaled to the image's outer edges, without align_corners"

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """One product."""
        node = maker(out)
        x, grid = (cast(ir.Value, v) for v in node.inputs)
        height, width = (static_shape(x) or ())[2:]
        size = np.array([width, height])
        scaled = op.Mul(grid, op.Constant(value=tensor((size - 1) / size, cast(ir.DataType, grid.dtype))))
        return as_before(op.GridSample(x, scaled, **{**node.attributes, "align_corners": 0}), node)
