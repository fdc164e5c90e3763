from __future__ import annotations

import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from superlower.backends.base import Feeds, Outputs
from superlower.errors import BadInputError
from superlower.program import analysis
from superlower.program.chunks import ChunkPlanner, cut
from superlower.program.interpret import interpret
from superlower.program.model import Equation, Frame, Program, Stream
from superlower.program.schedule import schedule
from superlower.runtime.runner import Batch, Engine, Runner
from support.basicvsr import basicvsr_program
from support.programs import CHANNELS, SIDE, call_graph, frames, graph_name, programs

Array = NDArray[np.generic]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class TinySession:
    """Runs a tiny graph; submitted runs end in any order."""

    pool = ThreadPoolExecutor(4)

    def __init__(self, graph: str, dawdle: float = 0.0) -> None:
        self.graph, self.dawdle = graph, dawdle

    def run(self, feeds: Feeds) -> Outputs:
        time.sleep(random.random() * self.dawdle)
        return call_graph(self.graph, feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        return self.pool.submit(self.run, feeds)

    def reset(self) -> None: ...

    def close(self) -> None: ...


def engines(program: Program, dawdle: float = 0.0) -> dict[str, Engine]:
    return {e.graph: Engine(TinySession(e.graph, dawdle)) for e in program.equations}


@given(programs(), st.integers(1, 8), st.integers(1, 4), st.booleans())
@QUICK
def test_gives_the_interpreters_outputs(
    program: Program, count: int, in_flight: int, length_known: bool
) -> None:
    clip = frames(count)
    runner = Runner(program, engines(program, 0.001), in_flight=in_flight)
    found = list(runner.run(iter(clip), total=count if length_known else None))
    expected = interpret(program, clip, call_graph)
    assert len(found) == count
    assert all(map(np.array_equal, found, expected))


@given(programs(), st.integers(1, 12), st.integers(1, 5), st.booleans())
@QUICK
def test_chunks_of_a_stream_of_unknown_length(
    program: Program, count: int, chunk: int, length_known: bool
) -> None:
    clip = frames(count)
    runner = Runner(program, engines(program))
    found = list(runner.run(iter(clip), total=count if length_known else None, chunk=chunk))
    assert all(map(np.array_equal, found, interpret(program, clip, call_graph)))


@given(programs(), st.integers(1, 10), st.integers(1, 3))
@QUICK
def test_its_own_account_of_memory_is_the_analysis(program: Program, count: int, in_flight: int) -> None:
    runner = Runner(program, engines(program), in_flight=in_flight)
    for _ in runner.run(frames(count), total=count):
        pass
    predicted = schedule(program, count).peak_bytes(*program.frame.padded, in_flight=in_flight)
    if in_flight == 1:
        assert runner.peak_bytes == predicted
    assert runner.peak_bytes <= predicted


def batches(program: Program, size: int, dawdle: float = 0.0) -> dict[str, Batch]:
    return {g: Batch(size, TinySession(g, dawdle)) for g in analysis.batchable_graphs(program)}


@given(programs(), st.integers(1, 10), st.integers(2, 4), st.integers(1, 3), st.sampled_from((None, 1, 3)))
@QUICK
def test_batched_calls_give_the_interpreters_outputs(
    program: Program, count: int, size: int, in_flight: int, chunk: int | None
) -> None:
    """The tiny graphs' batch size is free, so one session serves single and stacked calls."""
    clip = frames(count)
    runner = Runner(
        program, engines(program, 0.001), in_flight=in_flight, batches=batches(program, size, 0.001)
    )
    found = list(runner.run(iter(clip), total=count, chunk=chunk))
    assert all(map(np.array_equal, found, interpret(program, clip, call_graph)))
    if chunk is None:
        sizes = dict.fromkeys(analysis.batchable_graphs(program), size)
        plan = schedule(program, count, sizes)
        assert runner.peak_bytes <= plan.peak_bytes(*program.frame.padded, in_flight, sizes)
        assert sum(map(len, runner.seconds.values())) == len(plan.steps)


def test_calls_that_wait_for_one_another_cant_be_batched() -> None:
    program = basicvsr_program(48, 64)
    singles = {g: Engine(BlankSession(g)) for g in ("flow", "backward", "forward")}
    with pytest.raises(BadInputError, match="calls of graph 'backward' wait for one another"):
        Runner(program, singles, batches={"backward": Batch(2, BlankSession("backward"))})


def test_a_stream_without_an_end_is_read_a_batch_at_a_time() -> None:
    """A program of bounded latency gives frames as soon as a batch of them is there."""
    g = graph_name(1, 1)
    frame = Stream(shape=(1, CHANNELS, "H", "W"))
    program = Program(
        name="still",
        frame=Frame(height=SIDE, width=SIDE, channels=CHANNELS, color="y", scale=1),
        streams={"frame": frame, "output": frame},
        equations=(Equation(name="up", graph=g, inputs={"x0": "frame[t]"}, outputs={"y0": "output"}),),
    )
    taken: list[int] = []

    def source() -> Iterator[Array]:
        for t, one in enumerate(frames(7)):
            taken.append(t)
            yield one

    runner = Runner(program, {g: Engine(TinySession(g))}, batches={g: Batch(3, TinySession(g))})
    outputs = runner.run(source())
    next(outputs)
    assert taken == [0, 1, 2, 3]  # One more tells whether the clip goes on.
    assert len(list(outputs)) == 6


class BlankSession(TinySession):
    """BasicVSR's graphs as far as memory goes: new arrays of the right shape."""

    def run(self, feeds: Feeds) -> Outputs:
        height, width = next(iter(feeds.values())).shape[2:]
        shapes = {
            "flow": {"flow": (1, 2, height, width)},
            "backward": {"hidden_out": (1, 64, height, width)},
            "forward": {"hidden_out": (1, 64, height, width), "output": (1, 3, 4 * height, 4 * width)},
        }
        return {name: np.ones(shape, np.float32) for name, shape in shapes[self.graph].items()}


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("chunk", [None, 6])
def test_the_processs_peak_is_within_a_tenth_of_the_analysis(in_flight: int, chunk: int | None) -> None:
    program, count = basicvsr_program(48, 64), 24
    runner = Runner(
        program, {g: Engine(BlankSession(g)) for g in ("flow", "backward", "forward")}, in_flight=in_flight
    )
    clip = (np.zeros((1, 3, 48, 64), np.float32) + t for t in range(count))
    tracemalloc.start()
    for _ in runner.run(clip, total=count, chunk=chunk, look_ahead=None if chunk is None else 6):
        pass
    _, measured = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = schedule(program, count).peak_bytes(48, 64, in_flight=in_flight)
    planner = ChunkPlanner(program)
    plans = [planner.plan(c, count) for c in cut(count, chunk, 6)] if chunk else [schedule(program, count)]
    predicted = max(plan.peak_bytes(48, 64, in_flight=in_flight) for plan in plans)
    assert abs(measured - predicted) < 0.1 * predicted
    assert chunk is None or predicted < 0.65 * whole


class CrowdSession(BlankSession):
    """Counts how many calls run at the same time."""

    lock = threading.Lock()
    running: ClassVar[list[str]] = []
    together: ClassVar[set[frozenset[str]]] = set()

    def run(self, feeds: Feeds) -> Outputs:
        with self.lock:
            self.running.append(self.graph)
            if len(self.running) > 1:
                self.together.add(frozenset(self.running))
        time.sleep(0.02)
        outputs = super().run(feeds)
        with self.lock:
            self.running.remove(self.graph)
        return outputs


@pytest.mark.parametrize("in_flight", [1, 2])
def test_independent_calls_overlap_when_they_may(in_flight: int) -> None:
    CrowdSession.together.clear()
    program = basicvsr_program(48, 64)
    engines = {g: Engine(CrowdSession(g)) for g in ("flow", "backward", "forward")}
    runner = Runner(program, engines, in_flight=in_flight)
    assert len(list(runner.run([np.zeros((1, 3, 48, 64), np.float32)] * 6))) == 6
    expected = {frozenset({"flow", "backward"}), frozenset({"flow", "forward"})} if in_flight > 1 else set()
    assert CrowdSession.together == expected


class CountingState(TinySession):
    """Keeps h inside: h = h + x, output h."""

    def __init__(self) -> None:
        self.h = np.zeros((1, 1, 2, 2), np.float32)

    def run(self, feeds: Feeds) -> Outputs:
        assert set(feeds) == {"x0"}
        self.h = self.h + feeds["x0"]
        return {"y0": self.h}

    def reset(self) -> None:
        self.h = np.zeros_like(self.h)


def test_a_state_inside_the_engine() -> None:
    from superlower.program.model import Equation, Frame, Stream

    plane = (1, 1, "H", "W")
    program = Program(
        name="sum",
        frame=Frame(height=2, width=2, channels=1, color="y", scale=1),
        streams={"frame": Stream(shape=plane), "h": Stream(shape=plane), "output": Stream(shape=plane)},
        equations=(
            Equation(
                name="step",
                graph="step",
                inputs={"x0": "frame[t]", "x1": "h[t-1]"},
                outputs={"y0": "output", "y1": "h"},
            ),
        ),
    )
    runner = Runner(program, {"step": Engine(CountingState(), {"x1": "y1"})})
    clip = frames(5)
    for chunk in (None, 2):
        found = list(runner.run(clip, chunk=chunk))
        assert all(map(np.array_equal, found, np.cumsum(clip, axis=0, dtype=np.float32)))


def test_frames_of_another_size_in_mid_clip() -> None:
    program = basicvsr_program(48, 64)
    runner = Runner(program, {g: Engine(BlankSession(g)) for g in ("flow", "backward", "forward")})
    clip = [np.zeros((1, 3, 48, 64), np.float32), np.zeros((1, 3, 50, 64), np.float32)]
    with pytest.raises(BadInputError, match=r"frame 1 is float32 .*export it for this frame size"):
        list(runner.run(clip))


@pytest.mark.parametrize("total", [None, 3])
def test_too_few_frames(total: int | None) -> None:
    program = basicvsr_program(48, 64)
    runner = Runner(program, {g: Engine(BlankSession(g)) for g in ("flow", "backward", "forward")})
    with pytest.raises(BadInputError, match=r"no frames|ended after 0 frames, 3 were announced"):
        list(runner.run([], total=total))


def test_a_graph_without_engine() -> None:
    with pytest.raises(BadInputError, match="no engine for graph 'flow'"):
        Runner(basicvsr_program(), {})
