"""GridSample's border padding as a clamp, for backends that are fast with zeros only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
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

Floats = NDArray[np.float64]

_WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class ClampBorder(Pass):
    """Clamp the grid to the image, and pad with zeros.

    ::

        GridSample(x, g){padding_mode = border}
            ->  GridSample(x, Max(Min(g, limit), -limit)){padding_mode = zeros}
                limit = 1 with align_corners, else 1 - 1/size

    The limits are the centres of the border pixels: a position beyond them samples the border pixel with
    border padding, and one at them needs no padding. OpenVINO's GPU plug-in samples bilinearly with zeros by
    a kernel of its own, and all else by its plain one (openvino#28670).

    Positions are exact with align_corners. Without, 1 - 1/size is no floating-point number but for powers of
    two: it is rounded towards the centre, so that a border pixel is mixed with its inner neighbour, not with
    zeros.

    Refused: cubic, where a position's 4x4 pixels are clamped one by one; volumes; sizes that aren't static;
    grids below fp32 (guard-grid-sample first).
    """

    name: ClassVar[str] = "clamp-border"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, GuardGridSample)
    budget: ClassVar[Budget] = Budget(
        1e-3,
        "a clamped coordinate is within 2 roundings of 2^-24 W of the border pixel's centre, 2.3e-4 px at "
        "W = 1920, and 1 px moves a bilinear sample by at most twice the largest value",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [BorderAsZeros()])


class BorderAsZeros(Lowering):
    """The rewrite of `ClampBorder`."""

    def __init__(self, chosen: Collection[ir.Node] | None = None) -> None:
        super().__init__("GridSample", chosen)

    def check(self, context: object, out: ir.Value) -> MatchResult:
        """Border padding only."""
        node = maker(out)
        return (
            super().check(context, out)
            if text(node, "padding_mode", "zeros") == "border"
            else self.skip(node)
        )

    def why_not(self, node: ir.Node) -> str | None:
        """Another padding, cubic, a volume, sizes that aren't static, or a grid of reduced precision."""
        shape, grid = static_shape(node.inputs[0]), cast(ir.Value, node.inputs[1])
        mode = text(node, "mode", "bilinear")
        if text(node, "padding_mode", "zeros") != "border":
            return "its padding isn't border"
        if shape is None or len(shape) != 4:
            return "sizes aren't static, or it samples a volume"
        if mode not in ("bilinear", "linear", "nearest"):
            return f"mode {mode} reads beyond the border from positions within: not clamped"
        if grid.dtype not in _WIDE:
            return f"its grid is {grid.dtype}: guard-grid-sample first"
        return None

    def detail(self, node: ir.Node) -> str:
        """Where to."""
        return "grid clamped to the border pixels' centres, zeros outside"

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """Min, Max and the same sampler with zeros."""
        node = maker(out)
        x, grid = (cast(ir.Value, v) for v in node.inputs)
        kind = cast(ir.DataType, grid.dtype)
        height, width = (static_shape(x) or ())[2:]
        size = np.array([width, height])
        limit = np.ones(2) if integer(node, "align_corners", 0) else _towards_zero(1 - 1 / size, kind)
        clamped = op.Max(
            op.Min(grid, op.Constant(value=tensor(limit, kind))), op.Constant(value=tensor(-limit, kind))
        )
        attributes = {**node.attributes, "padding_mode": "zeros"}
        return as_before(op.GridSample(x, clamped, **attributes), node)


def _towards_zero(exact: Floats, kind: ir.DataType) -> Floats:
    """The numbers of a type next to non-negative ones, not above them."""
    near = exact.astype(kind.numpy())
    below = np.nextafter(near, np.zeros_like(near))
    return np.where(near > exact, below, near).astype(np.float64)
