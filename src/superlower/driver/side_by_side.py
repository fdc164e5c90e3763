"""Entrants side by side: steady state in turns, first frame and memory in fresh processes, part of peak."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from statistics import median

import numpy as np
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.driver.entrants import Entrant, Kind, opened
from superlower.driver.fresh import Fresh
from superlower.driver.fresh import measure as measure_fresh
from superlower.driver.products import fastest
from superlower.driver.progress import Progress, Silent
from superlower.driver.speed import (
    Contender,
    Lap,
    SpeedRow,
    physical_cores,
    pytorch_threads,
    rows,
    stopwatch,
    take_turns,
)
from superlower.errors import SuperlowerError
from superlower.targets.base import Precision

_INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class Peak:
    """The fastest matrix product at a precision.

    Attributes:
        precision: of its factors.
        product: library and size.
        gflops_s: median over the rounds, 10^9 operations a second.
        rounds: of each round.
    """

    precision: Precision
    product: str
    gflops_s: float
    rounds: tuple[float, ...]


@dataclass(frozen=True)
class Placed:
    """One entrant.

    Attributes:
        name: of the entrant.
        precision: of its arithmetic.
        speed: in turns with the others, over whole clips; None if it couldn't be run.
        fresh: in a process of its own.
        gflops_s: convolutions' operations over the time of whole frames, 10^9 a second; the rounds' median.
        of_peak: that, as a share of the peak at its precision in the same round.
        why: it couldn't be run; one line.
    """

    name: str
    precision: Precision
    speed: SpeedRow | None = None
    fresh: Fresh | None = None
    gflops_s: float | None = None
    of_peak: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Entry:
    """An entrant, and what is asked of it.

    Attributes:
        entrant: who.
        precision: of its arithmetic: whose peak it is held to.
        bundle: its program.
        frames: the clip it runs, or each of those side by side.
        gflop: operations of all convolutions over one such clip, 10^9.
    """

    entrant: Entrant
    precision: Precision
    bundle: Bundle
    frames: Sequence[NDArray[np.float32]]
    gflop: float


def place(
    entries: Sequence[Entry], *, rounds: int, quick: bool = False, progress: Progress | None = None
) -> tuple[list[Placed], list[Peak]]:
    """Measure every entrant. Ratios are to the first.

    Each is first run alone in a fresh process; one that fails there is left out of the turns and says why.

    Args:
        entries: of clips of as many frames.
        rounds: timed, after one to warm up.
        quick: neither fresh processes nor matrix products; an entrant that fails is then an error.

    Raises:
        SuperlowerError: the first of them, which all others are compared with, can't be run.
    """
    progress = progress or Silent()
    found = {entry.entrant.name: Placed(entry.entrant.name, entry.precision) for entry in entries}
    with _compiler_cache():
        if not quick:
            progress.stage("in fresh processes", len(entries))
        for entry in entries if not quick else ():
            name = entry.entrant.name
            try:
                fresh = measure_fresh(entry.entrant, len(entry.frames))
                found[name] = replace(found[name], fresh=fresh)
            except SuperlowerError as error:
                if entry is entries[0]:
                    raise
                found[name] = replace(found[name], why=_line(error))
            progress.advance(name)
        running = [entry for entry in entries if not found[entry.entrant.name].why]
        laps, peaks, table = _turns(running, rounds, quick, progress)
    for entry, row in zip(running, table, strict=True):
        name = entry.entrant.name
        gflop = entry.gflop * entry.entrant.clips
        rates = [gflop / lap.seconds for lap in laps[name]]
        peak = next((p for p in peaks if p.precision is entry.precision), None)
        shares = [] if peak is None else [r / top for r, top in zip(rates, peak.rounds, strict=True)]
        found[name] = replace(
            found[name],
            speed=row,
            gflops_s=median(rates),
            of_peak=median(shares) if shares else None,
        )
    return list(found.values()), peaks


def _turns(
    entries: Sequence[Entry], rounds: int, quick: bool, progress: Progress
) -> tuple[Mapping[str, Sequence[Lap]], list[Peak], list[SpeedRow]]:
    with ExitStack() as stack:
        if find_spec("torch") is not None:
            stack.enter_context(pytorch_threads(physical_cores()))
        yardsticks = {}
        for precision in () if quick else dict.fromkeys(entry.precision for entry in entries):
            frame = entries[0].bundle.program.frame
            if (best := fastest(frame.height, frame.width, precision)) is not None:
                yardsticks[precision] = best
        ready: dict[str, Contender] = {}
        for entry in entries:
            one = stack.enter_context(opened(entry.entrant, entry.bundle))
            ready[entry.entrant.name] = one.contender(entry.frames, entry.entrant.clips)
        turns: dict[str, Callable[[], Lap | float]] = {n: stopwatch(each) for n, each in ready.items()}
        turns |= {f"product in {p}": timed for p, (_, timed) in yardsticks.items()}
        found = take_turns(turns, rounds=rounds, progress=progress)
    laps = {name: [lap for lap in found[name] if isinstance(lap, Lap)] for name in ready}
    peaks = []
    for precision, (product, _) in yardsticks.items():
        rates = tuple(rate for rate in found[f"product in {precision}"] if isinstance(rate, float))
        peaks.append(Peak(precision, product.name, median(rates), rates))
    done = {entry.entrant.name: len(entry.frames) * entry.entrant.clips for entry in entries}
    return laps, peaks, rows(ready, laps, done)


def precision_of(entrant: Entrant, bundle: Bundle) -> Precision:
    """Of an entrant's arithmetic: fp32 but for variants of another."""
    return bundle.variant(entrant.variant).precision if entrant.kind is Kind.VARIANT else Precision.FP32


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def _compiler_cache() -> Iterator[None]:
    """What torch.compile compiled for this run, and no run before it."""
    before = os.environ.get(_INDUCTOR_CACHE)
    with tempfile.TemporaryDirectory(prefix="superlower-inductor-") as folder:
        os.environ[_INDUCTOR_CACHE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_INDUCTOR_CACHE]
            else:
                os.environ[_INDUCTOR_CACHE] = before
