"""In which order a clip is computed, when each tensor is born and dies, and so the streams' peak memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from superlower.program.batches import gathered
from superlower.program.model import Program
from superlower.program.unroll import Call, Element, Unrolled


@dataclass(frozen=True)
class Step:
    """One call of a schedule.

    Attributes:
        call: the equation and frame.
        graph: the graph it calls; of a routed equation, the whole frame's form or empty.
        reads: what it reads, by the names of `Equation.reads` -> element, None for zeros.
        zeros: such a name -> stream whose shape the zeros have.
        writes: graph output name -> element.
        arrives: input frames to take in before the call; frames arrive in order.
        emits: output elements complete after it, in frame order.
        frees: elements nothing uses after it.
    """

    call: Call
    graph: str
    reads: dict[str, Element | None]
    zeros: dict[str, str]
    writes: dict[str, Element]
    arrives: range
    emits: tuple[Element, ...]
    frees: tuple[Element, ...]


@dataclass(frozen=True)
class Schedule:
    """Steps in issue order. A step may start once what it reads is there.

    Attributes:
        program: what is computed.
        steps: the calls.
        held: elements alive before the first step, from an earlier chunk.
        emits: output elements among them, to emit before the first step.
        frees: elements among them that are of no more use once those are emitted.
        kept: elements alive after the last step, for the next chunk.
        tail: input frames to take in after the last step, so that the input is read to its end.
    """

    program: Program
    steps: tuple[Step, ...]
    held: frozenset[Element]
    emits: tuple[Element, ...]
    frees: tuple[Element, ...]
    kept: frozenset[Element]
    tail: range

    def groups(self, sizes: Mapping[str, int]) -> Iterator[tuple[Step, ...]]:
        """The steps one by one, or so many of one graph in a row that don't wait for one another.

        Args:
            sizes: graph -> calls that it takes at once; fewer in a row come one by one.
        """
        waiting: list[Step] = []
        made: set[Element | None] = set()

        def apart() -> Iterator[tuple[Step, ...]]:
            yield from ((step,) for step in waiting)
            waiting.clear()
            made.clear()

        for step in self.steps:
            if waiting and (step.graph != waiting[0].graph or made & set(step.reads.values())):
                yield from apart()
            if step.graph not in sizes:
                yield (step,)
                continue
            waiting.append(step)
            made.update(step.writes.values())
            if len(waiting) == sizes[step.graph]:
                yield tuple(waiting)
                waiting.clear()
                made.clear()
        yield from apart()

    def peak_bytes(
        self, height: int, width: int, in_flight: int = 1, sizes: Mapping[str, int] | None = None
    ) -> int:
        """Largest sum of stream tensors alive at once, in bytes.

        Engines' own memory isn't in it, nor what is put together to feed them: windows of a route, stacked
        frames.

        Args:
            height, width: padded low-resolution frame size in pixels.
            in_flight: calls that may run at the same time, issued in order.
            sizes: graph -> calls that it takes at once.
        """
        streams = self.program.streams
        size = {name: stream.nbytes(height, width) for name, stream in streams.items()}
        zeros: set[tuple[tuple[int, ...], str]] = set()
        groups = list(self.groups(sizes or {}))
        frees = [sum(size[e.stream] for step in group for e in step.frees) for group in groups]
        alive = peak = sum(size[e.stream] for e in self.held)
        alive -= sum(size[e.stream] for e in self.frees)
        for i, group in enumerate(groups):
            # Before call i starts, only calls up to i - in_flight are sure to have ended and freed.
            if i >= in_flight:
                alive -= frees[i - in_flight]
            for step in group:
                for name in step.zeros.values():
                    # One array of zeros serves every read of its shape, from its first use on.
                    kind = (streams[name].sizes(height, width), streams[name].dtype)
                    alive += 0 if kind in zeros else size[name]
                    zeros.add(kind)
                alive += len(step.arrives) * size[self.program.input]
                alive += sum(size[e.stream] for e in step.writes.values())
            peak = max(peak, alive)
        return max(peak, sum(size[e.stream] for e in self.kept))

    def shifted(self, frames: int) -> Schedule:
        """The same schedule so many frames later in a longer clip."""

        def move(element: Element) -> Element:
            return Element(element.stream, element.t + frames)

        def moved(elements: Iterable[Element]) -> tuple[Element, ...]:
            return tuple(map(move, elements))

        steps = tuple(
            replace(
                step,
                call=Call(step.call.equation, step.call.t + frames),
                reads={n: None if e is None else move(e) for n, e in step.reads.items()},
                writes={n: move(e) for n, e in step.writes.items()},
                arrives=_later(step.arrives, frames),
                emits=moved(step.emits),
                frees=moved(step.frees),
            )
            for step in self.steps
        )
        return replace(
            self,
            steps=steps,
            held=frozenset(moved(self.held)),
            emits=moved(self.emits),
            frees=moved(self.frees),
            kept=frozenset(moved(self.kept)),
            tail=_later(self.tail, frames),
        )

    def waves(self) -> list[list[Step]]:
        """The steps by earliest time: those of one wave don't depend on one another."""
        made: dict[Element, int] = {}
        waves: list[list[Step]] = []
        for step in self.steps:
            level = max((made.get(e, -1) for e in step.reads.values() if e is not None), default=-1) + 1
            made.update(dict.fromkeys(step.writes.values(), level))
            while len(waves) <= level:
                waves.append([])
            waves[level].append(step)
        return waves


def _later(span: range, frames: int) -> range:
    return range(span.start + frames, span.stop + frames)


def schedule(program: Program, frames: int, sizes: Mapping[str, int] | None = None) -> Schedule:
    """The whole clip in one go.

    Args:
        sizes: graph -> calls that it takes at once; they are brought together (see `batches`).
    """
    unrolled = Unrolled(program, frames)
    calls = unrolled.order([Element(program.output, t) for t in range(frames)])
    return build(unrolled, range(frames), arrive_to=frames, order=gathered(unrolled, calls, (), sizes or {}))


def build(
    unrolled: Unrolled,
    outputs: range,
    *,
    held: frozenset[Element] = frozenset(),
    keep: frozenset[Element] = frozenset(),
    arrived: int = 0,
    arrive_to: int,
    order: Iterable[Call] | None = None,
) -> Schedule:
    """Schedule the calls that give some output frames.

    Args:
        unrolled: the program over a clip.
        outputs: frames of the output stream to compute and emit, in order.
        held: elements already there.
        keep: elements not to free (those of them that exist at the end are `kept`).
        arrived: input frames taken in before.
        arrive_to: input frames to have taken in at the end.
        order: calls in an order of one's own; every call after what it reads. Default: depth first.
    """
    program = unrolled.program
    wanted = [Element(program.output, t) for t in outputs]
    calls = list(order) if order is not None else unrolled.order(wanted, held)
    reads = [unrolled.reads(call) for call in calls]
    arrivals = _arrivals(program, reads, arrived)
    opening, emissions = _emissions(unrolled, calls, wanted, held)
    last = _last_uses(unrolled, calls, reads, arrivals, emissions)
    dying: list[list[Element]] = [[] for _ in calls]
    for element, index in last.items():
        if element not in keep:
            dying[index].append(element)
    steps = tuple(
        Step(
            call=call,
            graph=unrolled.equations[call.equation].graph,
            reads=reads[i],
            zeros={
                name: read.stream
                for name, read in unrolled.equations[call.equation].reads.items()
                if reads[i][name] is None
            },
            writes=unrolled.writes(call),
            arrives=arrivals[i],
            emits=emissions[i],
            frees=tuple(sorted(dying[i])),
        )
        for i, call in enumerate(calls)
    )
    tail = range(arrivals[-1].stop if calls else arrived, arrive_to)
    late = {Element(program.input, t) for t in tail}
    return Schedule(
        program=program,
        steps=steps,
        held=held,
        emits=opening,
        frees=tuple(sorted(held - keep - last.keys())),
        kept=keep & (held | last.keys() | late),
        tail=tail,
    )


def _arrivals(program: Program, reads: list[dict[str, Element | None]], arrived: int) -> list[range]:
    arrivals = []
    for elements in reads:
        frames = [e.t for e in elements.values() if e is not None and e.stream == program.input]
        newest = max(frames, default=-1)
        arrivals.append(range(arrived, max(arrived, newest + 1)))
        arrived = arrivals[-1].stop
    return arrivals


def _emissions(
    unrolled: Unrolled, calls: list[Call], wanted: list[Element], held: frozenset[Element]
) -> tuple[tuple[Element, ...], list[tuple[Element, ...]]]:
    """What can be emitted before the first call, and after each."""
    done = set(held)
    waiting = deque(wanted)

    def ready() -> Iterator[Element]:
        while waiting and waiting[0] in done:
            yield waiting.popleft()

    opening = tuple(ready())
    emissions = []
    for call in calls:
        done |= set(unrolled.writes(call).values())
        emissions.append(tuple(ready()))
    return opening, emissions


def _last_uses(
    unrolled: Unrolled,
    calls: list[Call],
    reads: list[dict[str, Element | None]],
    arrivals: list[range],
    emissions: list[tuple[Element, ...]],
) -> dict[Element, int]:
    """The index of the step after which each element that the steps touch is of no more use to them."""
    last: dict[Element, int] = {}
    for i, call in enumerate(calls):
        touched = [
            *(Element(unrolled.program.input, t) for t in arrivals[i]),
            *unrolled.writes(call).values(),
            *(e for e in reads[i].values() if e is not None),
            *emissions[i],
        ]
        last.update(dict.fromkeys(touched, i))
    return last
