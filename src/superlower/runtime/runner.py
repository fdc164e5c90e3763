"""Runs a program's equations on sessions: states, edges, order, overlap and memory are its business alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Outputs, Session
from superlower.errors import NOT_FINITE, BadInputError, OutputsDifferError
from superlower.program import analysis
from superlower.program.chunks import Chunk, ChunkPlanner
from superlower.program.model import CHOICE, Program
from superlower.program.routes import Choices, routings
from superlower.program.schedule import Schedule, Step, schedule
from superlower.program.unroll import Element
from superlower.runtime.routed import Done, Pending, Router

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Engine:
    """A session for one graph.

    Attributes:
        session: the loaded engine.
        stateful: states it keeps inside, as graph input name -> graph output name.
    """

    session: Session
    stateful: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """A session for several calls of a graph at once: inputs and outputs are stacked along their first axis.

    Attributes:
        size: calls, all of which are needed.
        session: the loaded engine.
    """

    size: int
    session: Session


Group = tuple[Step, ...]
"""Steps that run as one call."""


class Runner:
    """A program with an engine for each of its graphs.

    Attributes:
        peak_bytes: largest sum of stream tensors that were alive at once in the last run.
        seconds: equation -> seconds of each call so far, from issue to completion.
        chosen: equation with a route -> patches so far of each choice, 0 first.
        flips: stream of choices that the last run was given -> patches of each frame, as they came, in which
            its equation chose otherwise.
    """

    def __init__(
        self,
        program: Program,
        engines: Mapping[str, Engine],
        *,
        in_flight: int = 1,
        batches: Mapping[str, Batch] | None = None,
    ) -> None:
        """Args:
        program: a legal program.
        engines: by graph name.
        in_flight: calls that may run at the same time, where they don't wait for one another.
        batches: by graph name, for graphs whose calls don't wait for one another; calls that are left over
            run one by one.

        Raises:
            BadInputError: an engine is missing, or can't be called as the program and `batches` ask.
        """
        for equation in program.equations:
            for graph in equation.graphs:
                if graph not in engines:
                    raise BadInputError(f"no engine for graph '{graph}' of equation {equation.name}")
        for graph, engine in engines.items():
            callers = [e for e in program.equations if graph in e.graphs]
            if engine.stateful and len(callers) > 1:
                raise BadInputError(
                    f"the engine of graph '{graph}' keeps a state, but "
                    f"{' and '.join(e.name for e in callers)} share it"
                )
            if engine.stateful and any(e.route is not None for e in callers):
                raise BadInputError(f"the engine of graph '{graph}' keeps a state, but is called by windows")
        self._batches = dict(batches or {})
        if waits := sorted(self._batches.keys() - analysis.batchable_graphs(program)):
            raise BadInputError(
                f"calls of graph '{waits[0]}' wait for one another, or are windows: they can't be batched"
            )
        self._sizes = {graph: batch.size for graph, batch in self._batches.items()}
        self.program = program
        self.peak_bytes = 0
        self.seconds: dict[str, list[float]] = {e.name: [] for e in program.equations}
        routes = routings(program)
        self.chosen = {name: np.zeros(1 + len(r.route.graphs), np.int64) for name, r in routes.items()}
        self.flips: dict[str, list[int]] = {}
        self._engines = {e.name: engines[e.graph] for e in program.equations if e.route is None}
        self._routers = {
            name: Router(r, {g: engines[g].session for g in r.equation.graphs}, in_flight)
            for name, r in routes.items()
        }
        self._choices: Choices = {}
        self._in_flight = in_flight
        self._finite = None if program.frame.pixels is None else program.frame.pixels.finite
        self._inside: dict[str, Element] = {}
        self._latency = analysis.latency(program)
        self._alive: dict[Element, Array] = {}
        self._zeros: dict[tuple[tuple[int, ...], str], Array] = {}

    def run(
        self,
        frames: Iterable[Array],
        *,
        total: int | None = None,
        chunk: int | None = None,
        look_ahead: int | None = None,
        choices: Choices | None = None,
    ) -> Iterator[Array]:
        """Upscale a clip. Outputs come as soon as they are known, one a frame, in order.

        Args:
            frames: elements of the input stream, in order; taken in only when needed.
            total: their number, if known.
            chunk: frames to emit between forgetting; None for the whole clip in one go. A program of bounded
                latency needs none: it runs on a stream of any length. Calls are batched within a chunk.
            look_ahead: frames a chunk looks beyond its own; None for the latency. Needed where the latency
                is the whole clip; then it decides how far the backward sweep starts beyond the chunk.
            choices: taken in place of what the program's equations choose (see `flips`).

        Raises:
            BadInputError: no frames, fewer frames than `total`, or a frame of another shape.
            OutputsDifferError: of a program over pixels, a picture made of NaN or infinities.
        """
        self.close_clip()
        self.peak_bytes = 0
        self._choices = choices or {}
        self.flips = {stream: [] for stream in self._choices}
        source = _Source(iter(frames), self.program, total)
        if chunk is None and self._latency is not None and total is None:
            chunk = self.least_chunk
        if chunk is None:
            count = total if total is not None else source.available(None)
            yield from self._execute(schedule(self.program, count, self._sizes), source)
        else:
            yield from self._run_chunks(source, chunk, self._latency if look_ahead is None else look_ahead)
        self.close_clip()

    @property
    def least_chunk(self) -> int:
        """Frames of a chunk that keep as many calls in flight, and together, as may be."""
        return max(self._in_flight, *self._sizes.values(), 1)

    @property
    def held_bytes(self) -> int:
        """Of the stream tensors that are alive now."""
        return sum(array.nbytes for array in (*self._alive.values(), *self._zeros.values()))

    def close_clip(self) -> None:
        """Forget every tensor and every state inside an engine."""
        self._alive.clear()
        self._zeros.clear()
        self._inside.clear()

    def _run_chunks(self, source: _Source, size: int, look_ahead: int | None) -> Iterator[Array]:
        planner = ChunkPlanner(self.program, self._sizes)
        first = 0
        while True:
            wanted = None if look_ahead is None else first + size + look_ahead
            # One frame more tells whether the clip goes on.
            there = source.available(None if wanted is None else wanted + 1)
            ended = wanted is None or there <= wanted
            end = there if wanted is None else min(there, wanted)
            stop = min(first + size, end)
            plan = planner.plan(Chunk(first, stop, end), end if ended else source.total)
            yield from self._execute(plan, source)
            first = stop
            if ended and stop == end:
                return

    def _execute(self, plan: Schedule, source: _Source) -> Iterator[Array]:
        yield from self._retire(plan.emits, plan.frees)
        running: deque[tuple[Group, Pending, float]] = deque()
        for group in plan.groups(self._sizes):
            while running and (len(running) >= self._in_flight or not all(map(self._ready, group))):
                yield from self._finish(*running.popleft())
            for t in (t for step in group for t in step.arrives):
                self._alive[Element(self.program.input, t)] = source.take(t)
            running.append((group, *self._issue(group)))
            self._measure(running)
        while running:
            yield from self._finish(*running.popleft())
        for t in plan.tail:
            frame, element = source.take(t), Element(self.program.input, t)
            if element in plan.kept:
                self._alive[element] = frame

    def _ready(self, step: Step) -> bool:
        return all(
            e is None or e in self._alive or e.stream == self.program.input for e in step.reads.values()
        )

    def _issue(self, group: Group) -> tuple[Pending, float]:
        step = group[0]
        name = step.call.equation
        engine = self._engines.get(name)
        if engine is not None:
            self._check_states(step, engine)
        values = [self._values(one, engine) for one in group]
        started = time.perf_counter()
        pending: Pending
        if engine is None:
            (single,) = values
            pending = self._routers[name].start(single)
            self.chosen[name] += np.bincount(single[CHOICE].ravel(), minlength=len(self.chosen[name]))
        else:
            session, feeds = engine.session, values[0]
            if len(group) > 1:
                session = self._batches[step.graph].session
                feeds = {given: np.concatenate([v[given] for v in values]) for given in feeds}
            pending = session.submit(feeds) if self._in_flight > 1 else Done(session.run(feeds))
        if self._in_flight == 1:
            self._time(group, started)
        return pending, started

    def _values(self, step: Step, engine: Engine | None) -> dict[str, Array]:
        return {
            given: self._alive[element] if element is not None else self._zero(step.zeros[given])
            for given, element in step.reads.items()
            if engine is None or given not in engine.stateful
        }

    def _time(self, group: Group, started: float) -> None:
        seconds = (time.perf_counter() - started) / len(group)
        for step in group:
            self.seconds[step.call.equation].append(seconds)

    def _finish(self, group: Group, pending: Pending, started: float) -> Iterator[Array]:
        together = pending.result()
        if self._in_flight > 1:
            self._time(group, started)
        for k, step in enumerate(group):
            outputs = together
            if len(group) > 1:
                outputs = {name: array[k : k + 1] for name, array in together.items()}
            for name, element in step.writes.items():
                if element.stream in self._choices:
                    given = self._choices[element.stream][element.t]
                    self.flips[element.stream].append(int(np.count_nonzero(outputs[name] != given)))
                    outputs = {**outputs, name: given}
            if self._finite is not None:
                self._check_finite(step, outputs)
            for name, element in step.writes.items():
                self._alive[element] = outputs[name] if name in outputs else np.empty(0, np.float32)
        self._measure(())
        for step in group:
            yield from self._retire(step.emits, step.frees)

    def _retire(self, emits: Iterable[Element], frees: Iterable[Element]) -> Iterator[Array]:
        outputs = deque(self._alive[element] for element in emits)
        for element in frees:
            del self._alive[element]
        while outputs:
            yield outputs.popleft()

    def _check_finite(self, step: Step, outputs: Outputs) -> None:
        for name, element in step.writes.items():
            if element.stream == self._finite and not np.isfinite(outputs[name]).all():
                raise OutputsDifferError(NOT_FINITE)

    def _check_states(self, step: Step, engine: Engine) -> None:
        """A state inside an engine is its last output: the schedule must ask for just that, or for zeros."""
        for name, output in engine.stateful.items():
            asked = step.reads[name]
            if asked is None:
                engine.session.reset()
            elif asked != self._inside.get(step.call.equation):
                raise BadInputError(
                    f"equation {step.call.equation} needs {asked} as its state, but the engine holds "
                    f"{self._inside.get(step.call.equation)}: compile it with host states"
                )
            self._inside[step.call.equation] = step.writes[output]

    def _zero(self, stream: str) -> Array:
        shape, dtype = self.program.sizes(stream), self.program.streams[stream].dtype
        if (shape, dtype) not in self._zeros:
            self._zeros[shape, dtype] = np.zeros(shape, dtype)
        return self._zeros[shape, dtype]

    def _measure(self, running: Iterable[tuple[Group, Pending, float]]) -> None:
        height, width = self.program.frame.padded
        coming = sum(
            self.program.streams[e.stream].nbytes(height, width)
            for group, _, _ in running
            for step in group
            for e in step.writes.values()
            if e not in self._alive
        )
        self.peak_bytes = max(self.peak_bytes, self.held_bytes + coming)


class _Source:
    """Frames taken from an iterator as they are needed, checked against the program's input stream."""

    def __init__(self, frames: Iterator[Array], program: Program, total: int | None) -> None:
        self.total = total
        self._frames = frames
        self._shape = program.sizes(program.input)
        self._dtype = program.streams[program.input].dtype
        self._buffer: deque[Array] = deque()
        self._taken = 0

    def available(self, wanted: int | None) -> int:
        """How many frames the clip is known to have, after reading up to `wanted` of them (None: all)."""
        if self.total is not None:
            return self.total if wanted is None else min(self.total, wanted)
        while wanted is None or self._taken + len(self._buffer) < wanted:
            frame = next(self._frames, None)
            if frame is None:
                self.total = self._taken + len(self._buffer)
                break
            self._buffer.append(self._checked(frame))
        if self.total == 0:
            raise BadInputError("the clip has no frames")
        return self._taken + len(self._buffer)

    def take(self, t: int) -> Array:
        """Frame t; frames are taken in order."""
        assert t == self._taken
        if self._buffer:
            frame = self._buffer.popleft()
        else:
            following = next(self._frames, None)
            if following is None:
                raise BadInputError(f"the clip ended after {t} frames, {self.total} were announced")
            frame = self._checked(following)
        self._taken += 1
        return frame

    def _checked(self, frame: Array) -> Array:
        if frame.shape != self._shape or frame.dtype != self._dtype:
            raise BadInputError(
                f"frame {self._taken + len(self._buffer)} is {frame.dtype} {frame.shape}, "
                f"the program takes {self._dtype} {self._shape}: export it for this frame size"
            )
        return frame
