"""A program over a clip of a known number of frames: what writes each element, and what each call reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from superlower.errors import BadInputError
from superlower.program import when
from superlower.program.model import Edge, Equation, Program, Read


class Element(NamedTuple):
    """The tensor of a stream at frame t."""

    stream: str
    t: int

    def __str__(self) -> str:
        return f"{self.stream}[{self.t}]"


class Call(NamedTuple):
    """One evaluation of an equation, at frame t."""

    equation: str
    t: int

    def __str__(self) -> str:
        return f"{self.equation}@{self.t}"


class Unrolled:
    """The elements and calls of a program over `frames` frames."""

    def __init__(self, program: Program, frames: int) -> None:
        if frames < 1:
            raise BadInputError(f"a clip has at least one frame, not {frames}")
        self.program = program
        self.frames = frames
        self.equations = {e.name: e for e in program.equations}
        self._reads = {e.name: e.reads for e in program.equations}
        self._holds = {e.name: when.parse(e.when) for e in program.equations}
        self._writers: dict[str, list[Equation]] = {}
        for equation in program.equations:
            for stream in equation.outputs.values():
                self._writers.setdefault(stream, []).append(equation)

    def holds(self, equation: str, t: int) -> bool:
        """Whether the equation is evaluated at frame t."""
        return self._holds[equation](t, self.frames)

    def calls(self) -> Iterator[Call]:
        """Every call of the clip, frame by frame."""
        for t in range(self.frames):
            for name in self.equations:
                if self.holds(name, t):
                    yield Call(name, t)

    def writer(self, element: Element) -> Call | None:
        """The call that writes an element inside the clip; None for the input and for what nothing writes.

        Raises:
            BadInputError: two equations write it.
        """
        found = [e.name for e in self._writers.get(element.stream, ()) if self.holds(e.name, element.t)]
        if len(found) > 1:
            raise BadInputError(
                f"stream {element.stream} is written twice at t={element.t} of {self.frames} frames, by "
                f"{found[0]} and {found[1]}: their when predicates overlap"
            )
        return Call(found[0], element.t) if found else None

    def resolve(self, read: Read, t: int) -> Element | None:
        """The element a read at frame t takes its value from; None for zeros.

        Raises:
            BadInputError: the element is inside the clip, nothing writes it, and the edge isn't zeros.
        """
        stream = self.program.streams[read.stream]
        index = t + read.offset
        if not 0 <= index < self.frames:
            if stream.edge is Edge.ZEROS:
                return None
            index = _mirror(index, self.frames) if stream.edge is Edge.REFLECT else index
            index = min(max(index, 0), self.frames - 1)
        element = Element(read.stream, index)
        if read.stream == self.program.input or self.writer(element) is not None:
            return element
        if stream.edge is Edge.ZEROS:
            return None
        raise BadInputError(
            f"{read} at t={t} of {self.frames} frames reads {element}, which no equation writes: "
            f"give an equation for it, or edge zeros"
        )

    def reads(self, call: Call) -> dict[str, Element | None]:
        """What a call reads, by the names of `Equation.reads` -> element, None for zeros."""
        return {name: self.resolve(read, call.t) for name, read in self._reads[call.equation].items()}

    def writes(self, call: Call) -> dict[str, Element]:
        """Graph output name -> element written."""
        outputs = self.equations[call.equation].outputs
        return {name: Element(stream, call.t) for name, stream in outputs.items()}

    def order(self, wanted: Iterable[Element], have: frozenset[Element] = frozenset()) -> list[Call]:
        """Calls that compute the wanted elements from those already there, each after what it reads.

        Depth first from the wanted elements in the order given, so an element is made shortly before its use.

        Raises:
            BadInputError: a cyclic read (the cycle is named), or a wanted element nothing writes.
        """
        order: list[Call] = []
        state: dict[Call, bool] = {}
        for goal in wanted:
            if goal in have or goal.stream == self.program.input:
                continue
            first = self.writer(goal)
            if first is None:
                raise BadInputError(f"no equation writes {goal} in a clip of {self.frames} frames")
            path = [(first, self._needs(first, have))]
            if first in state:
                continue
            state[first] = False
            while path:
                call, needs = path[-1]
                need = next(needs, None)
                if need is None:
                    state[call] = True
                    order.append(call)
                    path.pop()
                elif need not in state:
                    state[need] = False
                    path.append((need, self._needs(need, have)))
                elif not state[need]:
                    cycle = [c for c, _ in path]
                    cycle = [*cycle[cycle.index(need) :], need]
                    raise BadInputError(
                        f"cyclic read in a clip of {self.frames} frames: {' reads '.join(map(str, cycle))}"
                    )
        return order

    def _needs(self, call: Call, have: frozenset[Element]) -> Iterator[Call]:
        for element in self.reads(call).values():
            if element is None or element in have or element.stream == self.program.input:
                continue
            writer = self.writer(element)
            assert writer is not None
            yield writer


def _mirror(index: int, frames: int) -> int:
    period = max(2 * (frames - 1), 1)
    index %= period
    return min(index, period - index)
