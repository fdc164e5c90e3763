"""What a program pass gains: operations and time a frame, before and after."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Session
from superlower.check.reference import reference_sessions
from superlower.driver.flops import clip_macs
from superlower.driver.progress import Progress, Silent
from superlower.driver.speed import take_turns
from superlower.program.interpret import interpret
from superlower.program.legality import horizon, period
from superlower.program.model import TemporalModel
from superlower.rewrites.base import ProgramPass
from superlower.rewrites.pipeline import ProgramReport, apply

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Cost:
    """What a frame costs.

    Attributes:
        flops: floating-point operations of convolutions, in a long clip's middle.
        ms: milliseconds in ONNX Runtime over the clip measured, its ends included; the median of the rounds.
        rounds_ms: of each round.
    """

    flops: float
    ms: float
    rounds_ms: tuple[float, ...]


@dataclass(frozen=True)
class Gain:
    """A model rewritten, and what that brought.

    Attributes:
        model: after the passes.
        reports: what each pass did.
        before, after: a frame's cost.
        ratio: how many times as fast, the median over the rounds.
    """

    model: TemporalModel
    reports: tuple[ProgramReport, ...]
    before: Cost
    after: Cost
    ratio: float


def measure(
    model: TemporalModel,
    passes: Sequence[ProgramPass],
    frames: Sequence[Array],
    *,
    rounds: int = 3,
    progress: Progress | None = None,
) -> Gain:
    """Run the passes, validated over the clip, and time the model before and after in turns.

    Args:
        frames: a clip; a window's ends cost more than its middle, so make it longer than the window.
        rounds: timed runs of the clip, each.

    Raises:
        OutputsDifferError: a pass left its budget.
        BadInputError: a convolution whose sizes aren't static.
    """
    progress = progress or Silent()
    progress.stage("passes", len(passes))
    after, reports = apply(model, passes, frames, on_pass=lambda report: progress.advance(report.name))
    with reference_sessions(model) as old, reference_sessions(after) as new:

        def turn(which: TemporalModel, sessions: Mapping[str, Session]) -> float:
            start = time.perf_counter()
            interpret(which.program, frames, lambda graph, feeds: sessions[graph].run(feeds))
            return (time.perf_counter() - start) * 1000 / len(frames)

        laps = take_turns(
            {"before": lambda: turn(model, old), "after": lambda: turn(after, new)},
            rounds=rounds,
            progress=progress,
        )
    ratios = [a / b for a, b in zip(laps["before"], laps["after"], strict=True)]
    return Gain(
        after,
        tuple(reports),
        Cost(frame_flops(model), median(laps["before"]), tuple(laps["before"])),
        Cost(frame_flops(after), median(laps["after"]), tuple(laps["after"])),
        median(ratios),
    )


def frame_flops(model: TemporalModel) -> float:
    """Floating-point operations of convolutions that one more frame in the middle of a long clip costs."""
    long, further = horizon(model.program), period(model.program)
    return 2 * (clip_macs(model, long + further) - clip_macs(model, long)) / further
