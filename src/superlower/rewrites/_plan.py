"""Which expressions of a program are worth an equation of their own, and at which frames those hold.

The element g[t] of a hoisted expression is its value at shift 0. Outside the clip, what a graph computed of
frames read beyond the end must be what the stream's edge gives. For a function of one element, with frames
replicated or reflected, it is: the edge picks another index, and function and index commute. For a function
of several frames it isn't (at t = -1, a pair of replicated frames is frame 0 twice, which no g[t] is): such
streams are read inside the clip only, and near its ends the equation stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from superlower.program import when
from superlower.program.legality import horizon
from superlower.program.model import Edge, Program
from superlower.rewrites._expressions import At, Expression, walk

COSTLY = frozenset({"Conv", "ConvTranspose", "DeformConv", "Einsum", "Gemm", "GridSample", "MatMul"})
"""What makes a stream worth its memory; all else is as fast computed again as read."""

OFTEN = 1.25
"""Computations for each element that make a stream of it: what only a clip's first frames have in common, or
every fourth frame or so, isn't worth a graph of its own."""

SELDOM = 0.05
"""Computations saved a frame that aren't worth it either, however often an element is computed again."""

SHORTEST = 1000
"""Frames of the clip that these are counted over, at least: its ends must not weigh."""

VIEWS = frozenset(
    {
        "Cast",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""What is computed again by each reader of its operand."""


@dataclass(frozen=True)
class Span:
    """Frames `first` <= t < T - `last`, of a clip of T."""

    first: int = 0
    last: int = 0

    def met(self, other: Span, offset: int) -> Span:
        """The frames of these where t + offset lies in the other."""
        return Span(max(self.first, other.first - offset), max(self.last, other.last + offset))

    def __contains__(self, frame: tuple[int, int]) -> bool:
        t, frames = frame
        return self.first <= t < frames - self.last

    def text(self) -> str:
        """As a `when` predicate."""
        last = f"t < T - {self.last}" if self.last else ""
        return " and ".join(filter(None, (f"t >= {self.first}" if self.first else "", last))) or "true"

    def outside(self) -> str:
        """The other frames of the clip."""
        last = f"t >= T - {self.last}" if self.last else ""
        return " or ".join(filter(None, (f"t < {self.first}" if self.first else "", last)))


@dataclass(frozen=True)
class Plan:
    """Expressions to be hoisted.

    Attributes:
        whole: those whose streams may be read beyond the clip's ends.
        inside: those whose streams may not, with the frames where they can be computed.
        spans: equation -> frames at which it may read all of them, where there are others.
        apart: equations that can't read those of `inside` at any frame.
    """

    whole: frozenset[Expression]
    inside: Mapping[Expression, Span]
    spans: Mapping[str, Span]
    apart: frozenset[str]

    def hoisted(self, equation: str) -> frozenset[Expression]:
        """What the equation reads as streams."""
        return self.whole if equation in self.apart else self.whole | self.inside.keys()


def plan(program: Program, equations: Mapping[str, Mapping[str, At]], ends: bool) -> Plan:
    """Choose what to hoist.

    Args:
        equations: name -> graph output -> value.
        ends: whether equations may be kept in two forms, for the clip's middle and its ends.
    """
    apart = frozenset() if ends else frozenset(equations)
    while True:
        chosen = _worth(program, equations, apart)
        chosen = _read_twice(equations, chosen, apart, program)
        whole = frozenset(e for e in chosen if commutes(e, program))
        inside = _spans(chosen - whole, chosen)
        spans: dict[str, Span] = {}
        never: set[str] = set()
        for name, outputs in equations.items():
            read = {} if name in apart else inside
            span = Span()
            for at in frontier(outputs.values(), whole | read.keys()):
                if at.expression in read:
                    span = span.met(read[at.expression], at.shift)
            frames = {where in span for where in _evaluated(program, name, span)}
            if False in frames:
                spans[name] = span
            if True not in frames:
                never.add(name)
        if not never:
            return Plan(whole, inside, spans, apart)
        apart |= never


def commutes(expression: Expression, program: Program) -> bool:
    """Whether an edge of the stream read is the same edge of the expression's own stream."""
    streams = {read.stream for read in expression.reads}
    return len(expression.reads) == 1 and all(
        program.streams[stream].edge in (Edge.REPLICATE, Edge.REFLECT) for stream in streams
    )


def frontier(roots: Iterable[At], hoisted: Iterable[Expression]) -> list[At]:
    """What the roots read of the hoisted expressions, in a stable order; not what those read in turn."""
    stop = frozenset(hoisted)
    return sorted(
        (at for at in walk(roots, stop) if at.expression in stop),
        key=lambda at: (at.expression.hint, at.expression.output, at.shift),
    )


def entries(expression: Expression, hoisted: Iterable[Expression]) -> list[At]:
    """What a hoisted expression's equation reads of those of other frames; its own frames' it computes."""
    return frontier(expression.operands, (h for h in hoisted if h.reads != expression.reads))


def _worth(
    program: Program, equations: Mapping[str, Mapping[str, At]], apart: frozenset[str]
) -> frozenset[Expression]:
    """Costly expressions that are computed again often enough."""
    places: dict[Expression, set[tuple[str, int]]] = {}
    for name, outputs in equations.items():
        for at in walk(outputs.values()):
            if at.expression.reads and (name not in apart or commutes(at.expression, program)):
                places.setdefault(at.expression, set()).add((name, at.shift))
    again = Recomputed(program)
    costs: dict[Expression, bool] = {}
    found = (e for e, where in places.items() if again.worth(frozenset(where)))
    return frozenset(e for e in found if e.op not in VIEWS and _costly(e, costs))


class Recomputed:
    """How often elements are computed again, over a clip that is long beside all that it begins with."""

    def __init__(self, program: Program) -> None:
        frames = max(horizon(program), SHORTEST)
        self.frames = range(frames)
        self.times = {
            e.name: [t for t in self.frames if when.parse(e.when)(t, frames)] for e in program.equations
        }
        self.known: dict[frozenset[tuple[str, int]], bool] = {}

    def worth(self, places: frozenset[tuple[str, int]]) -> bool:
        """Whether something at these shifts in these equations is, at `OFTEN`."""
        if places not in self.known:
            computed = [t + shift for name, shift in places for t in self.times[name]]
            inside = [t for t in computed if t in self.frames]
            elements = len(set(inside))
            saved = len(inside) - elements
            self.known[places] = saved >= max((OFTEN - 1) * elements, SELDOM * len(self.frames))
        return self.known[places]


def _costly(expression: Expression, known: dict[Expression, bool]) -> bool:
    """Whether it does something costly beyond what it has from expressions of fewer frames."""
    todo = [expression]
    while todo:
        now = todo[-1]
        operands = [at.expression for at in now.operands if at.expression.reads == now.reads]
        missing = [] if now in known else [e for e in operands if e not in known]
        todo += missing
        if not missing:
            known[todo.pop()] = now.op in COSTLY or any(known[e] for e in operands)
    return known[expression]


def _read_twice(
    equations: Mapping[str, Mapping[str, At]],
    chosen: frozenset[Expression],
    apart: frozenset[str],
    program: Program,
) -> frozenset[Expression]:
    """Of the chosen, those that are read from outside, but for those that one reader reads at one shift.

    The latter stay where another hoisted expression of the same frames contains them: they cost nothing.
    """
    while True:
        readers: dict[Expression, set[tuple[object, int]]] = {}
        for name, outputs in equations.items():
            mine = {e for e in chosen if name not in apart or commutes(e, program)}
            for at in frontier(outputs.values(), mine):
                readers.setdefault(at.expression, set()).add((name, at.shift))
        todo = list(readers)
        seen = set(todo)
        while todo:
            expression = todo.pop()
            for at in entries(expression, chosen):
                readers.setdefault(at.expression, set()).add((expression.reads, at.shift))
                if at.expression not in seen:
                    seen.add(at.expression)
                    todo.append(at.expression)
        crossing = frozenset(readers)
        idle = {
            e
            for e in crossing
            if len(readers[e]) == 1
            and not any(o is not e and o.reads == e.reads and _contains(o, e) for o in crossing)
        }
        if not idle:
            return crossing
        chosen -= idle


def _contains(whole: Expression, part: Expression) -> bool:
    return any(at.expression is part for at in walk([At(whole, 0)]))


def _spans(inside: frozenset[Expression], hoisted: frozenset[Expression]) -> dict[Expression, Span]:
    """Where each can be computed; those of the same frames share an equation, and so a span."""
    spans: dict[Expression, Span] = {}
    for reads in sorted({e.reads for e in inside}, key=len):
        members = [e for e in inside if e.reads == reads]
        span = Span()
        for at in (at for e in members for at in entries(e, hoisted)):
            span = span.met(spans[at.expression], at.shift) if at.expression in spans else span
        spans |= dict.fromkeys(members, span)
    return spans


def _evaluated(program: Program, equation: str, span: Span) -> Iterator[tuple[int, int]]:
    """Frames t of clips of T at which the equation is evaluated; all there are to tell about the span."""
    (text,) = (e.when for e in program.equations if e.name == equation)
    holds = when.parse(text)
    longest = horizon(program) + 2 * (span.first + span.last) + 1
    return ((t, frames) for frames in range(1, longest + 1) for t in range(frames) if holds(t, frames))
