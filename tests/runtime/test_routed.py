"""Routed programs through the runner: the naive interpreter's outputs, whatever is in flight."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superlower.backends.base import Feeds, Outputs
from superlower.errors import BadInputError
from superlower.program.interpret import evaluate, interpret
from superlower.program.model import Program
from superlower.program.schedule import schedule
from superlower.program.unroll import Element
from superlower.runtime.runner import Engine, Runner
from support.routed import call_graph, clip, route, routed_program, routed_programs

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class ArraySession:
    """Runs a function; submitted runs end in any order."""

    pool = ThreadPoolExecutor(4)

    def __init__(self, graph: str, dawdle: float = 0.0) -> None:
        self.graph, self.dawdle = graph, dawdle

    def run(self, feeds: Feeds) -> Outputs:
        assert all(array.flags.c_contiguous for array in feeds.values())
        time.sleep(random.random() * self.dawdle)
        return call_graph(self.graph, feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        return self.pool.submit(self.run, feeds)

    def reset(self) -> None: ...

    def close(self) -> None: ...


def engines(program: Program, dawdle: float = 0.0) -> dict[str, Engine]:
    return {g: Engine(ArraySession(g, dawdle)) for e in program.equations for g in e.graphs}


@given(routed_programs(), st.integers(1, 6), st.integers(1, 3), st.booleans())
@QUICK
def test_gives_the_interpreters_outputs(
    program: Program, count: int, in_flight: int, length_known: bool
) -> None:
    frames = clip(count)
    runner = Runner(program, engines(program, 0.0002), in_flight=in_flight)
    found = list(runner.run(iter(frames), total=count if length_known else None))
    expected = interpret(program, frames, call_graph)
    assert len(found) == count
    assert all(map(np.array_equal, found, expected))
    predicted = schedule(program, count).peak_bytes(*program.frame.padded, in_flight=in_flight)
    assert runner.peak_bytes <= predicted


@given(routed_programs(), st.integers(1, 8), st.integers(1, 4))
@settings(QUICK, max_examples=20)
def test_chunks(program: Program, count: int, chunk: int) -> None:
    frames = clip(count)
    found = list(
        Runner(program, engines(program)).run(iter(frames), total=count, chunk=chunk, look_ahead=count)
    )
    assert all(map(np.array_equal, found, interpret(program, frames, call_graph)))


@pytest.mark.parametrize("in_flight", [1, 2])
def test_counts_what_was_chosen(in_flight: int) -> None:
    program = routed_program(route(graphs=("near_1", "far_2")))
    runner = Runner(program, engines(program), in_flight=in_flight)
    assert len(list(runner.run(clip(5), total=5))) == 5
    known = evaluate(program, clip(5), call_graph)
    chosen = np.concatenate([known[Element("choice", t)].ravel() for t in range(5)])
    assert runner.chosen["detail"].tolist() == [int((chosen == k).sum()) for k in range(3)]


def test_given_choices_take_the_place_of_the_programs_own() -> None:
    program = routed_program(route())
    known = evaluate(program, clip(3), call_graph)
    own = [known[Element("choice", t)] for t in range(3)]
    given = [own[0], 1 - own[1], own[2]]
    runner = Runner(program, engines(program))
    found = list(runner.run(clip(3), total=3, choices={"choice": given}))
    assert runner.flips == {"choice": [0, 6, 0]}
    plain = list(runner.run(clip(3), total=3))
    assert runner.flips == {}
    assert np.array_equal(found[0], plain[0])
    assert not np.array_equal(found[1], plain[1])
    total = sum(int(choice.sum()) for choice in (*given, *own))
    assert runner.chosen["detail"].tolist() == [2 * 18 - total, total]


def test_no_states_inside_engines_that_see_windows() -> None:
    program = routed_program(route())
    stateful = {**engines(program), "far_2": Engine(ArraySession("far_2"), {"x": "h"})}
    with pytest.raises(BadInputError, match="'far_2' keeps a state, but is called by windows"):
        Runner(program, stateful)
    with pytest.raises(BadInputError, match="no engine for graph 'far_2' of equation detail"):
        Runner(program, {g: e for g, e in engines(program).items() if g != "far_2"})
