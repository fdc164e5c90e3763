"""What is searched: the default schedule's tiles in other sizes, and MetaSchedule's own spaces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from superlower.backends.tvm import blocks, tensor_cores
from superlower.backends.tvm.processors import Cpu, Cuda
from superlower.backends.tvm.schedule import Registers, Tile, apply_schedule, are_rows_inside, tile_sizes
from superlower.backends.tvm.tuning import gpu_tiles

MOST_ROWS, MOST_VECTORS = 16, 8
"""Of a tile: beyond them no processor's registers hold the other operand."""
MOST_NEAR, FEW_NEAR = 16, 4
"""Terms of the first reduction axis that may be summed innermost, and those that are at first."""
UNROLL = (0, 16, 64, 512)
"""Steps that loops are unrolled up to, as MetaSchedule's own rule for CPUs has them."""


STRUCTURE = tuple((inside, near) for inside in (False, True) for near in (False, True))


@dataclass(frozen=True)
class _Sampled:
    """Tiles of sizes that the search draws.

    Attributes:
        by_default: only in the default schedule's order, and of its sizes to begin with.
    """

    vectors: Registers
    rows_inside: bool
    near: bool
    by_default: bool = False

    def cut(self, schedule: Any, reuse: Any | None, last: Any, others: int) -> Tile:
        from tvm.s_tir.schedule import ScheduleError

        if self.by_default and self.rows_inside != are_rows_inside(others):
            raise ScheduleError("another order than the default schedule's")
        height, width = (1 if loop is None else int(schedule.get(loop).extent) for loop in (reuse, last))
        tall, wide, lanes = tile_sizes(height, width, self.vectors)
        rows = () if reuse is None else self._drawn(schedule, reuse, MOST_ROWS, tall)
        # Whole vectors first: what is drawn from is a loop.
        vectors, lane = schedule.split(last, factors=[None, lanes])
        columns = (*self._drawn(schedule, vectors, MOST_VECTORS, wide), lane)
        return Tile(rows, columns, lanes, self.rows_inside, self._reduction if self.near else None)

    def _reduction(self, schedule: Any, loop: Any) -> Sequence[Any]:
        return self._drawn(schedule, loop, MOST_NEAR, FEW_NEAR)

    def _drawn(self, schedule: Any, loop: Any, most: int, default: int) -> Sequence[Any]:
        decision = None
        if self.by_default:
            extent = int(schedule.get(loop).extent)
            inner = next(d for d in range(default, 0, -1) if extent % d == 0)
            decision = [extent // inner, inner]
        sizes = schedule.sample_perfect_tile(loop, n=2, max_innermost_factor=most, decision=decision)
        return schedule.split(loop, factors=sizes)  # type: ignore[no-any-return]


def register_tiles(schedule: Any, vectors: Registers, *, by_default: bool = False) -> list[Any]:
    """The default schedule with tiles to draw, in each order of its loops; none for what has no reduction.

    Args:
        by_default: only its own order and tiles, with the first reduction axis whole and split.
    """
    from tvm.s_tir.schedule import ScheduleError

    found = []
    for rows_inside, near in STRUCTURE:
        one = schedule.copy()
        try:
            if not apply_schedule(one, _Sampled(vectors, rows_inside, near, by_default)):
                return []
        except ScheduleError:
            continue
        root = one.get_sblock("root")
        chances = [1 / len(UNROLL)] * len(UNROLL)
        unrolled = one.sample_categorical(list(UNROLL), chances, decision=0 if by_default else None)
        one.annotate(root, "meta_schedule.unroll_explicit", unrolled)
        found.append(one)
    return found


def context(
    module: Any, where: Cpu | Cuda, seed: int, population: int, threads: int = 1
) -> tuple[Any, list[Any]]:
    """MetaSchedule's context for a task, and its design spaces.

    Args:
        module: of the one function.
        seed: above 0.
        population: schedules that a generation of the search has.
        threads: that draw them.
    """
    # Rules for tensor cores alone need any.
    tensor_cores.leave_intrinsics()
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    kind = "cuda" if isinstance(where, Cuda) else "llvm"
    rules = list(ms.ScheduleRule.create(kind))
    postprocessors = list(ms.Postproc.create(kind))
    if isinstance(where, Cuda) and _fits_tensor_cores(module, where):
        # Before the rule that would tile it for threads.
        rules.insert(1, tensor_cores.rule())
        postprocessors.append(ms.postproc.RewriteTensorize(vectorize_init_loop=False))
    space = ms.space_generator.PostOrderApply(
        sch_rules=rules, postprocs=postprocessors, mutator_probs=ms.Mutator.create(kind)
    )
    made = ms.TuneContext(
        mod=module,
        target=where.target,
        space_generator=space,
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=population, init_min_unmeasured=population // 4, genetic_num_iters=2
        ),
        rand_state=seed,
        num_threads=threads,
    )
    plain = Schedule(module, seed=seed)
    if isinstance(where, Cuda):
        found = gpu_tiles.tiles(plain, tensor_cores=tensor_cores.have(where.target.attrs))
    else:
        found = register_tiles(plain, where.vectors)
    return made, [*found, *made.generate_design_space()]


def _fits_tensor_cores(module: Any, where: Cuda) -> bool:
    """Whether a function sums products of half-precision operands in float32, and the GPU can."""
    from tvm import s_tir
    from tvm.s_tir.schedule import ScheduleError

    if not tensor_cores.have(where.target.attrs):
        return False
    schedule = s_tir.Schedule(module)
    try:
        found = schedule.get_child_blocks(schedule.get_sblock("root"))
    except ScheduleError:
        return False
    sums = [schedule.get(block) for block in found if blocks.is_reduction(schedule, block)]
    return any(
        [str(region.source.dtype) for region in body.reads] == ["float16"] * 2
        and str(body.writes[0].source.dtype) == "float32"
        for body in sums
    )


def trace_text(schedule: Any) -> str:
    """A schedule's trace as JSON, which `apply.replayed` takes."""
    return json.dumps(_plain(schedule.trace.as_json()), separators=(",", ":"))


def _plain(value: Any) -> Any:
    from tvm import tirx

    if isinstance(value, tirx.IntImm):
        return int(value)
    if isinstance(value, tirx.FloatImm):
        return float(value)
    if value is None or isinstance(value, int | float | str):
        return value if value is None or isinstance(value, int | float) else str(value)
    return [_plain(item) for item in value]
