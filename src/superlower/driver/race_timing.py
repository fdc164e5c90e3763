"""Engines of a race at work: one call of each held to the reference, then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np

from superlower.backends.base import Array, Feeds, Outputs, Session
from superlower.check.reference import reference_sessions
from superlower.driver.progress import Progress
from superlower.driver.race_choice import Time
from superlower.driver.speed import take_turns
from superlower.errors import SuperlowerError
from superlower.program.model import Program, TemporalModel
from superlower.runtime.runner import Engine, Runner

ROUNDS = 5
SLOW = 4.0
"""Engines so many times slower than the fastest are out after a call: other rounds wouldn't change that."""
SURE_S = 1.0
"""Seconds of a first call beyond which what an SDK does only once is no excuse."""
SHORTEST_S = 0.02
"""Least seconds of a timed turn: shorter calls are repeated."""
CLIP_S = 4.0
"""Seconds of a clip's turn, in which two frames at least and four at most are run."""


@dataclass(frozen=True)
class Question:
    """A graph's call on a real run, and the reference's answer."""

    feeds: Feeds
    answer: Outputs


def questions(model: TemporalModel, feeds: Mapping[str, Sequence[Feeds]]) -> dict[str, Question]:
    """The last validation input of each graph, and what ONNX Runtime makes of it."""
    with reference_sessions(model) as sessions:
        return {name: Question(feeds[name][-1], sessions[name].run(feeds[name][-1])) for name in model.graphs}


@dataclass(frozen=True)
class FirstCall:
    """Seconds of an engine's first call, and the largest difference of its outputs (see `RacedEngine`)."""

    seconds: float
    error: float


def first_call(session: Session, question: Question) -> FirstCall:
    """Call an engine for the first time."""
    began = time.perf_counter()
    found = session.run(question.feeds)
    seconds = time.perf_counter() - began
    return FirstCall(seconds, max(_error(found[name], answer) for name, answer in question.answer.items()))


def _error(found: Array, expected: Array) -> float:
    if np.issubdtype(expected.dtype, np.integer):
        return 0.0  # Choices, of which rounding may flip a few: the check of the whole program counts them.
    difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max(initial=0.0)
    error = float(difference / max(1.0, float(np.abs(expected).max(initial=0.0))))
    return error if isfinite(error) else float("inf")


def time_calls(
    sessions: Mapping[str, Session], feeds: Feeds, first: Mapping[str, float], progress: Progress
) -> dict[str, Time]:
    """Milliseconds of a call of each engine, in turns; of slow ones, of a single call.

    Args:
        sessions: engines of one graph, by backend, each of which was called once.
        feeds: what they are called with.
        first: seconds of that call.
    """
    least = min(first.values())
    once = {name: s for name, s in first.items() if s > SURE_S and s > SLOW * least}
    again = {name: _seconds(session, feeds, 1) for name, session in sessions.items() if name not in once}
    least = min(again.values())
    once |= {name: seconds for name, seconds in again.items() if seconds > SLOW * least}
    turns: dict[str, Callable[[], float]] = {}
    for name, session in sessions.items():
        if name not in once:
            calls = max(1, ceil(SHORTEST_S / max(again[name], 1e-6)))
            turns[name] = lambda s=session, n=calls: _seconds(s, feeds, n)  # type: ignore[misc]
    timed = take_turns(turns, rounds=ROUNDS, progress=progress)
    return {name: Time.of(timed.get(name) or [once[name]]) for name in sessions}


def _seconds(session: Session, feeds: Feeds, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        session.run(feeds)
    return (time.perf_counter() - began) / calls


def time_programs(
    program: Program,
    programs: Mapping[str, Mapping[str, Session]],
    clip: Sequence[Array],
    progress: Progress,
) -> dict[str, Time]:
    """Milliseconds of a frame of whole programs, in turns, after one round to warm up.

    Args:
        programs: name -> graph -> session.
        clip: frames that each runs in a turn.
    """

    def turn(sessions: Mapping[str, Session]) -> Callable[[], float]:
        runner = Runner(program, {graph: Engine(session) for graph, session in sessions.items()})

        def lap() -> float:
            began = time.perf_counter()
            for _ in runner.run(clip, total=len(clip)):
                pass
            return time.perf_counter() - began

        return lap

    turns = {name: turn(sessions) for name, sessions in programs.items()}
    laps = take_turns(turns, rounds=ROUNDS, progress=progress)
    return {name: Time.of(found, len(clip)) for name, found in laps.items()}


def attempt(call: Callable[[], Session]) -> Session | str:
    """A session, or why there is none."""
    try:
        return call()
    except SuperlowerError as error:
        return str(error)
