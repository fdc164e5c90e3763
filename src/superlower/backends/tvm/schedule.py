"""Default CPU schedules: what keeps an untuned build within a small factor of a tuned one.

TVM's LLVM path compiles the loops as they are written, so an untuned convolution runs on one core, one
element at a time. The rules here are the textbook ones (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication", section 4): keep a tile of the output in vector registers across the whole reduction,
and give each core its own tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Protocol

from superlower.backends.tvm import blocks

ENOUGH_PARALLEL = 32
"""Iterations in parallel that leave no core of a desktop idle for long."""


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


def cpu_target(attributes: Mapping[str, Any]) -> tuple[Any, Registers]:
    """TVM's target of these attributes, and the vector registers that its processor has."""
    import tvm
    from tvm.target import codegen

    features = frozenset(codegen.llvm_get_cpu_features(tvm.target.Target(dict(attributes))))
    # LLVM would split the schedules' 512-bit tiles in two on the processors it tunes for 256 bits.
    wide = {"mattr": ["-prefer-256-bit"]} if "avx512f" in features else {}
    return tvm.target.Target({**attributes, **wide}), registers(features)


def schedule_module(mod: Any, vectors: Registers) -> tuple[Any, list[str]]:
    """Schedule every primitive function of an IRModule that isn't scheduled yet.

    Returns:
        The module, and the names of the functions left as they were: none of their loops is understood.
    """
    from tvm import tirx

    left = []
    for name, function in list(mod.functions_items()):
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        scheduled = scheduled_by_default(function, vectors)
        if scheduled.same_as(function):
            left.append(str(name.name_hint))
        mod[name] = scheduled
    return mod, left


def scheduled_by_default(function: Any, vectors: Registers) -> Any:
    """A scheduled copy of a primitive function; the function itself if its loops aren't understood."""
    from tvm.s_tir.schedule import ScheduleError

    try:
        return schedule_function(function, vectors)
    except ScheduleError:
        return function


def is_scheduled(function: Any) -> bool:
    """Whether a primitive function has a schedule already."""
    attributes = function.attrs
    return bool(attributes is not None and attributes.get("tirx.is_scheduled", False))


def schedule_function(function: Any, vectors: Registers) -> Any:
    """A scheduled copy of a primitive function.

    `tuning.ranking.DEFAULTS` is its version: other tiles, another number.

    Raises:
        ScheduleError: it isn't a set of plain loop nests.
    """
    from tvm import s_tir

    schedule = s_tir.Schedule(function)
    apply_schedule(schedule, _Chosen(vectors))
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def apply_schedule(schedule: Any, tiles: Tiles) -> int:
    """Apply the rules to a schedule's function; returns the number of reductions tiled.

    Raises:
        ScheduleError: it isn't a set of plain loop nests.
    """
    from tvm.s_tir.schedule import ScheduleError

    found = schedule.get_child_blocks(schedule.get_sblock("root"))
    if not all(blocks.is_plain(schedule, block) for block in found):
        raise ScheduleError("a block's loops aren't its axes")
    found = blocks.inline(schedule, found)
    done: set[str] = set()
    tiled = 0
    for block in found:
        if not blocks.is_reduction(schedule, block):
            continue
        epilogue = blocks.epilogue(schedule, block)
        if epilogue is None or blocks.name(schedule, epilogue) in done:
            epilogue = schedule.cache_write(block, 0, "global")
        _tile(schedule, block, epilogue, tiles)
        tiled += 1
        done |= {blocks.name(schedule, block), blocks.name(schedule, epilogue)}
    for block in found:
        if blocks.name(schedule, block) not in done:
            _parallel(schedule, block)
    return tiled


def _tile(schedule: Any, block: Any, epilogue: Any, tiles: Tiles) -> None:
    """Hold a tile (reuse axis x vectors along the last axis) of the output in registers over the reduction.

    for outer... in parallel:
      for x/(V*lanes), reuse/R:
        tile[R, V, lanes] = 0
        for reduction...: tile[r, v, :] += a[...] * b[...]
        output[R, V*lanes] = epilogue(tile)

    So what the tiles of a column read of the input stays in the cache. Or with reuse/R among the outer loops,
    where the tiles say so.
    """
    loops = schedule.get_loops(epilogue)
    reuse = _reuse_axis(schedule, block, len(loops))
    others = prod(int(schedule.get(loop).extent) for i, loop in enumerate(loops[:-1]) if i != reuse)
    tile = tiles.cut(schedule, None if reuse is None else loops[reuse], loops[-1], others)
    outer = list(loops[:-1])
    inner, last = [], []
    if reuse is not None:
        outer[reuse], row = tile.rows
        inner.append(row)
        if tile.rows_inside and len(outer) > 1:
            last.append(outer.pop(reuse))
    across, column, lane = tile.columns
    schedule.reorder(*outer, across, *last, *inner, column, lane)
    schedule.vectorize(lane)
    for loop in (*inner, column):
        schedule.unroll(loop)
    schedule.compute_at(block, last[0] if last else across, preserve_unit_loops=True)
    held = schedule.get_loops(block)[len(outer) + len(last) + 1 :]
    spatial, reduction = list(held[: len(loops)]), list(held[len(loops) :])
    column, lane = schedule.split(spatial[-1], factors=[None, tile.lanes])
    if tile.reduction is not None:
        far, near = tile.reduction(schedule, reduction[0])
        reduction = [far, *reduction[1:], near]
    schedule.reorder(*reduction, *spatial[:-1], column, lane)
    schedule.vectorize(lane)
    for loop in (*spatial[:-1], column):
        schedule.unroll(loop)
    schedule.parallel(schedule.fuse(*outer) if outer else across)
    # Last: what is left of the reduction no longer counts as one for the primitives above.
    schedule.decompose_reduction(block, reduction[0])


@dataclass(frozen=True)
class Tile:
    """A tile, as the loops that it is made of.

    Attributes:
        rows: of the reuse axis, if there is one: over tiles, over a tile's rows.
        columns: of the last axis: over tiles, over the vectors of a row, over the lanes of a vector.
        lanes: elements of a vector.
        rows_inside: whether a column's tiles come one after another, rather than a row's.
        reduction: splits the first reduction axis in two, the second of which then is the innermost loop;
            None to leave it whole.
    """

    rows: Sequence[Any]
    columns: Sequence[Any]
    lanes: int
    rows_inside: bool = False
    reduction: Callable[[Any, Any], Sequence[Any]] | None = None


class Tiles(Protocol):
    """Chooses tiles."""

    def cut(self, schedule: Any, reuse: Any | None, last: Any, others: int) -> Tile:
        """Split the reuse loop, if there is one, and the last loop.

        Args:
            others: iterations of all the other outer loops.
        """
        ...


@dataclass(frozen=True)
class _Chosen:
    """The default tiles."""

    vectors: Registers

    def cut(self, schedule: Any, reuse: Any | None, last: Any, others: int) -> Tile:
        height, width = (1 if loop is None else int(schedule.get(loop).extent) for loop in (reuse, last))
        rows, columns, lanes = tile_sizes(height, width, self.vectors)
        held = () if reuse is None else schedule.split(reuse, factors=[None, rows])
        inside = are_rows_inside(others)
        return Tile(held, schedule.split(last, factors=[None, columns, lanes]), lanes, rows_inside=inside)


def are_rows_inside(others: int) -> bool:
    """Whether a column's tiles come one after another by default: if without the rows the loops that run in
    parallel, of so many iterations, are enough for every core."""
    return others >= ENOUGH_PARALLEL


def _reuse_axis(schedule: Any, block: Any, spatial: int) -> int | None:
    """The spatial axis but the last along which an operand is loaded once for all rows of a tile.

    Best one that what is loaded by vectors doesn't depend on: a convolution's output channels, along which
    its input is the same, rather than its rows, along which only the weights are, single elements.
    """
    from tvm.tirx.analysis import undefined_vars

    body = schedule.get(block)
    axes = [axis.var for axis in body.iter_vars][:spatial]
    sizes = [int(axis.dom.extent) for axis in body.iter_vars][:spatial]
    used = [{v for dim in region.region for v in undefined_vars(dim.min)} for region in body.reads]
    vectors = [names for names in used if axes[-1] in names]

    def free(operands: list[set[Any]]) -> list[int]:
        return [i for i in range(spatial - 1) if sizes[i] > 1 and any(axes[i] not in n for n in operands)]

    return max(free(vectors) or free(used), key=lambda i: sizes[i], default=None)


def lanes_of(columns: int, vectors: Registers) -> int:
    """Elements of a vector along a row: a divisor that fills a register best, powers of two first."""
    return max(_divisors(columns, vectors.lanes), key=lambda n: n if n & (n - 1) == 0 else n / 2)


def tile_sizes(rows: int, columns: int, vectors: Registers) -> tuple[int, int, int]:
    """(rows, vectors per row, lanes) of a tile: exact divisors, so that no tile needs a guard.

    Rows and vectors are those with the fewest loads per product (1/rows + 1/vectors) that the registers hold.
    """
    lanes = lanes_of(columns, vectors)
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
