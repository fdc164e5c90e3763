"""Measurements of schedules, and which of a task's are the fastest. Needs no TVM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

import msgspec

DEFAULT = "default"
"""Origin of a measurement of the default schedule, which has no trace."""

AGAIN = "again"
"""Origin of a further measurement of a schedule that search found, in turns with the default one's."""


DEFAULTS = {"llvm": 2, "cuda": 3}
"""Versions of the default schedules (`schedule`; `gpu_schedule` and `tensor_core_schedule`): raise them with
what those do. A schedule that was faster than others may be slower than these, so a build takes none that was
measured beside others."""

UNSURE = 1.2
"""A schedule that wasn't measured beside the default one is taken for so many times slower."""


RIVALS, TURNS, MOST_TURNS = 3, 5, 15
"""Schedules of a task that are measured again before one takes the default's place; how often, and how often
at most, where these turns don't show which is the faster."""
NEAR = 1.1
"""Of the default's time: a schedule that came so near it may have met the machine in a slow moment."""
_CHANCE = 1 / (1 << TURNS)
"""Of a schedule to be taken for faster than another that is as fast: it would win all of the first turns."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One measurement of one schedule of one task.

    Attributes:
        task: structural hash of the fused function, in hexadecimal.
        name: of the function in the graph it was first met in.
        kind: hash of the function with its sizes left out; like tasks of other sizes have the same.
        shapes: of its arguments, the result last.
        target: as `target_key` says it.
        tvm: version of apache-tvm that made and measured it.
        device: that it was measured on, in words.
        threads: CPU threads at work; 0 for a GPU.
        origin: "default", "transfer" or "search"; "again" where it is measured once more.
        seconds: a call took, one figure a repetition; none if it failed.
        default_s: what the default schedule took in the same turn; 0 where it wasn't measured beside it.
        error: why it failed.
        trace: TVM's schedule trace as JSON; "" for the default schedule.
        defaults: version of the default schedules it was measured beside.
        when: UTC time, ISO 8601.
        core: hash of what the function sums with its sizes left out: tasks that do other things to the same
            sums have the same. "" for a function that sums nothing.
    """

    task: str
    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    target: str
    tvm: str
    device: str
    origin: str
    threads: int = 0
    seconds: tuple[float, ...] = ()
    default_s: float = 0.0
    error: str = ""
    trace: str = ""
    defaults: int = 1
    when: str = ""
    core: str = ""

    @property
    def time(self) -> float:
        """Seconds a call takes: the least measured, as whatever else runs on a machine only adds."""
        return min(self.seconds, default=float("inf"))

    @property
    def searched(self) -> bool:
        """Whether it is the first of a schedule that isn't the default one."""
        return self.origin not in (DEFAULT, AGAIN)


def ranked(records: Iterable[Record]) -> list[Schedule]:
    """A task's schedules, those that a build should take first.

    A machine's speed changes more from minute to minute than schedules do, and of a hundred measurements one
    was made in its best moment. So where schedules were measured in turns with the default one, only these
    can take its place, if they were faster each time, by how they stood beside it; else all go by their
    median, searched ones as if slower.
    """
    found = schedules_of(records)
    if all(one.beside is None for one in found):
        return sorted(found, key=lambda one: one.seconds * (1 if one.default else UNSURE))

    def place(one: Schedule) -> tuple[int, float]:
        if one.default:
            return 1, 0.0
        return (3, one.seconds) if one.beside is None else (0 if one.faster else 2, one.beside)

    return sorted(found, key=place)


@dataclass(frozen=True)
class Schedule:
    """The measurements of one schedule of a task on one device, all of which succeeded."""

    records: tuple[Record, ...]

    @property
    def default(self) -> bool:
        """Whether it is the default one."""
        return not self.records[0].trace

    @property
    def trace(self) -> str:
        """TVM's trace as JSON; "" for the default one."""
        return self.records[0].trace

    @property
    def seconds(self) -> float:
        """Of a call, by all its measurements."""
        return median(record.time for record in self.records)

    @property
    def beside(self) -> float | None:
        """Times of the default's time in the same turns; None where it wasn't measured beside it."""
        return median(self._ratios) if self._ratios else None

    @property
    def faster(self) -> bool:
        """Whether it took less than the default one each time that it was measured beside it, or nearly.

        Of two equally fast ones one would win as often only once in 32 times: it may lose one of ten turns,
        three of fifteen.
        """
        count, lost = len(self._ratios), sum(ratio >= 1 for ratio in self._ratios)
        if not count or lost == 0:
            return count > 0
        as_often = sum(comb(count, n) for n in range(lost + 1))
        return as_often <= _CHANCE * (1 << count)

    @property
    def undecided(self) -> bool:
        """Whether further turns may show it to be faster than the default one."""
        if self.beside is None:
            return True
        return self.beside < 1 and not self.faster and len(self._ratios) < MOST_TURNS

    @property
    def _ratios(self) -> list[float]:
        return [record.time / record.default_s for record in self.records if record.default_s]


def schedules_of(records: Iterable[Record]) -> list[Schedule]:
    """A task's schedules, by device and trace, of what succeeded."""
    found = defaultdict(list)
    for record in records:
        if record.seconds:
            found[record.device, record.trace].append(record)
    return [Schedule(tuple(one)) for one in found.values()]


def rivals(records: Iterable[Record]) -> list[Schedule]:
    """A task's schedules that are to be measured in turns with its default one, the fastest first."""
    ratios = _by_default(schedules_of(records))
    open_ = [one for one in ratios if not one.default and one.undecided and ratios[one] < NEAR]
    return sorted(open_, key=lambda one: ratios[one])[:RIVALS]


def _by_default(schedules: Sequence[Schedule]) -> dict[Schedule, float]:
    """How each stands beside a task's default schedule, measured in turns or not; none without its time."""
    default_s = next((one.seconds for one in schedules if one.default), 0.0)
    return {o: o.seconds / default_s if o.beside is None else o.beside for o in schedules if default_s}


def defaults_of(target: str) -> int:
    """The version of the default schedules for a target's key."""
    return DEFAULTS.get(family(target), 0)


def family(target: str) -> str:
    """The kind of processor of a target's key: "llvm", "cuda"."""
    return target.partition("/")[0]


def target_key(target: Mapping[str, object]) -> str:
    """What schedules are kept by of a TVM target: "llvm/sapphirerapids", "cuda/sm_86"."""
    return f"{target.get('kind')}/{target.get('arch') or target.get('mcpu') or 'generic'}"


def fastest(records: Sequence[Record], keep: int) -> list[Record]:
    """The `keep` fastest schedules of each task, target, versions, device and threads, and its default."""
    kept: list[Record] = []
    for group in _grouped(records):
        for place, one in enumerate(ranked(group)):
            kept += list(one.records) if place < keep or one.default else []
    return kept


def gaining(records: Sequence[Record], keep: int) -> list[Record]:
    """One measurement of each of the `keep` fastest schedules, in each of those groups, that took less than
    the default; also where nobody measured them in turns: enough to try them elsewhere, not for a build."""
    kept = []
    for group in _grouped(records):
        ratios = _by_default(schedules_of(group))
        better = [one for one in ratios if not one.default and ratios[one] < 1]
        # What was measured in turns first: single measurements are lucky now and then.
        better.sort(key=lambda one: (one.beside is None, ratios[one]))
        kept += [one.records[0] for one in better[:keep]]
    return kept


def _grouped(records: Iterable[Record]) -> Iterable[list[Record]]:
    """Successful measurements by task, target, versions, device and threads."""
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.seconds:
            where = record.target, record.tvm, record.defaults, record.device, record.threads
            groups[record.task, *where].append(record)
    return groups.values()
