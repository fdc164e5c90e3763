"""Flow-guided warps in the fewest nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value
from superlower.passes._affine import Affine, Floats, Walk, emit
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    apply_rules,
    integer,
    maker,
    static_shape,
    text,
)
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.simplify_exporter_residue import SimplifyExporterResidue

TO_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class CollapseFlowWarp(Pass):
    """Give every flow warp one form.

    ::

        p = flow [N, 2, H, W] -> channels last, + pixel positions     Transpose(flow) [N, H, W, 2]
        g = 2 p / (size - 1) - 1, channel by channel, stacked     ->  Mul [1, 1, 1, 2], Add [1, H, W, 2]
        GridSample(x, g)                                              GridSample(x, g)

        GridSample(x, g), g constant, each pixel's own position   ->  x

    A pattern would have to list every spelling of the grid (divisions by 1 folded away, max(w - 1, 1),
    scalars of shape [1], linspace grids, constants as nodes, operands swapped, flow scaled before or after
    the transpose), so the grid is read as an affine function of single flow elements instead: see `_affine`.
    The flow is the nearest [N, 2, H, W] value that is a displacement of pixel positions, else the furthest
    back. What other nodes use of the old arithmetic stays for them.

    Refused: a grid that isn't affine in one flow; mode nearest, where a coordinate rounded differently jumps
    to another pixel; grids of less than fp32 (guard-grid-sample first).
    """

    name: ClassVar[str] = "collapse-flow-warp"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, SimplifyExporterResidue)
    budget: ClassVar[Budget] = Budget(
        1e-3,
        "old and new grids are each within 4 roundings of 2^-24 of the true one in [-1, 1], so within "
        "2^-21 W/2 pixels of each other: 4.6e-4 px at W = 1920, where 1 px moves a sample by at most twice "
        "the largest value",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [_Collapse()])


class _Collapse(OnOperator):
    def __init__(self) -> None:
        super().__init__("GridSample")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        grid = cast(ir.Value, node.inputs[1])
        shape, aligned = static_shape(grid), bool(integer(node, "align_corners", 0))
        if shape is None or len(shape) != 4 or static_shape(node.inputs[0]) is None:
            return self.refuse(node, "sizes aren't static, or it samples a volume")
        constant = constant_value(grid)
        self.form: Affine | None = None
        if constant is not None:
            same = (static_shape(node.inputs[0]) or ())[2:] == shape[1:3]
            if not same or _displacement(constant.astype(np.float64), aligned) > 2.0**-21 * max(shape[1:3]):
                return self.skip(node)
            return self.accept(node, "a zero flow moves nothing")
        if text(node, "mode", "bilinear") == "nearest":
            return self.refuse(node, "mode nearest: a coordinate rounded differently jumps to another pixel")
        if grid.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return self.refuse(node, f"its grid is {grid.dtype}: guard-grid-sample first")
        form = find_flow(grid, aligned)
        if form is None:
            made = grid.producer()
            by = "an input of the graph" if made is None else f"{made.op_type} '{made.name}'"
            return self.refuse(node, f"its grid ({by}) is no affine function of one flow")
        if _collapsed(grid, cast(ir.Value, form.source)):
            return self.skip(node)
        self.form = form
        return self.accept(node, f"warp by {cast(ir.Value, form.source).name}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        x, old = (cast(ir.Value, v) for v in node.inputs)
        if self.form is None:
            return op.Identity(x)
        flow, dtype = cast(ir.Value, self.form.source), cast(ir.DataType, old.dtype)
        return op.GridSample(x, emit_grid(op, self.form, dtype, flow), **node.attributes)


def emit_grid(op: Emitter, form: Affine, dtype: ir.DataType, flow: ir.Value) -> ir.Value:
    """The sampling grid of a warp, from its flow (the form's source, perhaps cast) in either layout."""
    last = flow if form.in_place else op.Transpose(flow, perm=list(TO_CHANNELS_LAST))
    return emit(op, last, form.scale, form.offset, dtype)


def find_flow(grid: ir.Value, aligned: bool) -> Affine | None:
    """A sampling grid [N, H, W, 2] as an affine function of its flow, if it is one.

    Args:
        aligned: GridSample's align_corners.
    """
    whole = Walk()
    if whole.root(grid) in (None, grid):
        return None
    found: Affine | None = None
    for flow in whole.walked:
        shape = static_shape(flow)
        if flow is grid or shape is None or len(shape) != 4 or constant_value(flow) is not None:
            continue
        walk = Walk(stop=(flow,))
        if walk.root(grid) is not flow:
            continue
        form = walk.form(grid)
        if not (form.moves(TO_CHANNELS_LAST) or form.in_place) or not np.all(np.isfinite(form.offset)):
            continue
        if form.moves(TO_CHANNELS_LAST) or found is None or found.in_place:
            found = form
        # One pixel has no positions to tell a displacement by: there the furthest value back is taken.
        placed = form.offset.size > 2 and _displacement(form.offset, aligned) < 0.5
        if placed and form.moves(TO_CHANNELS_LAST):
            break
    return found


def _displacement(grid: Floats, aligned: bool) -> float:
    """Largest distance in pixels between the positions in a grid [N, H, W, 2] and the pixels' own."""
    height, width = grid.shape[1:3]
    size = np.array([width, height])
    pixels = ((grid + 1) * (size - 1) if aligned else (grid + 1) * size - 1) / 2
    rows, columns = np.mgrid[0:height, 0:width]
    return float(np.abs(pixels - np.stack([columns, rows], axis=-1)).max(initial=0))


def _collapsed(grid: ir.Value, flow: ir.Value) -> bool:
    """Whether the grid is already Add(Mul(Transpose(flow))), any of the three left out."""
    value = grid
    for op in ("Add", "Mul", "Transpose"):
        node = value.producer()
        if node is None or node.op_type != op or value is flow:
            continue
        value = next(v for v in node.inputs if v is not None and constant_value(v) is None)
    return value is flow
