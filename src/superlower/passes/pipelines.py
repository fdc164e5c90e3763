"""Which passes, in which order; applying them with validation; listing what there is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import cast

import onnx_ir as ir

from superlower import plugins
from superlower.errors import BadInputError, MissingSdkError
from superlower.ir import OPSET, clone
from superlower.passes._retreat import run_within_budget
from superlower.passes.base import Applied, Budget, Pass, QualityBudget
from superlower.passes.canonicalize_affine import CanonicalizeAffine
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.guard_grid_sample import GuardGridSample
from superlower.passes.simplify_exporter_residue import SimplifyExporterResidue
from superlower.passes.validate import Deviation, Feeds, compare, outputs_of, where


@dataclass(frozen=True)
class PassReport:
    """What one pass did to one graph, and what validation found.

    Attributes:
        name: the pass.
        before, after: operator -> number of nodes.
        applied: sites rewritten and refused.
        deviation: how far outputs moved; None where nothing was validated (no feeds).
        budget: what it was held to.
        seconds: the rewrite's time, validation aside.
        options: the pass's options.
        spared: sites that the pass left as they are, as with them it would have left its budget.
    """

    name: str
    before: dict[str, int]
    after: dict[str, int]
    applied: Applied
    deviation: Deviation | None
    budget: Budget
    seconds: float
    options: dict[str, object]
    spared: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassEntry:
    """One line of `superlower passes`.

    Attributes:
        name: the pass's name.
        summary: first line of its documentation.
        budget: relative or of quality, and its reason.
        after: names of passes it must follow.
        options: option name -> default.
        missing: why it can't run here; None if it can.
    """

    name: str
    summary: str
    budget: Budget | QualityBudget
    after: tuple[str, ...]
    options: dict[str, object]
    missing: str | None


def default_pipeline(target_opset: int = OPSET) -> tuple[Pass, ...]:
    """The clean-up every backend starts from: exact, or within rounding of the coordinates.

    Args:
        target_opset: the opset the graphs are brought to, where they aren't there.
    """
    return ordered(
        (
            ConvertOpset(target_opset),
            FoldConstants(),
            SimplifyExporterResidue(),
            CollapseFlowWarp(),
            CanonicalizeAffine(),
            GuardGridSample(),
        )
    )


def ordered(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes as given, once their order is known to be legal.

    Raises:
        BadInputError: a pass comes before one it must follow.
    """
    for i, one in enumerate(passes):
        for later in passes[i + 1 :]:
            if isinstance(later, one.after) and not any(isinstance(p, type(later)) for p in passes[:i]):
                raise BadInputError(f"pass {one.name} must come after {later.name}: swap them")
    return tuple(passes)


def apply(
    model: ir.Model,
    passes: Sequence[Pass],
    feeds: Sequence[Feeds] = (),
    on_pass: Callable[[PassReport], None] | None = None,
) -> tuple[ir.Model, list[PassReport]]:
    """Run the passes on a copy of the model, each validated on the feeds (none: no validation).

    Outputs of one pass are the reference of the next, so a pass costs one run a feed, and one that changed
    nothing costs none. A pass that chooses what is fastest (`Pass.sparing`) and leaves its budget is run
    again with fewer sites, and its report says which it spared.

    Args:
        on_pass: called after each pass, for progress.

    Raises:
        BadInputError: an illegal order of passes.
        MissingSdkError: a pass can't run here.
        OutputsDifferError: a pass left its budget.
    """
    model = clone(model)
    reports: list[PassReport] = []
    outputs = outputs_of(model, feeds, "(none yet)") if feeds else []
    for one in ordered(passes):
        reason = one.missing()
        if reason is not None:
            raise MissingSdkError(f"pass {one.name} can't run here: {reason}")
        before = count(model)
        spared: tuple[str, ...] = ()
        deviation = Deviation() if feeds else None
        if feeds and one.sparing(()) is not None:
            done = run_within_budget(one, model, outputs, feeds)
            model, applied, deviation, outputs = done.model, done.applied, done.deviation, done.outputs
            seconds, spared = done.seconds, done.spared
        else:
            start = time.perf_counter()
            applied = one.run(model)
            seconds = time.perf_counter() - start
            if feeds and applied.changed:
                now = outputs_of(model, feeds, one.name)
                deviation = compare(outputs, now, one.budget, where(one.name, model))
                outputs = now
        report = PassReport(
            one.name, before, count(model), applied, deviation, one.budget, seconds, one.options(), spared
        )
        reports.append(report)
        if on_pass is not None:
            on_pass(report)
    return model, reports


def count(model: ir.Model) -> dict[str, int]:
    """Operator -> number of nodes in the main graph, most frequent first; foreign domains as domain::Op."""
    names = (f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph)
    return dict(Counter(names).most_common())


def known_passes() -> list[PassEntry]:
    """Every pass installed, of graphs and of programs, third parties' included, by name."""
    entries = []
    for group in ("pass", "program pass"):
        for name in plugins.table(group):
            kind = cast("type[Pass]", plugins.load(group, name))
            summary = (kind.__doc__ or "").strip().splitlines()
            entries.append(
                PassEntry(
                    name,
                    summary[0] if summary else "",
                    kind.budget,
                    tuple(p.name for p in kind.after),
                    {f.name: f.default for f in fields(kind)},
                    kind().missing(),
                )
            )
    return sorted(entries, key=lambda entry: entry.name)
