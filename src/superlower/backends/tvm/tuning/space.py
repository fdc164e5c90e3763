"""What is searched: the default schedule's register tiles in other sizes, and MetaSchedule's own space."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from superlower.backends.tvm.schedule import Registers, Tile, apply_schedule, lanes_of

MOST_ROWS, MOST_VECTORS = 16, 6
"""Of a tile: beyond them no processor's registers hold the other operand."""
MOST_NEAR = 16
"""Terms of the first reduction axis that may be summed innermost."""
UNROLL = (0, 16, 64, 512)
"""Steps that loops are unrolled up to, as MetaSchedule's own rule for CPUs has them."""


STRUCTURE = tuple((inside, near) for inside in (False, True) for near in (False, True))


@dataclass(frozen=True)
class _Sampled:
    """Tiles of sizes that the search draws."""

    vectors: Registers
    rows_inside: bool
    near: bool

    def cut(self, schedule: Any, reuse: Any | None, last: Any) -> Tile:
        lanes = lanes_of(int(schedule.get(last).extent), self.vectors)
        rows = () if reuse is None else _drawn(schedule, reuse, MOST_ROWS)
        # Whole vectors first: what is drawn from is a loop.
        vectors, lane = schedule.split(last, factors=[None, lanes])
        columns = (*_drawn(schedule, vectors, MOST_VECTORS), lane)
        return Tile(rows, columns, lanes, self.rows_inside, self._reduction if self.near else None)

    @staticmethod
    def _reduction(schedule: Any, loop: Any) -> Sequence[Any]:
        return _drawn(schedule, loop, MOST_NEAR)


def _drawn(schedule: Any, loop: Any, most: int) -> Sequence[Any]:
    sizes = schedule.sample_perfect_tile(loop, n=2, max_innermost_factor=most)
    return schedule.split(loop, factors=sizes)  # type: ignore[no-any-return]


def register_tiles(schedule: Any, vectors: Registers) -> list[Any]:
    """The default schedule with tiles to draw, in each order of its loops; none for what has no reduction."""
    from tvm.s_tir.schedule import ScheduleError

    found = []
    for rows_inside, near in STRUCTURE:
        one = schedule.copy()
        try:
            if not apply_schedule(one, _Sampled(vectors, rows_inside, near)):
                return []
        except ScheduleError:
            continue
        root = one.get_sblock("root")
        unrolled = one.sample_categorical(list(UNROLL), [1 / len(UNROLL)] * len(UNROLL))
        one.annotate(root, "meta_schedule.unroll_explicit", unrolled)
        found.append(one)
    return found


def context(
    module: Any, target: Any, vectors: Registers, seed: int, population: int
) -> tuple[Any, list[Any]]:
    """MetaSchedule's context for a task, and its design spaces.

    Args:
        module: of the one function.
        seed: above 0.
        population: schedules that a generation of the search has.
    """
    # Parsing the tensor intrinsics of every processor takes 19 s, and no rule below uses one.
    sys.modules.setdefault("tvm.s_tir.tensor_intrin", ModuleType("tvm.s_tir.tensor_intrin"))
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    kind = "llvm"
    rules = ms.ScheduleRule.create(kind)
    postprocessors = ms.Postproc.create(kind)
    space = ms.space_generator.PostOrderApply(
        sch_rules=rules, postprocs=postprocessors, mutator_probs=ms.Mutator.create(kind)
    )
    made = ms.TuneContext(
        mod=module,
        target=target,
        space_generator=space,
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=population, init_min_unmeasured=population // 4, genetic_num_iters=2
        ),
        rand_state=seed,
        num_threads=1,
    )
    found = register_tiles(Schedule(module, seed=seed), vectors)
    return made, [*found, *made.generate_design_space()]


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
