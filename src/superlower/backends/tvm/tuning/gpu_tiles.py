"""Tiles of the default GPU schedule in sizes that the search draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from superlower.backends.tvm.gpu_schedule import VECTOR_BYTES, WARP, Cut, Roles, apply_schedule

MOST_VECTORS, MOST_ROWS = 4, 8
"""Vectors of channels and rows that a thread may hold: beyond them registers spill."""
MOST_GROUPS, MOST_LINES = 8, 8
"""Threads along channels and rows; blocks of too many are refused when they are drawn."""
MOST_CHUNK = 32
"""Input channels that a block loads at a time."""


@dataclass(frozen=True)
class _Sampled:
    """Tiles of sizes that divide the output, and of whole vectors of channels."""

    def cut(self, schedule: Any, roles: Roles, loops: Sequence[Any]) -> Cut:
        lanes = VECTOR_BYTES // roles.itemsize
        while roles.extents[roles.channel] % lanes:
            lanes //= 2
        vectors, lane = schedule.split(loops[0], factors=[None, lanes])
        (channel, group, held), groups = _two(schedule, vectors, MOST_GROUPS, MOST_VECTORS)
        (row, line, tall), lines = _two(schedule, loops[1], MOST_LINES, MOST_ROWS)
        (column, thread), (_, across) = _one(schedule, loops[2], WARP)
        return Cut(
            (channel, group, held, lane),
            (row, line, tall),
            (column, thread),
            (groups, lines, across),
            lanes,
            lambda loop: _one(schedule, loop, MOST_CHUNK)[0],
        )


def _one(schedule: Any, loop: Any, most: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """A loop in two, the inner one of a size drawn up to `most`; the loops and their sizes."""
    sizes = schedule.sample_perfect_tile(loop, n=2, max_innermost_factor=most)
    return schedule.split(loop, factors=sizes), sizes


def _two(schedule: Any, loop: Any, threads: int, held: int) -> tuple[Sequence[Any], Any]:
    """A loop in three, over blocks, threads and what each holds; and how many threads there are."""
    (rest, inner), _ = _one(schedule, loop, held)
    (outer, middle), (_, count) = _one(schedule, rest, threads)
    return (outer, middle, inner), count


def tiles(schedule: Any) -> list[Any]:
    """The default schedule with tiles to draw; none for what is no convolution."""
    from tvm.s_tir.schedule import ScheduleError

    one = schedule.copy()
    try:
        apply_schedule(one, _Sampled())
    except ScheduleError:
        return []
    return [one]
