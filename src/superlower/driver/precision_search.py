"""The fastest types of a model's groups within budgets of quality, by as few runs of a clip as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from superlower.driver.group_times import Saving
from superlower.driver.placement import Trial
from superlower.driver.precisions import Option
from superlower.targets.base import Precision

HALVES = (Precision.FP16, Precision.BF16)
_BACKGROUND = 0.25
"""Of the room for squared error: a half type for all that takes no more is measured against."""
_ATTEMPTS = 4
_WORTH_SPLITTING = 0.02


@dataclass(frozen=True)
class Limits:
    """What a choice of types may cost over a clip.

    Attributes:
        db: luma PSNR lost, mean over the frames.
        flicker: growth of the frames' flicker against the ground truth, in levels of 255.
        tof: growth of tOF in pixels; None where it can't be measured.
    """

    db: float
    flicker: float
    tof: float | None


@dataclass(frozen=True)
class MixedTrial(Trial):
    """What a choice of types cost over a clip.

    Attributes:
        choice: group -> type.
        flicker, tof: growth, as in `Limits`.
    """

    choice: Mapping[str, Precision] = field(default_factory=dict)
    flicker: float = 0.0
    tof: float | None = None

    def within(self, limits: Limits) -> bool:
        """Whether it keeps all limits, and its loss doesn't grow over time."""
        steady = self.flicker <= limits.flicker and (
            self.tof is None or limits.tof is None or self.tof <= limits.tof
        )
        return steady and self.fits(limits.db)


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        chosen: an option for each group, or for parts of groups.
        trial: of it; None if nothing faster than fp32 is within the limits.
        alone: (group, type) -> what it cost with all others at `background`.
        background: type of the others then.
        trials: every run of the clip, in order.
    """

    chosen: tuple[Option, ...]
    trial: MixedTrial | None
    alone: Mapping[tuple[str, Precision], float] = field(default_factory=dict)
    background: Precision = Precision.FP32
    trials: tuple[MixedTrial, ...] = ()


Attempt = Callable[[Sequence[Option]], MixedTrial]


def search(
    options: Mapping[str, Sequence[Option]], saving: Saving, attempt: Attempt, limits: Limits
) -> Found:
    """Find the fastest options within the limits.

    All groups at their fastest; if that is too much, each group's faster types are tried alone, beside a half
    type for all others if that costs next to nothing, else beside fp32. Squared errors of groups add up, near
    enough to choose by: of all combinations whose sum fits the fastest is measured as a whole, and the next
    within less where it doesn't hold. Groups that stay slower than they could be are then tried in halves.

    Args:
        options: by group; fp32 among them.
        saving: seconds a frame of each.
        attempt: runs the clip. Same options, same trial: the search is deterministic.
    """
    return _Search(options, saving, attempt, limits).run()


class _Search:
    def __init__(
        self,
        options: Mapping[str, Sequence[Option]],
        saving: Saving,
        attempt: Attempt,
        limits: Limits,
    ) -> None:
        self._options, self._saving, self._limits = options, saving, limits
        self._attempt = attempt
        self._trials: list[MixedTrial] = []
        self._alone: dict[tuple[str, Precision], float] = {}
        self._growing: set[tuple[str, Precision]] = set()

    def run(self) -> Found:
        """See `search`."""
        fastest = {name: self._fastest(name) for name in self._options}
        trial = self._measured(list(fastest.values()))
        if trial.within(self._limits):
            return self._found(list(fastest.values()), trial, Precision.FP32)
        background, base, noise, precision = self._background(trial, fastest)
        room = 10 ** (self._limits.db / 10) - 1 - noise
        for name, found in self._options.items():
            for option in found:
                if self._saved(option) > self._saved(background[name]):
                    self._measure_alone(option, background, noise)
        chosen, kept = self._choose(background, room)
        if kept is None:
            chosen, kept = (list(background.values()), base) if base is not None else ([], None)
        if kept is None:
            return Found((), None, self._alone, precision, tuple(self._trials))
        chosen, kept = self._split(chosen, kept, fastest)
        return self._found(chosen, kept, precision)

    def _found(self, chosen: Sequence[Option], trial: MixedTrial, precision: Precision) -> Found:
        return Found(tuple(chosen), trial, self._alone, precision, tuple(self._trials))

    def _saved(self, option: Option) -> float:
        return self._saving[option.group.name, option.precision]

    def _fastest(self, name: str) -> Option:
        return max(self._options[name], key=self._saved)

    def _measured(self, chosen: Sequence[Option]) -> MixedTrial:
        self._trials.append(self._attempt(chosen))
        return self._trials[-1]

    def _at(self, name: str, precision: Precision) -> Option:
        """A group's option at a type, at fp32 where that is none of its own or no faster."""
        found = {option.precision: option for option in self._options[name]}
        wanted = found.get(precision)
        return wanted if wanted is not None and self._saved(wanted) > 0 else found[Precision.FP32]

    def _background(
        self, fastest_trial: MixedTrial, fastest: Mapping[str, Option]
    ) -> tuple[dict[str, Option], MixedTrial | None, float, Precision]:
        """What groups are measured beside: its options, trial and squared error, and its type."""
        room = 10 ** (self._limits.db / 10) - 1
        offered = {o.precision for found in self._options.values() for o in found}
        for precision in HALVES:
            if precision not in offered:
                continue
            whole = {name: self._at(name, precision) for name in self._options}
            if sum(map(self._saved, whole.values())) <= 0:
                continue
            same = all(whole[name] is fastest[name] for name in whole)
            trial = fastest_trial if same else self._measured(list(whole.values()))
            if trial.within(self._limits) and trial.noise <= _BACKGROUND * room:
                return whole, trial, trial.noise, precision
        exact = {name: self._at(name, Precision.FP32) for name in self._options}
        return exact, None, 0.0, Precision.FP32

    def _measure_alone(self, option: Option, background: Mapping[str, Option], noise: float) -> None:
        name = option.group.name
        trial = self._measured([*(o for other, o in background.items() if other != name), option])
        self._alone[name, option.precision] = max(trial.noise - noise, 0.0)
        if trial.grows:
            self._growing.add((name, option.precision))

    def _choose(
        self, background: Mapping[str, Option], room: float
    ) -> tuple[list[Option], MixedTrial | None]:
        """The fastest combination that holds as a whole."""
        tried: list[tuple[Option, ...]] = []
        for _ in range(_ATTEMPTS):
            best = max(
                (c for c in self._combinations(background) if c not in tried and self._noise(c) <= room),
                key=lambda c: sum(map(self._saved, c)),
                default=None,
            )
            if best is None or all(option is background[option.group.name] for option in best):
                break
            tried.append(best)
            trial = self._measured(best)
            if trial.within(self._limits):
                return list(best), trial
            room = 0.7 * self._noise(best)
        return [], None

    def _combinations(self, background: Mapping[str, Option]) -> Iterator[tuple[Option, ...]]:
        measured = [
            [background[name]]
            + [
                option
                for option in found
                if (name, option.precision) in self._alone and (name, option.precision) not in self._growing
            ]
            for name, found in self._options.items()
        ]
        yield from product(*measured)

    def _noise(self, chosen: Sequence[Option]) -> float:
        return sum(self._alone.get((o.group.name, o.precision), 0.0) for o in chosen)

    def _split(
        self, chosen: Sequence[Option], trial: MixedTrial, fastest: Mapping[str, Option]
    ) -> tuple[list[Option], MixedTrial]:
        """Halves of groups that are slower than they could be, at the fastest type if that holds."""
        whole = sum(map(self._saved, fastest.values()))
        found = list(chosen)
        slow = [o for o in found if fastest[o.group.name].precision is not o.precision]
        lost = {o.group.name: self._saved(fastest[o.group.name]) - self._saved(o) for o in slow}
        for option in sorted(slow, key=lambda o: -lost[o.group.name]):
            name = option.group.name
            if lost[name] < _WORTH_SPLITTING * whole or option.group.count < 2:
                continue
            first, second = option.group.halves()
            rest = [o for o in found if o is not option]
            parts = [replace(option, group=first), replace(option, group=second)]
            for i in (0, 1):
                faster = list(parts)
                faster[i] = replace(fastest[name], group=parts[i].group)
                if not faster[i].group.count:
                    continue
                more = self._measured([*rest, *faster])
                if more.within(self._limits):
                    parts, trial = faster, more
            if any(part.precision is not option.precision for part in parts):
                found = [*rest, *(part for part in parts if part.group.count)]
        return found, trial
