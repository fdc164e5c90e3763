"""Flow-guided warps in the fewest nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value, static_shape
from superlower.passes._affine import Affine
from superlower.passes._flow import displacement, emit_grid, find_flow, is_collapsed
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    apply_rules,
    integer,
    maker,
    text,
)
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.simplify_exporter_residue import SimplifyExporterResidue


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
            if not same or displacement(constant.astype(np.float64), aligned) > 2.0**-21 * max(shape[1:3]):
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
        if is_collapsed(grid, cast(ir.Value, form.source)):
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
