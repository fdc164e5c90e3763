"""What passes did, as a bundle's manifest keeps it."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite

from superlower.bundle.manifest import PassRecord, QualityRecord
from superlower.passes.base import Budget, QualityBudget
from superlower.passes.pipelines import PassReport
from superlower.rewrites import pipeline as rewriting


def record_of(graph: str, report: PassReport | rewriting.ProgramReport) -> PassRecord:
    """A pass's report as manifests keep it: under the graph's name, or the program's."""
    return PassRecord(
        graph=graph,
        name=report.name,
        options={name: str(value) for name, value in report.options.items()},
        nodes_before=report.before,
        nodes_after=report.after,
        rewritten=tuple(f"{site.node}: {site.detail}" for site in report.applied.rewritten),
        refused=tuple(f"{site.node}: {site.detail}" for site in report.applied.refused),
        spared=report.spared if isinstance(report, PassReport) else (),
        budget=report.budget.relative
        if isinstance(report.budget, Budget) and isfinite(report.budget.relative)
        else None,
        quality=_quality_record(report) if isinstance(report, rewriting.ProgramReport) else None,
        measured=report.deviation.relative if report.deviation else 0.0,
        reason=report.budget.reason,
        seconds=round(report.seconds, 3),
    )


def _quality_record(report: rewriting.ProgramReport) -> QualityRecord | None:
    if report.loss is None or not isinstance(report.budget, QualityBudget):
        return None
    return QualityRecord(budget_db=report.budget.db, **asdict(report.loss))
