"""Default CPU schedules: what keeps an untuned build within a small factor of a tuned one.

TVM's LLVM path compiles the loops as they are written, so an untuned convolution runs on one core, one
element at a time. The rules here are the textbook ones (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication", section 4): keep a tile of the output in vector registers across the whole reduction,
and give each core its own tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from superlower.backends.tvm import blocks


@dataclass(frozen=True)
class Registers:
    """The vector registers of a CPU, which bound a tile.

    Attributes:
        lanes: float32 elements in one register.
        accumulators: registers an output tile may fill; the rest hold operands.
    """

    lanes: int
    accumulators: int


def registers(features: frozenset[str]) -> Registers:
    """What a CPU of these LLVM features has: 32 registers of 512 bits, 16 of 256, 32 or 16 of 128."""
    if "avx512f" in features:
        return Registers(lanes=16, accumulators=24)
    if "avx" in features:
        return Registers(lanes=8, accumulators=12)
    if "neon" in features:
        return Registers(lanes=4, accumulators=24)
    return Registers(lanes=4, accumulators=12)


def schedule_module(mod: Any, vectors: Registers) -> tuple[Any, list[str]]:
    """Schedule every primitive function of an IRModule.

    Returns:
        The module, and the names of the functions left as they were: none of their loops is understood.
    """
    from tvm import tirx
    from tvm.s_tir.schedule import ScheduleError

    left = []
    for name, function in list(mod.functions_items()):
        if not isinstance(function, tirx.PrimFunc):
            continue
        try:
            mod[name] = schedule_function(function, vectors)
        except ScheduleError:
            left.append(str(name.name_hint))
    return mod, left


def schedule_function(function: Any, vectors: Registers) -> Any:
    """A scheduled copy of a primitive function.

    Raises:
        ScheduleError: it isn't a set of plain loop nests.
    """
    from tvm import s_tir
    from tvm.s_tir.schedule import ScheduleError

    schedule = s_tir.Schedule(function)
    found = schedule.get_child_blocks(schedule.get_sblock("root"))
    if not all(blocks.is_plain(schedule, block) for block in found):
        raise ScheduleError("a block's loops aren't its axes")
    found = blocks.inline(schedule, found)
    done: set[str] = set()
    for block in found:
        if not blocks.is_reduction(schedule, block):
            continue
        epilogue = blocks.epilogue(schedule, block)
        if epilogue is None or blocks.name(schedule, epilogue) in done:
            epilogue = schedule.cache_write(block, 0, "global")
        _tile(schedule, block, epilogue, vectors)
        done |= {blocks.name(schedule, block), blocks.name(schedule, epilogue)}
    for block in found:
        if blocks.name(schedule, block) not in done:
            _parallel(schedule, block)
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def _tile(schedule: Any, block: Any, epilogue: Any, vectors: Registers) -> None:
    """Hold a tile (reuse axis x vectors along the last axis) of the output in registers over the reduction.

    for outer..., reuse/R in parallel:
      for x/(V*lanes):
        tile[R, V, lanes] = 0
        for reduction...: tile[r, v, :] += a[...] * b[...]
        output[R, V*lanes] = epilogue(tile)
    """
    loops = schedule.get_loops(epilogue)
    extents = [int(schedule.get(loop).extent) for loop in loops]
    reuse = _reuse_axis(schedule, block, len(loops))
    rows, columns, lanes = _tile_sizes(extents[reuse] if reuse is not None else 1, extents[-1], vectors)
    outer = list(loops[:-1])
    inner = []
    if reuse is not None:
        outer[reuse], row = schedule.split(loops[reuse], factors=[None, rows])
        inner.append(row)
    across, column, lane = schedule.split(loops[-1], factors=[None, columns, lanes])
    schedule.reorder(*outer, across, *inner, column, lane)
    schedule.vectorize(lane)
    for loop in (*inner, column):
        schedule.unroll(loop)
    schedule.compute_at(block, across, preserve_unit_loops=True)
    tile = schedule.get_loops(block)[len(outer) + 1 :]
    spatial, reduction = tile[: len(loops)], tile[len(loops) :]
    column, lane = schedule.split(spatial[-1], factors=[columns, lanes])
    schedule.reorder(*reduction, *spatial[:-1], column, lane)
    schedule.vectorize(lane)
    for loop in (*spatial[:-1], column):
        schedule.unroll(loop)
    schedule.parallel(schedule.fuse(*outer) if outer else across)
    # Last: what is left of the reduction no longer counts as one for the primitives above.
    schedule.decompose_reduction(block, reduction[0])


def _reuse_axis(schedule: Any, block: Any, spatial: int) -> int | None:
    """The spatial axis but the last that an operand doesn't depend on: it is loaded once for all rows."""
    from tvm.tirx.analysis import undefined_vars

    body = schedule.get(block)
    axes = [axis.var for axis in body.iter_vars][:spatial]
    sizes = [int(axis.dom.extent) for axis in body.iter_vars][:spatial]
    used = [{v for dim in region.region for v in undefined_vars(dim.min)} for region in body.reads]
    found = [i for i in range(spatial - 1) if sizes[i] > 1 and any(axes[i] not in names for names in used)]
    return max(found, key=lambda i: sizes[i]) if found else None


def _tile_sizes(rows: int, columns: int, vectors: Registers) -> tuple[int, int, int]:
    """(rows, vectors per row, lanes) of a tile: exact divisors, so that no tile needs a guard.

    Lanes fill a register as far as possible, powers of two first; then rows and vectors are those with the
    fewest loads per product (1/rows + 1/vectors) that the registers hold.
    """
    lanes = max(_divisors(columns, vectors.lanes), key=lambda n: n if n & (n - 1) == 0 else n / 2)
    tiles = [
        (r, v)
        for r, v in product(_divisors(rows, 8), _divisors(columns // lanes, 8))
        if r * v <= vectors.accumulators
    ]
    return *min(tiles, key=lambda tile: (1 / tile[0] + 1 / tile[1], -tile[0])), lanes


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _parallel(schedule: Any, block: Any) -> None:
    """Spread an element-wise block over the cores, its last axis left to LLVM's own vectoriser."""
    loops = schedule.get_loops(block)
    if len(loops) > 1:
        schedule.parallel(schedule.fuse(*loops[:-1]))
