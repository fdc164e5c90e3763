"""GridSample as the opset spells it, with its coordinates in fp32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.passes._flow import emit_grid, find_flow
from superlower.passes._rules import Emitter, OnOperator, Rule, apply_rules, integer, maker, producer, text
from superlower.passes.base import EXACT, Applied, Budget, Pass
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.fold_constants import FoldConstants

_FROM_20 = {"bilinear": "linear", "bicubic": "cubic"}
_UP_TO_19 = {new: old for old, new in _FROM_20.items()}
_REDUCED = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class GuardGridSample(Pass):
    """Name GridSample's mode as the model's opset does, and keep its coordinates in fp32.

    ::

        mode "linear", "cubic" up to opset 19            ->  "bilinear", "bicubic"
        mode "bilinear", "bicubic" from opset 20 on      ->  "linear", "cubic"
        GridSample(x fp16, grid fp16), grid affine       ->  grid computed again in fp32, from Cast(flow)
            in one flow
        GridSample(x fp16, any grid)                     ->  Cast(GridSample(Cast(x), Cast(grid)))

    A grid in [-1, 1] has steps of 2^-11 near its ends in fp16: a quarter of a pixel at W = 1024. Where it is
    affine in one flow, its arithmetic is done again in fp32: constants are worked out in float64 from those
    in the graph, and the whole numbers among them (pixel positions up to 2048, w - 1) are exact in fp16.
    TensorRT wants x and grid of one type, and fuses the Casts.

    Exact, but for `widen`. Refused: with `widen`, a grid below fp32 that isn't affine in one flow.

    Attributes:
        widen: compute reduced-precision grids again in fp32. Moves outputs towards the true ones by as much
            as they were off, so its budget is no check; leave it out where grids are in fp32 already.
    """

    name: ClassVar[str] = "guard-grid-sample"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, CollapseFlowWarp)
    budget: ClassVar[Budget] = EXACT
    widen: bool = False

    def __post_init__(self) -> None:
        """Give an instance that widens its own budget."""
        if self.widen:
            object.__setattr__(self, "budget", _WIDENED)

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        rules: list[Rule] = [_Spell(model.opset_imports[""])]
        return apply_rules(model, [*rules, *([_Widen()] if self.widen else []), _Sandwich()])


_WIDENED = Budget(
    2.0,
    "the old grid is within 4 roundings of 2^-12, so W 2^-11 pixels (1 at W = 2048), of the true one, and 1 "
    "px moves a sample by at most twice the largest value",
)


class _Spell(OnOperator):
    def __init__(self, opset: int) -> None:
        super().__init__("GridSample")
        self.names = _FROM_20 if opset >= 20 else _UP_TO_19

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        # The default's name changed too, so a mode left out reads rightly in either opset.
        mode = text(node, "mode", "")
        if mode not in self.names:
            return self.skip(node)
        return self.accept(node, f"mode {mode} is called {self.names[mode]} in this opset")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        attributes = {**node.attributes, "mode": self.names[text(node, "mode", "")]}
        return op.GridSample(*node.inputs, **attributes)


class _Widen(OnOperator):
    def __init__(self) -> None:
        super().__init__("GridSample")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        grid = cast(ir.Value, node.inputs[1])
        cast_from = producer(grid, "Cast")
        self.grid = grid = grid if cast_from is None else cast(ir.Value, cast_from.inputs[0])
        if grid.dtype not in _REDUCED:
            return self.skip(node)
        form = find_flow(grid, bool(integer(node, "align_corners", 0)))
        if form is None:
            return self.refuse(node, f"its {grid.dtype} grid is no affine function of one flow")
        self.form = form
        return self.accept(node, f"coordinates in fp32 from {cast(ir.Value, form.source).name}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        flow = op.Cast(self.form.source, to=ir.DataType.FLOAT)
        grid = emit_grid(op, self.form, ir.DataType.FLOAT, flow)
        return _sample(op, node, grid)


class _Sandwich(OnOperator):
    def __init__(self) -> None:
        super().__init__("GridSample")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        types = [cast(ir.Value, v).dtype for v in node.inputs]
        if not _REDUCED.intersection(types):
            return self.skip(node)
        return self.accept(node, f"in fp32 between casts (was {types[0]} by {types[1]})")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        return _sample(op, node, _as_float(op, cast(ir.Value, node.inputs[1])))


def _sample(op: Emitter, node: ir.Node, grid: ir.Value) -> ir.Value:
    x = cast(ir.Value, node.inputs[0])
    sampled = op.GridSample(_as_float(op, x), grid, **node.attributes)
    return op.Cast(sampled, to=x.dtype) if x.dtype in _REDUCED else sampled


def _as_float(op: Emitter, value: ir.Value) -> ir.Value:
    return op.Cast(value, to=ir.DataType.FLOAT) if value.dtype in _REDUCED else value
