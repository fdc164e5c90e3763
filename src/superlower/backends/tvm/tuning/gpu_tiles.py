"""Tiles of the default GPU schedules in sizes that the search draws."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from superlower.backends.tvm import gpu_schedule, tensor_core_schedule
from superlower.backends.tvm.convolutions import Roles
from superlower.backends.tvm.gpu_schedule import VECTOR_BYTES, WARP, Cut

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


MOST_WARPS, MOST_HELD = 4, 4
"""Warps along either side of a block on tensor cores, and tiles of 16 that one holds."""


@dataclass(frozen=True)
class _SampledOnTensorCores:
    """Tiles of sizes that divide the output."""

    by_row: bool

    def cut(self, schedule: Any, roles: Roles, rows: Any, channels: Any) -> tensor_core_schedule.Cut:
        high, warps_high = _two(schedule, rows, MOST_WARPS, MOST_HELD)
        wide, warps_wide = _two(schedule, channels, MOST_WARPS, MOST_HELD)
        return tensor_core_schedule.Cut(high, wide, (warps_high, warps_wide), self.by_row)


def _one(schedule: Any, loop: Any, most: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """A loop in two, the inner one of a size drawn up to `most`; the loops and their sizes."""
    sizes = schedule.sample_perfect_tile(loop, n=2, max_innermost_factor=most)
    return schedule.split(loop, factors=sizes), sizes


def _two(schedule: Any, loop: Any, threads: int, held: int) -> tuple[Sequence[Any], Any]:
    """A loop in three, over blocks, threads and what each holds; and how many threads there are."""
    (rest, inner), _ = _one(schedule, loop, held)
    (outer, middle), (_, count) = _one(schedule, rest, threads)
    return (outer, middle, inner), count


def tiles(schedule: Any, *, tensor_cores: bool) -> list[Any]:
    """The default schedules with tiles to draw; none for what is no convolution.

    Args:
        tensor_cores: whether the GPU has them.
    """
    from tvm.s_tir.schedule import ScheduleError

    found = []
    one = schedule.copy()
    with suppress(ScheduleError):
        gpu_schedule.apply_schedule(one, _Sampled())
        found.append(one)
    for by_row in (False, True) if tensor_cores else ():
        one = schedule.copy()
        with suppress(ScheduleError):
            tensor_core_schedule.apply_schedule(one, _SampledOnTensorCores(by_row))
            found.append(one)
    return found
