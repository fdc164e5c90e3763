"""What the equations alone tell: causality, latency, states, and which calls don't wait for one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import msgspec

from superlower.program.chunks import final
from superlower.program.legality import horizon, period
from superlower.program.model import CHOICE, Program
from superlower.program.routes import Choices, routings
from superlower.program.schedule import schedule
from superlower.program.unroll import Call, Element, Unrolled


class Direction(StrEnum):
    """How a stream runs over time."""

    NONE = "none"
    """Not recurrent: no element depends on another of the same stream."""
    FORWARD = "forward"
    """Causal recurrence: elements depend on earlier ones."""
    BACKWARD = "backward"
    """Anti-causal recurrence: elements depend on later ones."""
    MIXED = "mixed"
    """Both, at different frames (as in a hierarchy of keyframes)."""


@dataclass(frozen=True)
class StreamFacts:
    """What is known of a stream.

    Attributes:
        direction: recurrence over time.
        look_ahead: frames after t that element t depends on; None for all of them (the whole clip).
        state: whether it is a hidden state: recurrent, and read at another t than it is written.
        nbytes: bytes of one element at the program's frame size.
    """

    direction: Direction
    look_ahead: int | None
    state: bool
    nbytes: int


@dataclass(frozen=True)
class Facts:
    """What the equations tell of a program.

    Attributes:
        streams: facts by stream.
        latency: frames after t that must have arrived before output t can be given; None for the whole clip.
        batchable: equations whose calls at different frames never wait for one another.
        independent: (a, b, d): a at t and b at t + d never wait for one another; d in -1, 0, 1.
    """

    streams: dict[str, StreamFacts]
    latency: int | None
    batchable: tuple[str, ...]
    independent: tuple[tuple[str, str, int], ...]


def analyze(program: Program) -> Facts:
    """Derive the facts of a legal program."""
    height, width = program.frame.padded
    ahead = _look_ahead(program)
    shifted = {r.stream for e in program.equations for r in e.reads.values() if r.offset}
    streams = {}
    for name, direction in directions(program).items():
        streams[name] = StreamFacts(
            direction=direction,
            look_ahead=ahead[name],
            state=direction is not Direction.NONE and name in shifted,
            nbytes=program.streams[name].nbytes(height, width),
        )
    recurrent = {n for n, s in streams.items() if s.direction is not Direction.NONE}
    batchable = tuple(e.name for e in program.equations if not recurrent & set(e.outputs.values()))
    return Facts(streams, ahead[program.output], batchable, _independent(program))


def latency(program: Program) -> int | None:
    """Frames after t that must have arrived before output t can be given; None for the whole clip."""
    return _look_ahead(program)[program.output]


def directions(program: Program) -> dict[str, Direction]:
    """How each stream runs over time; seen in the equations at once, without unrolling them."""
    feeds = _dependences(program)
    return {name: _direction(name, feeds) for name in program.streams}


def peak_bytes(
    program: Program,
    frames: int,
    height: int,
    width: int,
    in_flight: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> int:
    """Peak stream memory of a whole clip in bytes, for a low-resolution frame of `height` x `width`.

    Args: the rest as of `Schedule.peak_bytes`.
    """
    resized = msgspec.structs.replace(program.frame, height=height, width=width)
    return schedule(program, frames, sizes).peak_bytes(*resized.padded, in_flight=in_flight, sizes=sizes)


def batchable_graphs(program: Program) -> frozenset[str]:
    """Graphs no call of which waits for another: those may run several frames at once."""
    runs = directions(program)
    waits = {
        name
        for e in program.equations
        if e.route is not None or any(runs[s] is not Direction.NONE for s in e.outputs.values())
        for name in e.graphs
    }
    return frozenset(name for e in program.equations for name in e.graphs) - waits


def graph_calls(program: Program, frames: int, choices: Choices | None = None) -> Counter[str]:
    """How often each graph is called over a clip; calls that its ends don't need aren't counted.

    Args:
        program: a legal program.
        frames: of the clip.
        choices: of its routes; by default every patch chooses the last graph.
    """
    routes = routings(program)
    calls: Counter[str] = Counter()
    for step in schedule(program, frames).steps:
        route = routes.get(step.call.equation)
        if route is None:
            calls[step.graph] += 1
        elif choices is None:
            calls += route.calls()
        elif (element := step.reads[CHOICE]) is not None:
            calls += route.calls(choices[element.stream][element.t])
    return calls


def _dependences(program: Program) -> dict[str, set[tuple[str, int]]]:
    """Stream -> (stream read, offset) for the equations that write it."""
    found: dict[str, set[tuple[str, int]]] = {name: set() for name in program.streams}
    for equation in program.equations:
        for stream in equation.outputs.values():
            found[stream] |= {(r.stream, r.offset) for r in equation.reads.values()}
    return found


def _reachable(start: str, feeds: dict[str, set[tuple[str, int]]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name, _ in feeds[todo.pop()]:
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen


def _direction(stream: str, feeds: dict[str, set[tuple[str, int]]]) -> Direction:
    component = {n for n in _reachable(stream, feeds) if stream in _reachable(n, feeds)}
    offsets = {o for n in component for name, o in feeds[n] if name in component}
    past, future = any(o < 0 for o in offsets), any(o > 0 for o in offsets)
    if past and future:
        return Direction.MIXED
    return Direction.FORWARD if past else Direction.BACKWARD if future else Direction.NONE


def _look_ahead(program: Program) -> dict[str, int | None]:
    """By stream: with how many frames beyond t known an element can no longer change.

    Seen by unrolling: over a clip cut at `end`, the elements that a longer clip would change are the last few
    before `end`, or, for a stream that depends on the whole clip, nearly all. Short clips count too: a
    reflected first frame reads ahead where no later one does.
    """
    return dict(_look_ahead_of(msgspec.json.encode(program)))


@lru_cache(maxsize=32)
def _look_ahead_of(program_json: bytes) -> dict[str, int | None]:
    program = msgspec.json.decode(program_json, type=Program)
    reach = horizon(program)
    ahead: dict[str, int | None] = dict.fromkeys(program.streams, 0)
    # Short clips show the start, long ones the rest at every phase, and what depends on the whole clip.
    for end in (*range(1, reach + 1), *range(3 * reach, 3 * reach + period(program))):
        now, later = Unrolled(program, end), Unrolled(program, end + reach)
        calls = now.order([Element(program.output, t) for t in range(end)])
        longer = later.order([Element(program.output, t) for t in range(later.frames)])
        written = {e for call in (*calls, *longer) for e in now.writes(call).values() if e.t < end}
        undecided = written - set(final(now, later, calls))
        for name in program.streams:
            open_from = min((e.t for e in undecided if e.stream == name), default=end)
            known = ahead[name]
            if end - open_from > 2 * reach:
                ahead[name] = None
            elif known is not None:
                ahead[name] = max(known, end - open_from)
    return ahead


@lru_cache(maxsize=32)
def _ancestors(program_json: bytes) -> dict[Call, frozenset[Call]]:
    program = msgspec.json.decode(program_json, type=Program)
    unrolled = Unrolled(program, max(horizon(program), 6))
    found: dict[Call, frozenset[Call]] = {}
    for call in unrolled.order([Element(program.output, t) for t in range(unrolled.frames)]):
        before: set[Call] = set()
        for element in unrolled.reads(call).values():
            writer = unrolled.writer(element) if element is not None else None
            if writer is not None:
                before |= {writer} | found[writer]
        found[call] = frozenset(before)
    return found


def _independent(program: Program) -> tuple[tuple[str, str, int], ...]:
    before = _ancestors(msgspec.json.encode(program))
    found = []
    for a in sorted(e.name for e in program.equations):
        for b in sorted(e.name for e in program.equations):
            for d in (-1, 0, 1):
                if a > b or (a == b and d <= 0):
                    continue
                pairs = [(c, o) for c in before if c.equation == a and (o := Call(b, c.t + d)) in before]
                if pairs and all(c not in before[o] and o not in before[c] for c, o in pairs):
                    found.append((a, b, d))
    return tuple(found)
