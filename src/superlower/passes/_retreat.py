"""Doing less of a pass that left its budget: sites whose roundings the graph amplifies most are spared."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from superlower.ir import clone
from superlower.passes._rules import label
from superlower.passes.base import Applied, Pass, Site
from superlower.passes.validate import Array, Deviation, Feeds, Outputs, hold, measure, outputs_of, where


@dataclass(frozen=True)
class Attempt:
    """A pass run on a copy of a model.

    Attributes:
        model: rewritten.
        applied: what was done.
        deviation: how far outputs moved.
        outputs: on every feed.
        seconds: the rewrite's time, validation aside.
        spared: sites left as they are so that the rest is within the budget; `applied` has them as refused.
    """

    model: ir.Model
    applied: Applied
    deviation: Deviation
    outputs: list[dict[str, Array]]
    seconds: float
    spared: tuple[str, ...] = ()


def run_within_budget(
    one: Pass, model: ir.Model, outputs: Sequence[Outputs], feeds: Sequence[Feeds]
) -> Attempt:
    """Run a pass that can spare sites on as many of them as its budget allows.

    What lies between a site and the outputs amplifies the site's roundings. Where a sample becomes a flow
    that moves the next sample, it does so by the steepness of the picture and of the network between. So
    sites with the most others behind them are spared first, all with as many together.

    Args:
        model: before the pass; left alone.
        outputs: its own, on every feed.

    Raises:
        OutputsDifferError: the pass is over its budget with all sites spared that can be; as it was at first.
    """
    site = where(one.name, model)
    first = attempt = _attempt(one, model, outputs, feeds)
    details = {found.node: found.detail for found in first.applied.rewritten}
    spared: tuple[str, ...] = ()
    for group in _most_behind(model, details):
        less = one.sparing((*spared, *group))
        if attempt.deviation.relative <= one.budget.relative or less is None:
            break
        spared += group
        attempt = _attempt(less, model, outputs, feeds)
    if attempt.deviation.relative > one.budget.relative:
        hold(first.deviation, one.budget, site)
    rewritten = {found.node for found in attempt.applied.rewritten}
    left = tuple(name for name in spared if name not in rewritten)
    over = f"over the budget of {one.budget.relative:.3g}"
    told = [Site(name, f"not {details[name]}: all sites so moved {first.deviation}, {over}") for name in left]
    applied = replace(attempt.applied, refused=(*attempt.applied.refused, *told))
    return replace(attempt, applied=applied, spared=left)


def _attempt(one: Pass, model: ir.Model, outputs: Sequence[Outputs], feeds: Sequence[Feeds]) -> Attempt:
    after = clone(model)
    start = time.perf_counter()
    applied = one.run(after)
    seconds = time.perf_counter() - start
    if not applied.changed:
        return Attempt(after, applied, Deviation(), [dict(each) for each in outputs], seconds)
    now = outputs_of(after, feeds, one.name)
    return Attempt(after, applied, measure(outputs, now, one.budget, where(one.name, model)), now, seconds)


def _most_behind(model: ir.Model, sites: Collection[str]) -> Iterator[tuple[str, ...]]:
    """The sites by how many of them lie on the longest way from there to an output, the most first."""
    behind: dict[ir.Node, int] = {}
    for node in reversed(list(model.graph)):
        readers = [use.node for value in node.outputs for use in value.uses()]
        behind[node] = max((behind.get(r, 0) + (label(r) in sites) for r in readers), default=0)
    counts = {label(node): count for node, count in behind.items() if label(node) in sites}
    for count in sorted(set(counts.values()), reverse=True):
        yield tuple(name for name in counts if counts[name] == count)
