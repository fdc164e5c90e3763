"""Convolutions as the GPU schedules see them: which axis is which, and the blocks that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from superlower.backends.tvm import blocks


@dataclass(frozen=True)
class Roles:
    """Which axis of a convolution's block is which, as positions among its axes.

    Attributes:
        channel: the output axis that the input isn't indexed by.
        pixels: output axes that the weights aren't indexed by, batch first.
        inner: the reduction axis of the input's channels.
        taps: the other reduction axes.
        extents: of all axes.
        strides: of either operand (input, weights): by dimension, factors of the axes it is indexed by.
        itemsize: bytes of an element of either operand.
    """

    channel: int
    pixels: tuple[int, ...]
    inner: int
    taps: tuple[int, ...]
    extents: tuple[int, ...]
    strides: tuple[tuple[dict[int, int], ...], tuple[dict[int, int], ...]]
    itemsize: int

    def footprint(self, operand: int, sizes: dict[int, int]) -> int:
        """Elements of an operand that a tile of these sizes by axis (1 where absent) reads."""
        spans = (
            1 + sum(abs(factor) * (sizes.get(axis, 1) - 1) for axis, factor in dim.items())
            for dim in self.strides[operand]
        )
        return prod(spans)


def roles_of(body: Any) -> Roles | None:
    """Which axes of a block are which; None if it is no convolution."""
    from tvm import sym

    axes = [axis.var for axis in body.iter_vars]
    extents = tuple(int(axis.dom.extent) for axis in body.iter_vars)
    sums = [i for i, axis in enumerate(body.iter_vars) if int(axis.iter_type) == blocks.REDUCTION]
    if len(body.reads) != 2:
        return None
    strides = []
    for region in body.reads:
        dims = []
        for dim in region.region:
            factors = sym.detect_linear_equation(dim.min, axes)
            if len(factors) != len(axes) + 1 or int(dim.extent) != 1:
                return None
            dims.append({i: int(f) for i, f in enumerate(factors[:-1]) if int(f) != 0})
        strides.append(tuple(dims))
    used = [{axis for dim in dims for axis in dim} for dims in strides]
    output = [i for i in range(len(axes)) if i not in sums]
    channels = [i for i in output if i not in used[0]]
    pixels = [i for i in output if i not in used[1]]
    slides = any(len(dim) > 1 for dim in strides[0])
    if len(channels) != 1 or len(channels) + len(pixels) != len(output) or len(pixels) < 2 or not slides:
        return None
    return Roles(
        channel=channels[0],
        pixels=tuple(pixels),
        inner=sums[0],
        taps=tuple(sums[1:]),
        extents=extents,
        strides=(strides[0], strides[1]),
        itemsize=int(body.reads[0].source.dtype.bits) // 8,
    )


@dataclass(frozen=True)
class Parts:
    """Blocks of a convolution's function: sums, what follows, both operands' copies in shared memory."""

    sums: Any
    epilogue: Any
    window: Any
    weights: Any


def taken_apart(schedule: Any, fitting: Callable[[Any], Roles]) -> tuple[Roles, Parts]:
    """The roles of a convolution's axes, and the blocks that its function is left with.

    Args:
        fitting: roles of a reduction's block; raises ScheduleError if it isn't one that is asked for.

    Raises:
        ScheduleError: the function isn't one such convolution, with what is fused to it.
    """
    from tvm.s_tir.schedule import ScheduleError

    found = schedule.get_child_blocks(schedule.get_sblock("root"))
    if not all(blocks.is_plain(schedule, block) for block in found):
        raise ScheduleError("a block's loops aren't its axes")
    found = blocks.inline(schedule, found)
    sums = [block for block in found if blocks.is_reduction(schedule, block)]
    if len(sums) != 1:
        raise ScheduleError(f"{len(sums)} reductions, where a convolution has one")
    roles = fitting(schedule.get(sums[0]))
    epilogue = blocks.epilogue(schedule, sums[0])
    if epilogue is None:
        epilogue = schedule.cache_write(sums[0], 0, "global")
    shared = [schedule.cache_read(sums[0], operand, "shared") for operand in (0, 1)]
    for copy in shared:
        _inline_producers(schedule, copy)
    if len(schedule.get_child_blocks(schedule.get_sblock("root"))) != 4:
        raise ScheduleError("more is computed than the convolution and what is fused to it")
    return roles, Parts(sums[0], epilogue, *shared)


def _inline_producers(schedule: Any, copy: Any) -> None:
    """Compute what a copy to shared memory reads (padding, a flip of the kernel) while it is copied."""
    from tvm.s_tir.schedule import ScheduleError

    while producers := schedule.get_producers(copy):
        if any(blocks.is_reduction(schedule, block) for block in producers):
            raise ScheduleError("an operand is itself a reduction")
        for block in producers:
            schedule.compute_inline(block)


def shared_out(schedule: Any, block: Any, threads: Sequence[Any], lanes: int) -> Sequence[Any]:
    """Loops over threads: neighbours take neighbouring elements of a block, `lanes` at a time if they can."""
    loops = schedule.get_loops(block)[-len(schedule.get(block).iter_vars) :]
    last = int(schedule.get(loops[-1]).extent)
    every = schedule.fuse(*loops)
    if lanes > 1 and last % lanes == 0:
        every, lane = schedule.split(every, factors=[None, lanes])
        schedule.vectorize(lane)
    return schedule.split(every, factors=[None, *threads])[1:]  # type: ignore[no-any-return]
