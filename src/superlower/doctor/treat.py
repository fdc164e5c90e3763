"""Rules applied to a graph on its way to a build: passes run and validated, what they leave refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from superlower.doctor.conditions import typed
from superlower.doctor.examine import Context, examine
from superlower.doctor.rules import Rule, rules
from superlower.passes.pipelines import PassReport, apply
from superlower.passes.validate import Feeds


@dataclass(frozen=True)
class Treated:
    """A graph that no rule refuses.

    Attributes:
        model: to be built.
        reports: of the passes that rules prescribed, in the order they ran.
        warnings: a line each, with the rule's id.
    """

    model: ir.Model
    reports: tuple[PassReport, ...]
    warnings: tuple[str, ...]


def treat(
    context: Context,
    model: ir.Model,
    feeds: Sequence[Feeds] = (),
    *,
    known: Sequence[Rule] | None = None,
    on_pass: Callable[[PassReport], None] | None = None,
) -> Treated:
    """Do what the rules say about a build of the graph.

    Args:
        model: legalized; left as it is.
        feeds: to validate prescribed passes on; none: no validation.
        known: rules; None for superlower's own.
        on_pass: called after each pass.

    Raises:
        UnsupportedOperatorError: a rule refuses nodes, or its passes left them as they were.
        BadInputError: a rule refuses the graph as a whole, or the build whatever the graph.
        OutputsDifferError: a prescribed pass left its budget.
    """
    known = rules() if known is None else known
    found = examine(known, context, model)
    reports: list[PassReport] = []
    if passes := found.passes():
        model, reports = apply(typed(model), passes, feeds, on_pass)
        found = examine(known, context, model).after_passes()
    found.require()
    return Treated(model, tuple(reports), found.warnings())
