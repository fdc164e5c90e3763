"""Which nodes of a model run in 8 bits: the largest saving within a budget of quality, in closed loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from superlower.driver.node_groups import NodeGroup
from superlower.metrics.loss import QualityLoss

GROWTH, GROWTH_DB = 2.0, 0.02
"""The last frames' mean loss may be this many times the first frames', and so much more, before it counts as
growing: dB of single frames differ by a hundredth from content alone."""

_END_FRAMES = 5
_WORTH_SPLITTING = 0.02


@dataclass(frozen=True)
class Trial:
    """What quantizing some groups cost over a clip.

    Attributes:
        groups: names of those quantized.
        loss: over the clip.
        curve_db: luma PSNR lost at each frame.
    """

    groups: tuple[str, ...]
    loss: QualityLoss
    curve_db: tuple[float, ...]

    @property
    def noise(self) -> float:
        """Squared error added, over the squared error that the model had: they add up over groups."""
        before = self.loss.before_db
        assert before is not None
        return float(10 ** ((before - self.loss.psnr_db) / 10))

    @property
    def grows(self) -> bool:
        """Whether the loss grows over time: the hidden states carry the error on, and add to it."""
        count = max(1, min(_END_FRAMES, len(self.curve_db) // 2))
        first, last = fmean(self.curve_db[:count]), fmean(self.curve_db[-count:])
        return last > GROWTH * max(first, 0.0) + GROWTH_DB

    def fits(self, budget_db: float) -> bool:
        """Whether the loss is within a budget, and doesn't grow."""
        return self.loss.db <= budget_db and not self.grows


@dataclass(frozen=True)
class Placement:
    """The outcome of a search.

    Attributes:
        quantized: groups, or parts of them, in 8 bits.
        kept: those kept in float.
        trial: of `quantized`; None if nothing can be quantized within the budget.
        alone: group -> what quantizing it alone cost; empty if everything fitted at once.
        trials: how many clips were run.
    """

    quantized: tuple[NodeGroup, ...]
    kept: tuple[NodeGroup, ...]
    trial: Trial | None
    alone: dict[str, Trial] = field(default_factory=dict)
    trials: int = 0


def search(
    groups: Sequence[NodeGroup], attempt: Callable[[Sequence[NodeGroup]], Trial], budget_db: float
) -> Placement:
    """Find the groups to quantize.

    From everything quantized, the groups that cost most for the time they save are taken back until the loss
    is within the budget. What each costs is measured alone; squared errors of groups add up, near enough to
    choose by, and what is chosen is measured as a whole. Groups taken back that would save much are then
    tried in halves, in the order of their nodes.

    Args:
        groups: that may be quantized.
        attempt: runs a clip with some groups quantized. Same groups, same trial: the search is deterministic.
        budget_db: largest mean loss.
    """
    done = 0

    def measured(chosen: Sequence[NodeGroup]) -> Trial:
        nonlocal done
        done += 1
        return attempt(chosen)

    whole = measured(groups)
    if whole.fits(budget_db):
        return Placement(tuple(groups), (), whole, trials=done)
    alone = (
        {group.name: measured([group]) for group in groups} if len(groups) > 1 else {groups[0].name: whole}
    )
    by_cost = sorted(groups, key=lambda g: alone[g.name].noise / max(g.share, 1e-9))
    room = 10 ** (budget_db / 10) - 1
    chosen: list[NodeGroup] = []
    for group in by_cost:
        if sum(alone[g.name].noise for g in (*chosen, group)) <= room and not alone[group.name].grows:
            chosen.append(group)
    trial = None
    while chosen:
        trial = measured(chosen)
        if trial.fits(budget_db):
            break
        chosen.pop()
    kept = [group for group in groups if group not in chosen]
    for group in sorted(kept, key=lambda g: -g.share):
        if group.share < _WORTH_SPLITTING or group.count < 2:
            continue
        parts = group.halves()
        added = []
        for part in parts:
            more = measured([*chosen, part])
            if more.fits(budget_db):
                chosen.append(part)
                added.append(part)
                trial = more
        if added:
            at = kept.index(group)
            kept[at : at + 1] = [part for part in parts if part not in added]
    return Placement(tuple(chosen), tuple(kept), trial if chosen else None, alone, done)
