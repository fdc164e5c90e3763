from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from superlower.program.chunks import Chunk, ChunkPlanner, cut
from superlower.program.interpret import interpret
from superlower.program.model import Equation, Frame, Program, Stream
from superlower.program.unroll import Element
from support.basicvsr import basicvsr_program
from support.programs import call_graph, frames, graph_name

PLANE = (1, 1, "H", "W")


def chain(length: int, offset: int) -> Program:
    """Each stream lags the one before it, and is recurrent."""
    names = ["frame", *(f"s{i}" for i in range(length)), "output"]
    return Program(
        name="chain",
        frame=Frame(height=2, width=2, channels=1, color="y", scale=1),
        streams={name: Stream(shape=PLANE) for name in names},
        equations=tuple(
            Equation(
                name=f"e{i}",
                graph=graph_name(2, 1, i),
                inputs={"x0": f"{before}[t{offset:+d}]", "x1": f"{name}[t-1]"},
                outputs={"y0": name},
            )
            for i, (before, name) in enumerate(pairwise(names))
        ),
    )


def test_cut() -> None:
    assert cut(7, 3, 2) == [Chunk(0, 3, 5), Chunk(3, 6, 7), Chunk(6, 7, 7)]
    assert cut(4, 3, None) == [Chunk(0, 3, 4), Chunk(3, 4, 4)]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("offset", [-2, -1])
def test_what_a_long_chain_of_lags_needs_is_kept(offset: int, known: bool) -> None:
    program, count = chain(6, offset), 40
    clip = frames(count)
    planner = ChunkPlanner(program)
    alive: dict[Element, np.ndarray] = {}
    found = []
    for chunk in cut(count, 1, 0):
        plan = planner.plan(chunk, count if known or chunk.end == count else None)
        for element in plan.frees:
            del alive[element]
        for step in plan.steps:
            alive |= {Element("frame", t): clip[t] for t in step.arrives}
            feeds = {
                n: np.zeros((1, 1, 2, 2), np.float32) if e is None else alive[e]
                for n, e in step.reads.items()
            }
            alive[step.writes["y0"]] = call_graph(step.graph, feeds)["y0"]
            found += [alive[e] for e in step.emits]
            for element in step.frees:
                del alive[element]
        alive |= {Element("frame", t): clip[t] for t in plan.tail if Element("frame", t) in plan.kept}
        assert set(alive) == plan.kept
    assert all(map(np.array_equal, found, interpret(program, clip, call_graph)))


@pytest.mark.parametrize("known", [True, False])
def test_a_long_clip_is_planned_a_bounded_number_of_times(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []
    plan_one = ChunkPlanner._plan
    monkeypatch.setattr(ChunkPlanner, "_plan", lambda *a: planned.append(a) or plan_one(*a))
    program, count = basicvsr_program(), 2000
    planner = ChunkPlanner(program)
    calls = 0
    for chunk in cut(count, 5, 3):
        calls += len(planner.plan(chunk, count if known or chunk.end == count else None).steps)
    assert len(planned) < 15
    assert calls > 4 * count


def test_a_chunk_computes_only_its_look_ahead_twice() -> None:
    planner = ChunkPlanner(basicvsr_program())
    plans = [planner.plan(chunk, 60) for chunk in cut(60, 10, 4)]
    calls = [str(step.call).split("@")[0] for plan in plans for step in plan.steps]
    assert calls.count("forward") == 60
    assert calls.count("flow_f") == 59
    assert calls.count("flow_b") == 59
    assert calls.count("backward") == 60 + 5 * 4
