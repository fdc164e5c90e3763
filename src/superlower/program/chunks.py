"""Cutting a long clip into chunks: what each computes anew, what it takes over, and when that is exact.

A chunk emits frames [first, stop) and looks ahead to frame `end`: it is the program over the clip's first
`end` frames. Elements before `stop` are taken over by the next chunk as they are, later ones only if they are
final: the same however long the clip goes on. So the past is never computed twice, and only what depends on
frames beyond `end` (a backward sweep's hidden state) is approximate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from superlower.program.batches import gathered
from superlower.program.legality import horizon, period
from superlower.program.model import Program
from superlower.program.schedule import Schedule, build
from superlower.program.unroll import Call, Element, Unrolled


@dataclass(frozen=True)
class Chunk:
    """Frames [first, stop) are emitted; frames before `end` are looked at."""

    first: int
    stop: int
    end: int


def cut(frames: int, size: int, look_ahead: int | None) -> list[Chunk]:
    """Chunks of `size` frames over a clip of known length; `look_ahead` frames further, None for all."""
    chunks = []
    for first in range(0, frames, size):
        stop = min(first + size, frames)
        end = frames if look_ahead is None else min(stop + look_ahead, frames)
        chunks.append(Chunk(first, stop, end))
    return chunks


class ChunkPlanner:
    """Schedules chunk after chunk, keeping account of what the chunks before have left."""

    def __init__(self, program: Program, sizes: Mapping[str, int] | None = None) -> None:
        """Args:
        program: a legal program.
        sizes: graph -> calls that it takes at once; they are brought together within a chunk.
        """
        self.program = program
        self._sizes = dict(sizes or {})
        self.held: frozenset[Element] = frozenset()
        self.arrived = 0
        self._beyond = horizon(program)
        self._period = period(program)
        self._planned: dict[object, tuple[int, Schedule]] = {}

    def plan(self, chunk: Chunk, frames: int | None) -> Schedule:
        """The schedule of the next chunk.

        Args:
            chunk: starts where the chunk before stopped.
            frames: the clip's length; None while it isn't known (it goes on beyond `chunk.end`).
        """
        key = self._key(chunk, frames)
        if key in self._planned:
            first, before = self._planned[key]
            plan = before.shifted(chunk.first - first)
        else:
            plan = self._plan(chunk, frames)
            if key is not None:
                self._planned[key] = chunk.first, plan
        self.held, self.arrived = plan.kept, chunk.end
        return plan

    def _key(self, chunk: Chunk, frames: int | None) -> object:
        """What the plan of a chunk away from both ends of the clip depends on; None near the ends.

        There the program is the same at every period, so a plan made once serves, moved in time.
        """
        if chunk.first < self._beyond or (frames is not None and frames < chunk.end + self._beyond):
            return None
        held = frozenset((e.stream, e.t - chunk.first) for e in self.held)
        sizes = (chunk.stop - chunk.first, chunk.end - chunk.first, self.arrived - chunk.first)
        return chunk.first % self._period, sizes, held, frames is None

    def _plan(self, chunk: Chunk, frames: int | None) -> Schedule:
        now = Unrolled(self.program, chunk.end)
        calls = now.order(
            [Element(self.program.output, t) for t in range(chunk.first, chunk.stop)], self.held
        )
        keep: frozenset[Element] = frozenset()
        if chunk.stop != frames:
            keep = self._needed(now, calls, chunk, frames)
        return build(
            now,
            range(chunk.first, chunk.stop),
            held=self.held,
            keep=keep,
            arrived=self.arrived,
            arrive_to=chunk.end,
            order=gathered(now, calls, self.held, self._sizes),
        )

    def _lengths(self, chunk: Chunk, frames: int | None) -> Iterable[int]:
        """Clip lengths to prepare for: where unknown, the clip may end within reach of what is held now."""
        if frames is not None:
            return (min(frames, chunk.end + self._beyond),)
        return range(chunk.end + 1, chunk.end + self._beyond + 1)

    def _needed(
        self, now: Unrolled, calls: list[Call], chunk: Chunk, frames: int | None
    ) -> frozenset[Element]:
        """What later chunks read or emit of what is there after this one."""
        futures = [Unrolled(self.program, length) for length in self._lengths(chunk, frames)]
        written = {e for call in calls for e in now.writes(call).values()}
        certain = set(written)
        for later in futures:
            certain &= set(final(now, later, calls, self.held))
        there = self.held | certain | {e for e in written if e.t < chunk.stop}
        inputs = {Element(self.program.input, t) for t in range(self.arrived, chunk.end)}
        read: set[Element | None] = set()
        for later in futures:
            wanted = [Element(self.program.output, t) for t in range(chunk.stop, later.frames)]
            read |= {e for call in later.order(wanted, frozenset(there)) for e in later.reads(call).values()}
        to_emit = {e for e in there if e.stream == self.program.output and e.t >= chunk.stop}
        return frozenset((there | inputs) & read) | to_emit


def kept_bytes(program: Program, size: int, look_ahead: int) -> int:
    """Largest sum of stream tensors kept from a chunk for the next, in bytes.

    Args:
        program: a legal program.
        size: frames a chunk.
        look_ahead: frames a chunk looks beyond its own.
    """
    planner = ChunkPlanner(program)
    streams, sides = program.streams, program.frame.padded
    # Beyond the clip's beginning chunks repeat with the period.
    chunks = 2 + -(-(horizon(program) + period(program)) // size)
    cuts = [Chunk(i * size, (i + 1) * size, (i + 1) * size + look_ahead) for i in range(chunks)]
    plans = (planner.plan(chunk, None) for chunk in cuts)
    return max(sum(streams[e.stream].nbytes(*sides) for e in plan.kept) for plan in plans)


def final(
    now: Unrolled, later: Unrolled, calls: Iterable[Call], held: frozenset[Element] = frozenset()
) -> Iterator[Element]:
    """What `calls` (in a legal order) write over `now` that has the same value over the longer `later`."""
    certain = set(held)
    for call in calls:
        if not later.holds(call.equation, call.t):
            continue
        reads, then = now.reads(call), later.reads(call)
        if reads == then and all(
            e is None or e in certain or e.stream == now.program.input for e in reads.values()
        ):
            written = now.writes(call).values()
            certain |= set(written)
            yield from written
