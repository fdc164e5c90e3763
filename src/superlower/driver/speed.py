"""Speed of engines beside one another: taken in turns, so that a machine's moods fall on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.driver.progress import Progress, Silent
from superlower.frontends.base import ClipReference
from superlower.runtime.load import open_runner
from superlower.targets.catalog import target

Result = TypeVar("Result")

PYTORCH = "PyTorch eager fp32"

REST_S = 0.05
"""Pause before each turn: thread pools go on spinning for some milliseconds after their last task."""


@dataclass(frozen=True)
class Contender:
    """Something that runs a clip.

    Attributes:
        run: runs it once.
        threads: CPU threads it computes with; None on another device.
        seconds: equation -> seconds of each call so far, grown by `run`; empty where nothing tells.
        chosen: equation with a route -> patches so far of each choice, 0 first; grown by `run`.
    """

    run: Callable[[], object]
    threads: int | None = None
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True)
class EquationTime:
    """One equation of a contender.

    Attributes:
        calls: in a clip.
        ms: median milliseconds a call.
        share: of the time of all equations' calls.
    """

    calls: int
    ms: float
    share: float


@dataclass(frozen=True)
class SpeedRow:
    """One contender.

    Attributes:
        name: variant, or PyTorch.
        ms: median milliseconds a frame.
        rounds_ms: milliseconds a frame of each round.
        ratio: median of `ratios`.
        ratios: how many times faster than the first contender it was, round by round.
        threads: CPU threads it computes with; None on another device.
        equations: by name; empty for PyTorch.
        chosen: equation with a route -> share of its patches for each choice, 0 first.
        cpu_ms: median milliseconds a frame that this process's threads had together.
        cpu_ratio: median over the rounds of how many times less of those it took than the first contender:
            what others on the machine disturb least.
    """

    name: str
    ms: float
    rounds_ms: tuple[float, ...]
    ratio: float
    ratios: tuple[float, ...] = ()
    threads: int | None = None
    equations: Mapping[str, EquationTime] = field(default_factory=dict)
    chosen: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    cpu_ms: float | None = None
    cpu_ratio: float | None = None


def take_turns(
    contenders: Mapping[str, Callable[[], Result]],
    *,
    rounds: int,
    warmup: int = 1,
    progress: Progress | None = None,
) -> dict[str, list[Result]]:
    """Call every contender once a round, in turn; what each returned, round by round.

    Every other round goes the other way round, so that none always has the same one before it.

    Args:
        contenders: by name.
        rounds: counted rounds.
        warmup: rounds before those, whose results are dropped.
    """
    progress = progress or Silent()
    progress.stage("timing", (rounds + warmup) * len(contenders))
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    order = list(contenders.items())
    for turn in range(warmup + rounds):
        for name, call in reversed(order) if turn % 2 else order:
            time.sleep(REST_S)
            result = call()
            if turn >= warmup:
                results[name].append(result)
            progress.advance(name)
    return results


@dataclass(frozen=True)
class Lap:
    """One run of a clip: its seconds, each equation's calls', and those of all threads of this process."""

    seconds: float
    calls: Mapping[str, tuple[float, ...]]
    cpu_seconds: float = 0.0


def stopwatch(contender: Contender) -> Callable[[], Lap]:
    """Runs the contender's clip and tells what the run took."""

    def lap() -> Lap:
        before = {name: len(found) for name, found in contender.seconds.items()}
        started, own = time.perf_counter(), time.process_time()
        contender.run()
        seconds, own = time.perf_counter() - started, time.process_time() - own
        calls = {name: tuple(contender.seconds[name][count:]) for name, count in before.items()}
        return Lap(seconds, calls, own)

    return lap


def race(
    contenders: Mapping[str, Contender],
    frames: int,
    *,
    rounds: int = 5,
    warmup: int = 1,
    progress: Progress | None = None,
) -> list[SpeedRow]:
    """Run every contender once a round, in turn.

    Args:
        contenders: by name; the first is what the others are compared with.
        frames: in the clip they run.
        rounds: counted rounds.
        warmup: rounds before those.
    """
    laps = take_turns(
        {name: stopwatch(contender) for name, contender in contenders.items()},
        rounds=rounds,
        warmup=warmup,
        progress=progress,
    )
    return rows(contenders, laps, frames)


def rows(
    contenders: Mapping[str, Contender],
    laps: Mapping[str, Sequence[Lap]],
    frames: int | Mapping[str, int],
) -> list[SpeedRow]:
    """A row for each contender, from its laps; ratios are to the first's time a frame, round by round.

    Args:
        frames: of a lap, if need be by contender.
    """
    found: list[SpeedRow] = []
    all_cpu: list[list[float]] = []
    for name, contender in contenders.items():
        count = frames if isinstance(frames, int) else frames[name]
        rounds_ms = tuple(1000 * lap.seconds / count for lap in laps[name])
        cpu = [1000 * lap.cpu_seconds / count for lap in laps[name]]
        first, first_cpu = (found[0].rounds_ms, all_cpu[0]) if found else (rounds_ms, cpu)
        all_cpu.append(cpu)
        ratios = tuple(base / own for base, own in zip(first, rounds_ms, strict=True))
        found.append(
            SpeedRow(
                name=name,
                ms=median(rounds_ms),
                rounds_ms=rounds_ms,
                ratio=median(ratios),
                ratios=ratios,
                threads=contender.threads,
                equations=_equations(laps[name]),
                chosen={e: tuple((n / max(1, n.sum())).tolist()) for e, n in contender.chosen.items()},
                cpu_ms=median(cpu) if all(cpu) else None,
                cpu_ratio=median(a / b for a, b in zip(first_cpu, cpu, strict=True)) if all(cpu) else None,
            )
        )
    return found


def _equations(laps: Sequence[Lap]) -> dict[str, EquationTime]:
    calls = {name: [s for lap in laps for s in lap.calls[name]] for name in laps[0].calls}
    whole = sum(sum(found) for found in calls.values())
    return {
        name: EquationTime(len(found) // len(laps), 1000 * median(found), sum(found) / whole)
        for name, found in calls.items()
        if found
    }


@contextmanager
def contenders(
    bundle: Bundle,
    variants: Sequence[Variant],
    frames: Sequence[NDArray[np.float32]],
    reference: ClipReference | None = None,
) -> Iterator[dict[str, Contender]]:
    """PyTorch (if given) and variants, loaded and ready to run a clip.

    PyTorch computes with as many threads as the engines on this processor do: the machine's physical cores,
    unless they were all compiled for another number.
    """
    threads = {variant.name: engine_threads(variant) for variant in variants}
    with ExitStack() as stack:
        ready: dict[str, Contender] = {}
        if reference is not None:
            count = like_engines(variants)
            stack.enter_context(pytorch_threads(count))
            ready[PYTORCH] = Contender(lambda: reference(frames), count)
        for variant in variants:
            runner = stack.enter_context(open_runner(bundle, variant))
            ready[variant.name] = Contender(
                lambda r=runner: _exhaust(r.run(frames, total=len(frames))),  # type: ignore[misc]
                threads[variant.name],
                runner.seconds,
                runner.chosen,
            )
        yield ready


def physical_cores() -> int:
    """Of this machine, as far as this process may use them."""
    return int(target("cpu").tvm["num-cores"])


def engine_threads(variant: Variant) -> int | None:
    """CPU threads a variant's engines compute with, by default one a physical core; None on other devices."""
    if target(variant.target).kind != "cpu":
        return None
    return max(engine.threads for engine in variant.engines.values()) or physical_cores()


def like_engines(variants: Sequence[Variant]) -> int:
    """Threads for PyTorch beside variants: as theirs, or one a physical core where theirs differ."""
    asked = {count for variant in variants if (count := engine_threads(variant)) is not None}
    return asked.pop() if len(asked) == 1 else physical_cores()


@contextmanager
def pytorch_threads(count: int) -> Iterator[None]:
    """PyTorch with `count` threads for the length of a block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def back_and_forth(frames: Sequence[NDArray[np.float32]], count: int) -> list[NDArray[np.float32]]:
    """A clip of any length from a short one, played forward and backward in turns: every step is a motion."""
    return list(islice(cycle([*frames, *frames[-2:0:-1]]), count))


def _exhaust(outputs: Iterator[object]) -> None:
    for _ in outputs:
        pass
