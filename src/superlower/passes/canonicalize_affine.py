"""Arithmetic with constants as at most one Mul and one Add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.passes._affine import ARITHMETIC, Affine, Walk, emit, shrink
from superlower.passes._rules import Emitter, OnOperator, Rule, apply_rules, maker
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.fold_constants import FoldConstants


@dataclass(frozen=True)
class CanonicalizeAffine(Pass):
    """Say a chain of sums and products with constants as one product and one sum.

    ::

        (x - mean) / std     ->  x * (1/std) + (-mean/std)
        x - c,  x / c,  -x   ->  x + (-c),  x * (1/c),  x * -1
        x * a * b + c + d    ->  x * (a b) + (c + d)
        x * 1,  x + 0        ->  x

    The constants are computed in float64 and rounded once. A chain ends at a value used more than once, at an
    output of the graph and at any other operator; integers and types below fp32 are left alone, and so is a
    chain whose constants widen x by broadcasting. Refused: constants that aren't finite (a division by 0).
    """

    name: ClassVar[str] = "canonicalize-affine"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, CollapseFlowWarp)
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "either form of ImageNet's (x - mean) / std, |x| <= 1, is within 3 roundings of 2^-24 at magnitude "
        "4.5 + 2.2, so 2.4e-6 between them; five levels of flow refinement may magnify that by 40",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        rules: list[Rule] = [_Canonical(op) for op in sorted(ARITHMETIC)]
        return apply_rules(model, rules)


class _Boundary:
    """Values a chain that ends at `end` doesn't reach behind."""

    def __init__(self, end: ir.Value) -> None:
        self.end = end

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, ir.Value)
        node = value.producer()
        if node is None or node.op_type not in ARITHMETIC:
            return True
        return value is not self.end and (len(value.uses()) > 1 or value.is_graph_output())


class _Canonical(OnOperator):
    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        if out.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE) or _continues(out):
            return self.skip(node)
        walk = Walk(stop=_Boundary(out))
        source = walk.root(out)
        if source in (None, out):
            return self.skip(node)
        self.form: Affine = walk.form(out)
        if not self.form.in_place:
            return self.skip(node)
        if not (np.all(np.isfinite(self.form.scale)) and np.all(np.isfinite(self.form.offset))):
            return self.refuse(node, "its constants aren't finite")
        chain = [n.op_type for v in walk.walked if v is not source and (n := v.producer()) is not None]
        chain = [op for op in chain if op in ARITHMETIC]
        needed = bool(np.any(self.form.scale != 1)) + bool(np.any(self.form.offset != 0))
        if len(chain) <= needed and set(chain) <= {"Mul", "Add"}:
            return self.skip(node)
        sizes = [list(shrink(a).shape) for a in (self.form.scale, self.form.offset)]
        return self.accept(node, f"{', '.join(reversed(chain))} as scale {sizes[0]} and offset {sizes[1]}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        form = self.form
        return emit(op, cast(ir.Value, form.source), form.scale, form.offset, cast(ir.DataType, out.dtype))


def _continues(out: ir.Value) -> bool:
    """Whether the only use of a value is in the next link of its chain."""
    uses = list(out.uses())
    if len(uses) != 1 or out.is_graph_output():
        return False
    user = uses[0][0]
    if user.op_type not in ARITHMETIC or user.domain != "":
        return False
    return Walk(stop=(out,)).root(user.outputs[0]) is out
