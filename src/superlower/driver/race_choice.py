"""Which engines of a race make the program: graph by graph, mixed only where that is faster as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from superlower.bundle.manifest import MIXED

ESTIMATE_MARGIN = 1.5
"""An estimate must be so many times shorter before a graph leaves the backend of the others for it: rooflines
leave out launches, layouts and what a backend's kernels reach of the peak."""

NEAR = 1.5
"""Programs of one backend that are expected to take longer than so many times the fastest aren't timed."""


@dataclass(frozen=True)
class Time:
    """Of one call of a graph, or of one frame.

    Attributes:
        ms: median of the rounds, or an estimate.
        rounds: of each round; those of one race were taken in turns. One alone: too slow to go on.
    """

    ms: float
    rounds: tuple[float, ...] = ()

    @staticmethod
    def of(seconds: Sequence[float], count: int = 1) -> Time:
        """From seconds of each round for `count` calls or frames."""
        rounds = tuple(1000 * s / count for s in seconds)
        return Time(median(rounds), rounds)

    def beats(self, other: Time) -> bool:
        """Whether this is shorter beyond noise: in every round, or clearly by estimates.

        Of two equal engines one is shorter in all of five rounds once in 32 times.
        """
        if not self.rounds and not other.rounds:
            return self.ms * ESTIMATE_MARGIN < other.ms
        if len(self.rounds) != len(other.rounds):
            return len(self.rounds) > len(other.rounds)
        return all(own < its for own, its in zip(self.rounds, other.rounds, strict=True))


@dataclass(frozen=True)
class Candidate:
    """A whole program.

    Attributes:
        name: a backend's, or "mixed".
        backends: graph -> backend.
        expected_ms: of a frame, by its graphs' times.
    """

    name: str
    backends: Mapping[str, str]
    expected_ms: float


def candidates(
    times: Mapping[str, Mapping[str, Time]], calls: Mapping[str, float]
) -> tuple[list[Candidate], Candidate | None]:
    """Programs of one backend, by the time expected of them, and the mixed one if it isn't one of these.

    A graph leaves the best single backend only for engines that beat it, and goes to the fastest of those.

    Args:
        times: graph -> backend -> time, of the engines that compute it rightly; each graph has one at least.
        calls: graph -> calls a frame.
    """

    def expected(backends: Mapping[str, str]) -> float:
        return sum(calls.get(graph, 0.0) * times[graph][own].ms for graph, own in backends.items())

    everywhere = [name for name in _named(times) if all(name in found for found in times.values())]
    singles = [
        Candidate(name, uniform, expected(uniform))
        for name in everywhere
        for uniform in [dict.fromkeys(times, name)]
    ]
    singles.sort(key=lambda one: one.expected_ms)
    base = singles[0].name if singles else None
    chosen: dict[str, str] = {}
    for graph, found in times.items():
        better = {n: t for n, t in found.items() if base is None or (n != base and t.beats(found[base]))}
        chosen[graph] = min(better, key=lambda n: better[n].ms) if better else str(base)
    if len(set(chosen.values())) == 1 and singles:
        return singles, None
    return singles, Candidate(MIXED, chosen, expected(chosen))


def worth_timing(singles: Sequence[Candidate], mixed: Candidate | None) -> list[Candidate]:
    """Candidates whose whole frame is to be timed; none where nothing is left to decide."""
    near = [one for one in singles if one.expected_ms <= NEAR * singles[0].expected_ms]
    found = [*near, *([mixed] if mixed is not None else [])]
    return found if len(found) > 1 else []


def ranked(
    singles: Sequence[Candidate], mixed: Candidate | None, whole: Mapping[str, Time]
) -> tuple[list[Candidate], str]:
    """Candidates in the order they are to be taken, and why the first is.

    Args:
        singles, mixed: from `candidates`.
        whole: name -> time of a frame, of those that were timed.
    """
    order = sorted(singles, key=lambda one: (one.name not in whole, _time(one, whole)))
    if mixed is None:
        best = order[0]
        if len(order) == 1:
            return order, f"{best.name} alone covers every graph"
        how = "in whole frames" if whole else "by far"
        return (
            order,
            f"{best.name}: no other is faster at any graph beyond noise, and it is the fastest {how}",
        )
    if not order:
        return [mixed], "mixed: no backend alone covers every graph"
    best = order[0]
    there = ", ".join(f"{graph} on {name}" for graph, name in mixed.backends.items() if name != best.name)
    if mixed.name not in whole:
        return [mixed, *order], f"mixed: {there}, estimated over {ESTIMATE_MARGIN:g} times as fast there"
    own, its = whole[mixed.name], whole[best.name]
    ratio = median(b / a for a, b in zip(own.rounds, its.rounds, strict=True))
    if own.beats(its):
        return [mixed, *order], (
            f"mixed: with {there} a frame is {ratio:.2f} times as fast as on {best.name} alone, and "
            f"faster in each of {len(own.rounds)} rounds"
        )
    won = sum(a < b for a, b in zip(own.rounds, its.rounds, strict=True))
    return [*order, mixed], (
        f"{best.name} alone: with {there} a frame is {ratio:.2f} times as fast, and faster in {won} of "
        f"{len(own.rounds)} rounds, which is noise"
    )


def _named(times: Mapping[str, Mapping[str, Time]]) -> list[str]:
    return list(dict.fromkeys(name for found in times.values() for name in found))


def _time(one: Candidate, whole: Mapping[str, Time]) -> float:
    return whole[one.name].ms if one.name in whole else one.expected_ms
