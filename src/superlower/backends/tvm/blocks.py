"""What the default schedules ask about a primitive function's blocks, and what both do to them first."""

from __future__ import annotations

from typing import Any

SPATIAL, REDUCTION = 0, 2
"""tirx.IterVar kinds: data-parallel and commutative reduction."""


def copied(function: Any) -> Any:
    """A function that shares nothing with another: a schedule changes its own in place, also if it fails."""
    import tvm

    return tvm.ir.load_json(tvm.ir.save_json(function))


def name(schedule: Any, block: Any) -> str:
    """A block's name; unique in its function."""
    return str(schedule.get(block).name_hint)


def kinds(schedule: Any, block: Any) -> list[int]:
    """The kind of each of a block's axes."""
    return [int(axis.iter_type) for axis in schedule.get(block).iter_vars]


def is_reduction(schedule: Any, block: Any) -> bool:
    """Whether a block sums (or otherwise reduces) over any axis."""
    return REDUCTION in kinds(schedule, block)


def is_plain(schedule: Any, block: Any) -> bool:
    """Whether each loop over the block is one of its axes: constant extent, spatial before reduction."""
    from tvm import tirx

    found = kinds(schedule, block)
    loops = [schedule.get(loop) for loop in schedule.get_loops(block)]
    return (
        len(schedule.get(block).writes) == 1
        and bool(found)
        and found[0] == SPATIAL
        and found == sorted(found)
        and set(found) <= {SPATIAL, REDUCTION}
        and len(loops) == len(found)
        and all(isinstance(loop.extent, tirx.IntImm) for loop in loops)
    )


def inline(schedule: Any, found: list[Any]) -> list[Any]:
    """Compute element-wise blocks inside their only reader, but in no reduction, which would repeat them."""
    from tvm.s_tir.schedule import ScheduleError

    kept = []
    for block in found:
        consumers = schedule.get_consumers(block)
        if len(consumers) == 1 and not any(is_reduction(schedule, b) for b in (block, consumers[0])):
            try:
                schedule.compute_inline(block)
                continue
            except ScheduleError:
                pass
        kept.append(block)
    return kept


def epilogue(schedule: Any, block: Any) -> Any | None:
    """The only reader of a reduction, if it reads just the element it writes (bias, activation, residual)."""
    consumers = schedule.get_consumers(block)
    if len(consumers) != 1 or is_reduction(schedule, consumers[0]):
        return None
    reader, produced = schedule.get(consumers[0]), schedule.get(block).writes[0].source
    axes = [axis.var for axis in reader.iter_vars]
    for region in reader.reads:
        if region.source.same_as(produced):
            points = [r.min for r in region.region]
            if len(points) != len(axes) or not all(p.same_as(a) for p, a in zip(points, axes, strict=True)):
                return None
    written = [r.min for r in reader.writes[0].region]
    same = len(written) == len(axes) and all(p.same_as(a) for p, a in zip(written, axes, strict=True))
    return consumers[0] if same else None
