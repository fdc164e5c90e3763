"""Default schedules of half-precision convolutions on tensor cores.

A block of threads keeps a window of the input, 16 channels of it at a time, in shared memory, channels
innermost, and the weights of these channels. A tap of the kernel is then a product of matrices that lie
there as they are, 16 neighbouring pixels x 16 channels by 16 channels x 16 output channels: nothing is copied
once a tap, as it is where a convolution is made one large product of matrices.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from superlower.backends.tvm import blocks, tensor_cores, wmma
from superlower.backends.tvm.convolutions import Parts, Roles, roles_of, shared_out, taken_apart
from superlower.backends.tvm.gpu_schedule import ENOUGH_BLOCKS, WARP
from superlower.backends.tvm.schedule import is_scheduled

log = logging.getLogger(__name__)

SIDE = 16
"""Of a tile: the products that tensor cores of every architecture have."""
COLUMNS, WARPS, HELD = 4, 4, 2
"""Tiles of output channels a block has at most, its warps, and the tiles a warp holds along either side: each
operand that it loads serves two products."""
SHARED_BYTES = 48 * 1024
"""A block's: what every architecture has without being asked."""
LANES = 8
"""Neighbouring weights that a thread loads at a time: 16 bytes."""
APART = 4
"""Floats between neighbouring pixels' sums, more than they take: so that threads meet fewer banks."""


@dataclass(frozen=True)
class Tile:
    """A block's share of the output.

    Attributes:
        rows: of pixels, 16 each: over warps, and what a warp holds.
        channels: in tiles of 16: over warps, and what a warp holds.
    """

    rows: tuple[int, int]
    channels: tuple[int, int]

    @property
    def warps(self) -> int:
        """Of a block."""
        return self.rows[0] * self.channels[0]


def tile(channels: int, rows: int, columns: int, batch: int = 1) -> Tile:
    """The tile for an output of these sizes: 64 channels of four rows in four warps, where that divides.

    >>> tile(64, 180, 320)
    Tile(rows=(2, 2), channels=(2, 2))
    """
    across = _divisor(channels // SIDE, COLUMNS)
    wide = _divisor(across, HELD)
    most = max(1, WARPS // (across // wide))

    def made(held: int, warps: int) -> Tile:
        tall = _divisor(rows, held)
        return Tile((_divisor(rows // tall, warps), tall), (across // wide, wide))

    choices = [made(HELD, most), made(1, most), made(1, max(1, most // 2)), made(1, 1)]
    area = batch * (columns // SIDE) * (channels // SIDE // across) * rows
    # Idle multiprocessors cost more than a block's operands being loaded more often.
    return next((one for one in choices if area >= ENOUGH_BLOCKS * prod(one.rows)), choices[-1])


def _divisor(extent: int, most: int) -> int:
    return next(d for d in range(most, 0, -1) if extent % d == 0)


def schedule_module(module: Any, target: Any) -> Any:
    """Schedule every fitting convolution of an IRModule that isn't scheduled yet.

    One that TVM refuses to schedule so is left as it was, and a warning says which and why.

    Args:
        target: TVM's, of a GPU with tensor cores or without.
    """
    from tvm import tirx
    from tvm.s_tir.schedule import ScheduleError

    if not tensor_cores.have(target.attrs):
        return module
    for name, function in list(module.functions_items()):
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        try:
            # A copy, as what begins to fit may not do so in the end.
            module[name] = schedule_convolution(blocks.copied(function))
        except ScheduleError:
            continue
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            log.warning("%s isn't put on tensor cores: %s", name.name_hint, reason)
    return module


def schedule_convolution(function: Any) -> Any:
    """A scheduled copy of a primitive function that is one convolution, with what is fused to it.

    `tuning.ranking.DEFAULTS` is its version: other tiles, another number.

    Raises:
        ScheduleError: it isn't one of two dimensions, several taps along each, stride 1 along a row,
            half-precision operands and float32 sums, of channels and a row's pixels that come in sixteens.
    """
    from tvm import s_tir

    schedule = s_tir.Schedule(function)
    apply_schedule(schedule, _Chosen())
    return schedule.mod["main"].with_attrs({tensor_cores.USED: True, "tirx.is_scheduled": True})


@dataclass(frozen=True)
class Cut:
    """A tile as the loops that it is made of.

    Attributes:
        rows: of pixels, over blocks, over warps, and over what a warp holds.
        channels: tiles of output channels likewise.
        warps: factors of the two loops over warps.
        by_row: whether a block loads the weights of one row of the kernel at a time, rather than all.
    """

    rows: Sequence[Any]
    channels: Sequence[Any]
    warps: tuple[Any, Any]
    by_row: bool


class Tiles(Protocol):
    """Chooses tiles."""

    def cut(self, schedule: Any, roles: Roles, rows: Any, channels: Any) -> Cut:
        """Split the loops over rows and over tiles of channels."""
        ...


class _Chosen:
    """The default tiles."""

    def cut(self, schedule: Any, roles: Roles, rows: Any, channels: Any) -> Cut:
        from tvm.s_tir.schedule import ScheduleError

        batch, down, across = (roles.extents[axis] for axis in roles.pixels)
        made = tile(roles.extents[roles.channel], down, across, batch)
        whole, by_row = (shared_bytes(roles, made, by_row=each) for each in (False, True))
        if by_row > SHARED_BYTES:
            raise ScheduleError(f"a block's tiles take {by_row} bytes")
        return Cut(
            schedule.split(rows, factors=[None, *made.rows]),
            schedule.split(channels, factors=[None, *made.channels]),
            (made.rows[0], made.channels[0]),
            whole > SHARED_BYTES,
        )


def shared_bytes(roles: Roles, made: Tile, *, by_row: bool) -> int:
    """Shared memory of a block: its window, weights and sums."""
    rows, channels = prod(made.rows), SIDE * prod(made.channels)
    taps = {tap: roles.extents[tap] for tap in roles.taps}
    _, down, across = roles.pixels
    window = roles.footprint(0, {roles.inner: SIDE, down: rows, across: SIDE, **taps})
    at_once = dict(list(taps.items())[1:]) if by_row else taps
    weights = roles.footprint(1, {roles.inner: SIDE, roles.channel: channels, **at_once})
    return roles.itemsize * (window + weights) + 4 * rows * SIDE * (channels + APART)


def apply_schedule(schedule: Any, tiles: Tiles) -> None:
    """Apply the rules to a schedule's function.

    for block of rows x 16 pixels x channels:                   # blockIdx
      for warp:                                                 # threadIdx.y
        sums[rows, channels a warp holds] = 0
        for 16 input channels:
          shared window, shared weights = what the block needs of them
          for tap:
            sums += pixels x 16 of the window, times 16 x channels of the weights
        shared sums = sums
      output = epilogue(shared sums)

    Raises:
        ScheduleError: see `schedule_convolution`.
    """
    roles, parts = taken_apart(schedule, _fitting)
    _tile(schedule, parts, roles, tiles)


def _fitting(body: Any) -> Roles:
    """The roles of a convolution's axes, if it is one that these rules know."""
    from tvm.s_tir.schedule import ScheduleError

    kinds = [str(region.source.dtype) for region in (*body.reads, *body.writes)]
    roles = roles_of(body)
    if roles is None or kinds != ["float16", "float16", "float32"] or len(roles.pixels) != 3:
        raise ScheduleError("no convolution of half-precision frames, summed in float32")
    (batch, down, across), (tap_down, tap_across) = roles.pixels, roles.taps
    image, kernel = roles.strides
    plain = (
        [set(dim) for dim in image] == [{batch}, {roles.inner}, {down, tap_down}, {across, tap_across}]
        and image[3][across] == 1
        and kernel == ({roles.inner: 1}, {tap_down: 1}, {tap_across: 1}, {roles.channel: 1})
    )
    # TVM leaves taps of a single one out of what it copies.
    plain = plain and all(roles.extents[tap] > 1 for tap in roles.taps)
    if not plain or any(roles.extents[axis] % SIDE for axis in (roles.channel, roles.inner, across)):
        raise ScheduleError("another kind of window, or channels or pixels that aren't whole tiles")
    return roles


def _tile(schedule: Any, parts: Parts, roles: Roles, tiles: Tiles) -> None:
    use = wmma.intrinsics()
    sums = parts.sums
    # Batch, channel, row, pixel; a block's axes and a buffer's, channels innermost.
    last = (0, 2, 3, 1)
    pixels = schedule.reindex(sums, ("read", 0))
    schedule.set_scope(pixels, 0, "wmma.matrix_a")
    columns = schedule.cache_read(sums, 1, "wmma.matrix_b")
    leave = schedule.cache_write(sums, 0, "wmma.accumulator")
    schedule.set_scope(leave, 0, "shared")
    for block in (parts.window, leave, sums):
        schedule.transform_layout(block, ("write", 0), lambda n, c, y, x: (n, y, x, c))
    schedule.transform_layout(pixels, ("write", 0), lambda n, y, x, c, i, j: (n, y, i, j, x, c))
    for block in (parts.weights, columns):
        schedule.transform_layout(block, ("write", 0), lambda c, i, j, f: (i, j, c, f))
    schedule.reorder_block_iter_var(sums, [*last, 5, 6, 4])
    schedule.reorder_block_iter_var(leave, list(last))

    batch, channel, row, across, inner, tap_down, tap_across = schedule.get_loops(sums)
    channel, lane = schedule.split(channel, factors=[None, SIDE])
    across, pixel = schedule.split(across, factors=[None, SIDE])
    outer, term = schedule.split(inner, factors=[None, SIDE])
    cut = tiles.cut(schedule, roles, row, channel)
    (row, high, tall), (channel, wide, held) = cut.rows, cut.channels
    schedule.reorder(
        batch, channel, row, across, high, wide, outer, tap_down, tap_across, tall, held, pixel, lane, term
    )
    schedule.bind(schedule.fuse(batch, channel), "blockIdx.z")
    schedule.bind(row, "blockIdx.y")
    schedule.bind(across, "blockIdx.x")
    warp = schedule.fuse(high, wide)
    schedule.bind(warp, "threadIdx.y")
    for block in (pixels, columns):
        schedule.compute_at(block, tap_across, preserve_unit_loops=True)
    schedule.compute_at(parts.window, outer, preserve_unit_loops=True)
    schedule.compute_at(parts.weights, tap_down if cut.by_row else outer, preserve_unit_loops=True)
    schedule.reverse_compute_at(leave, warp, preserve_unit_loops=True)
    schedule.reverse_compute_at(parts.epilogue, across, preserve_unit_loops=True)
    for block, lanes in ((parts.window, 1), (parts.weights, LANES), (parts.epilogue, 1)):
        _share(schedule, block, cut.warps, lanes)

    start = schedule.decompose_reduction(sums, outer)
    schedule.tensorize(schedule.get_loops(start)[-2], use["init"])
    *_, each, terms, _, _ = schedule.get_loops(pixels)
    schedule.reorder(*schedule.get_loops(pixels)[-2:], each, terms)
    schedule.tensorize(each, use["load_a"])
    terms, _, _, each = schedule.get_loops(columns)[-4:]
    many, each = schedule.split(each, factors=[None, SIDE])
    schedule.reorder(many, terms, each)
    schedule.tensorize(terms, use["load_b"])
    each, lanes = schedule.get_loops(leave)[-2:]
    many, lanes = schedule.split(lanes, factors=[None, SIDE])
    schedule.reorder(many, each, lanes)
    stored = schedule.blockize(each)
    schedule.tensorize(stored, use["store"])
    schedule.storage_align(stored, 0, 2, SIDE, APART)
    schedule.tensorize(pixel, use["compute"])
    for loop in (tall, held):
        schedule.unroll(loop)


def _share(schedule: Any, block: Any, warps: tuple[Any, Any], lanes: int) -> None:
    """Share a block among a block of threads."""
    high, wide, thread = shared_out(schedule, block, (*warps, WARP), lanes)
    schedule.bind(schedule.fuse(high, wide), "threadIdx.y")
    schedule.bind(thread, "threadIdx.x")
