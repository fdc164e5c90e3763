"""What passes that simplify a model's graphs, at a cost in quality, have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import MatchResult

from superlower.errors import BadInputError
from superlower.passes._rules import Emitter, OnOperator, Rule, apply_rules, maker
from superlower.passes.base import Applied, QualityBudget, Site
from superlower.program.model import TemporalModel
from superlower.rewrites._pyramids import Refinement, mark_left_out
from superlower.rewrites.base import ProgramPass, Rewritten

BUDGET_DB = 0.1
BUDGET = QualityBudget(
    BUDGET_DB,
    "a tenth of a decibel: less than what sets one network of the field apart from the next best (BasicVSR "
    "and IconVSR on Vid4: 0.15 dB)",
)


@dataclass(frozen=True)
class Lossy(ProgramPass):
    """A program pass that simplifies each graph by itself and is held to a budget in dB over a clip."""

    def __post_init__(self) -> None:
        """Take the budget asked for."""
        db = self.options()["budget_db"]
        assert isinstance(db, float)
        if not db >= 0:
            raise BadInputError(f"{self.name}: budget_db={db}: write a loss in dB, 0 or more")
        object.__setattr__(
            self, "budget", QualityBudget(db, BUDGET.reason if db == BUDGET_DB else "asked for")
        )

    @abstractmethod
    def rules(self, graph: ir.Model) -> tuple[list[Rule], list[Site]]:
        """The rewrites to apply to a graph, and sites refused."""

    def run(self, model: TemporalModel) -> Rewritten:
        """Rewrite each graph; sites are named GRAPH/NODE."""
        graphs: dict[str, ir.Model] = {}
        rewritten: list[Site] = []
        refused: list[Site] = []
        for name, graph in model.graphs.items():
            after = graph.clone()
            rules, declined = self.rules(after)
            applied = apply_rules(after, rules) if rules else Applied()
            if applied.changed:
                # Two levels may now sample by one flow.
                common.CommonSubexpressionEliminationPass()(after)
            graphs[name] = after if applied.changed else graph
            rewritten += [Site(f"{name}/{site.node}", site.detail) for site in applied.rewritten]
            refused += [Site(f"{name}/{site.node}", site.detail) for site in (*declined, *applied.refused)]
        changed = Applied(tuple(rewritten), tuple(refused))
        return Rewritten(model.with_graphs(graphs) if rewritten else model, changed)


class Unrefined(OnOperator):
    """Add(up, residual) -> up: a level's flow is the coarser one, enlarged.

    Args:
        levels: those to leave out.
    """

    def __init__(self, levels: list[Refinement]) -> None:
        super().__init__("Add")
        self.levels: Mapping[ir.Node, Refinement] = {level.node: level for level in levels}

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        """The levels chosen."""
        node = maker(out)
        level = self.levels.get(node)
        if level is None:
            return self.skip(node)
        height, width = (level.flow.shape or ())[2:]
        return self.accept(
            node, f"no estimate at {height}x{width}: the coarser flow, {level.up.factor} times as large"
        )

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """The coarser flow at the level's size."""
        level = self.levels[maker(out)]
        mark_left_out(level)
        return op.Identity(level.up.value)
