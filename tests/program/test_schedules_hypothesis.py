"""Any legal order, batched or chunked, gives what the naive interpreter gives."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from superlower.program import analysis, chunks, legality
from superlower.program.interpret import interpret
from superlower.program.model import Program
from superlower.program.schedule import Schedule, build, schedule
from superlower.program.unroll import Call, Element, Unrolled
from support.programs import call_graph, frames, programs

Array = NDArray[np.generic]
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Store:
    """Runs schedules to the letter: a tensor freed is gone, one that isn't there is an error."""

    def __init__(self, program: Program, clip: list[Array]) -> None:
        self.program, self.clip = program, clip
        self.alive: dict[Element, Array] = {}
        self.outputs: list[Array] = []
        self.peak = 0

    def run(self, plan: Schedule) -> None:
        assert set(self.alive) == plan.held
        self._emit(plan.emits, plan.frees)
        for step in plan.steps:
            self._arrive(step.arrives)
            feeds = {
                name: self.alive[e] if e is not None else self._zeros(step.zeros[name])
                for name, e in step.reads.items()
            }
            outputs = call_graph(step.graph, feeds)
            for name, element in step.writes.items():
                self.alive[element] = outputs[name]
            self.peak = max(self.peak, sum(a.nbytes for a in self.alive.values()))
            self._emit(step.emits, step.frees)
        self._arrive(plan.tail)
        for element in [e for e in self.alive if e not in plan.kept]:
            assert element.stream == self.program.input
            assert element.t in plan.tail
            del self.alive[element]
        assert set(self.alive) == plan.kept

    def _arrive(self, arriving: range) -> None:
        for t in arriving:
            self.alive[Element(self.program.input, t)] = self.clip[t]

    def _emit(self, emits: tuple[Element, ...], frees: tuple[Element, ...]) -> None:
        self.outputs += [self.alive[e] for e in emits]
        for element in frees:
            del self.alive[element]

    def _zeros(self, stream: str) -> Array:
        return np.zeros(self.program.sizes(stream), np.float32)


def same(found: list[Array], expected: list[Array]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@given(programs())
@QUICK
def test_random_programs_are_legal(program: Program) -> None:
    legality.verify(program)


@given(programs(), st.integers(1, 9))
@QUICK
def test_the_schedule_gives_the_interpreters_outputs_and_frees_everything(
    program: Program, count: int
) -> None:
    clip = frames(count)
    store = Store(program, clip)
    plan = schedule(program, count)
    store.run(plan)
    assert same(store.outputs, interpret(program, clip, call_graph))
    assert not store.alive
    assert store.peak <= plan.peak_bytes(*program.frame.padded)


@given(programs(), st.integers(1, 7), st.randoms(use_true_random=False))
@QUICK
def test_any_legal_order_gives_the_interpreters_outputs(
    program: Program, count: int, rnd: random.Random
) -> None:
    unrolled = Unrolled(program, count)
    waiting = unrolled.order([Element(program.output, t) for t in range(count)])
    order: list[Call] = []
    done = {Element(program.input, t) for t in range(count)}
    while waiting:
        ready = [c for c in waiting if all(e is None or e in done for e in unrolled.reads(c).values())]
        call = rnd.choice(ready)
        waiting.remove(call)
        order.append(call)
        done |= set(unrolled.writes(call).values())
    clip = frames(count)
    store = Store(program, clip)
    store.run(build(unrolled, range(count), arrive_to=count, order=order))
    assert same(store.outputs, interpret(program, clip, call_graph))


@given(programs(), st.integers(1, 7))
@QUICK
def test_waves_are_independent_and_batches_of_one_graph_give_the_same(program: Program, count: int) -> None:
    clip = frames(count)
    plan = schedule(program, count)
    alive = {Element(program.input, t): frame for t, frame in enumerate(clip)}
    for wave in plan.waves():
        by_graph: dict[str, list[int]] = {}
        for i, step in enumerate(wave):
            by_graph.setdefault(step.graph, []).append(i)
        for graph, members in by_graph.items():
            steps = [wave[i] for i in members]
            feeds = {
                name: np.concatenate(
                    [
                        alive[e] if (e := s.reads[name]) is not None else np.zeros((1, 1, 2, 2), np.float32)
                        for s in steps
                    ]
                )
                for name in steps[0].reads
            }
            outputs = call_graph(graph, feeds)
            for k, step in enumerate(steps):
                alive.update({e: outputs[name][k : k + 1] for name, e in step.writes.items()})
    found = [alive[Element(program.output, t)] for t in range(count)]
    assert same(found, interpret(program, clip, call_graph))


@given(programs(), st.integers(1, 12), st.integers(1, 5), st.booleans())
@QUICK
def test_chunks_with_full_look_ahead_are_exact(
    program: Program, count: int, size: int, length_known: bool
) -> None:
    clip = frames(count)
    store, planner = Store(program, clip), chunks.ChunkPlanner(program)
    for chunk in chunks.cut(count, size, None):
        store.run(planner.plan(chunk, count if length_known or chunk.end == count else None))
    assert same(store.outputs, interpret(program, clip, call_graph))
    assert not store.alive


@given(programs(), st.integers(1, 14), st.integers(1, 5), st.booleans())
@QUICK
def test_chunks_with_the_latency_as_look_ahead_are_exact(
    program: Program, count: int, size: int, length_known: bool
) -> None:
    latency = analysis.analyze(program).latency
    clip = frames(count)
    store, planner = Store(program, clip), chunks.ChunkPlanner(program)
    for chunk in chunks.cut(count, size, latency):
        store.run(planner.plan(chunk, count if length_known or chunk.end == count else None))
    assert same(store.outputs, interpret(program, clip, call_graph))


@given(programs(), st.integers(20, 80), st.integers(1, 4), st.booleans())
@settings(QUICK, max_examples=25)
def test_long_clips_reuse_their_plans_and_stay_exact(
    program: Program, count: int, size: int, length_known: bool
) -> None:
    latency = analysis.latency(program)
    if latency is None:
        return
    clip = frames(count)
    store, planner = Store(program, clip), chunks.ChunkPlanner(program)
    for chunk in chunks.cut(count, size, latency):
        store.run(planner.plan(chunk, count if length_known or chunk.end == count else None))
    assert same(store.outputs, interpret(program, clip, call_graph))
    assert not store.alive


@given(programs(), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2))
@QUICK
def test_chunks_with_too_short_a_look_ahead_still_run_to_the_letter(
    program: Program, count: int, size: int, look_ahead: int
) -> None:
    store, planner = Store(program, frames(count)), chunks.ChunkPlanner(program)
    for chunk in chunks.cut(count, size, look_ahead):
        store.run(planner.plan(chunk, count if chunk.end == count else None))
    assert len(store.outputs) == count
    assert not store.alive


@given(programs())
@QUICK
def test_independent_equations_never_reach_one_another(program: Program) -> None:
    facts = analysis.analyze(program)
    unrolled = Unrolled(program, 9)
    order = unrolled.order([Element(program.output, t) for t in range(9)])
    before: dict[Call, set[Call]] = {}
    for call in order:
        writers = {unrolled.writer(e) for e in unrolled.reads(call).values() if e is not None} - {None}
        before[call] = writers.union(*(before[w] for w in writers)) if writers else set()  # type: ignore[misc]
    for a, b, d in facts.independent:
        for t in range(9):
            one, other = Call(a, t), Call(b, t + d)
            if one in before and other in before:
                assert one not in before[other]
                assert other not in before[one]


@given(programs(), st.integers(1, 9), st.integers(2, 4), st.integers(1, 3))
@QUICK
def test_gathered_calls_give_the_interpreters_outputs_in_a_legal_order(
    program: Program, count: int, size: int, in_flight: int
) -> None:
    sizes = dict.fromkeys(analysis.batchable_graphs(program), size)
    clip = frames(count)
    plan = schedule(program, count, sizes)
    assert sorted(s.call for s in plan.steps) == sorted(s.call for s in schedule(program, count).steps)
    store = Store(program, clip)
    store.run(plan)
    assert same(store.outputs, interpret(program, clip, call_graph))
    assert not store.alive
    groups = list(plan.groups(sizes))
    assert [step for group in groups for step in group] == list(plan.steps)
    for group in groups:
        assert len(group) in (1, size)
        assert len({step.graph for step in group}) == 1
        made = {e for step in group for e in step.writes.values()}
        assert not made & {e for step in group for e in step.reads.values()}
    sides = program.frame.padded
    assert plan.peak_bytes(*sides, in_flight, sizes) >= plan.peak_bytes(*sides, 1, {})


@given(programs(), st.integers(1, 12), st.integers(1, 5), st.integers(2, 3))
@QUICK
def test_gathered_chunks_are_exact(program: Program, count: int, size: int, together: int) -> None:
    sizes = dict.fromkeys(analysis.batchable_graphs(program), together)
    clip = frames(count)
    store, planner = Store(program, clip), chunks.ChunkPlanner(program, sizes)
    for chunk in chunks.cut(count, size, None):
        store.run(planner.plan(chunk, count))
    assert same(store.outputs, interpret(program, clip, call_graph))
    assert not store.alive
