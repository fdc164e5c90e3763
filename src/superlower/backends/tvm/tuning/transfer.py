"""Schedules of one task for another: of the nearest size, of the nearest processor, of the same sums.

A trace says how loops were split in numbers. For other sizes the inner factors are kept, each moved to the
nearest that divides, and the outermost takes what is left; everything else of a trace holds for any size.

A task that does other things to the same sums (a convolution with a ReLU; with a residual) has other blocks,
which a trace knows by name. But both were drawn from design spaces made by the same rules: what was decided
along the way is decided alike in that of the task's own spaces whose steps are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from math import log, prod
from typing import Any

from superlower.backends.tvm.tuning.ranking import Record, defaults_of, family, fastest, gaining
from superlower.backends.tvm.tuning.space import trace_text
from superlower.backends.tvm.tuning.tasks import Task

_TILE = "SamplePerfectTile"
SUGGESTIONS = 8
"""Schedules taken over for a task: the few best of the nearest are worth more than many of the farther."""
OF_A_TASK, OF_OTHER_KIND = 5, 3
"""Of each of those, and of each that does other things to the same sums."""
_INLINING = ("ComputeInline", "ReverseComputeInline")
_VARIABLE = re.compile(r"[blv]\d+")


def suggestions(task: Task, target: str, records: Iterable[Record], most: int = SUGGESTIONS) -> list[Record]:
    """Records to start a task from, most promising first.

    Those of the task itself on other processors, or beside default schedules of other versions, come before
    those of like tasks of other sizes, and of tasks that do other things to the same sums, where these were
    faster than their default; among all, the nearest sizes and processors first, then the fastest.

    Args:
        target: key of the target tuned for.
        records: of any task, target and version.
    """
    usable = [
        record
        for record in records
        if record.seconds
        and (record.task, record.target, record.defaults) != (task.key, target, defaults_of(target))
        and family(record.target) == family(target)
    ]
    same = [record for record in usable if record.kind == task.kind and record.trace]
    akin = [
        record for record in usable if record.kind != task.kind and task.core and record.core == task.core
    ]
    found = [*fastest(same, OF_A_TASK), *gaining(akin, OF_OTHER_KIND)]
    order = {record: place for place, record in enumerate(found)}
    ranked = sorted(order, key=lambda r: (_far(task, target, r), r.kind != task.kind, order[r]))
    by_trace: dict[str, Record] = {}
    for record in ranked:
        by_trace.setdefault(record.trace, record)
    return list(by_trace.values())[:most]


def _far(task: Task, target: str, record: Record) -> tuple[float, int]:
    """How far a record's sizes are, summing |log ratio| over dimensions; and how far its processor is."""
    pairs = [
        (ours, theirs)
        for mine, other in zip(task.shapes, record.shapes, strict=False)
        for ours, theirs in zip(mine, other, strict=False)
    ]
    return sum(abs(log(max(a, 1) / max(b, 1))) for a, b in pairs), _apart(target, record.target)


def _apart(one: str, other: str) -> int:
    """Of two processors: the difference of GPUs' compute capabilities; 1 for unlike CPUs.

    >>> _apart("cuda/sm_90", "cuda/sm_89"), _apart("llvm/haswell", "llvm/znver3")
    (1, 1)
    """
    numbers = [re.fullmatch(r"cuda/sm_([0-9]+)", target) for target in (one, other)]
    if numbers[0] is None or numbers[1] is None:
        return int(one != other)
    return abs(int(numbers[0][1]) - int(numbers[1][1]))


def adapted(module: Any, trace: str, postprocessors: Sequence[Any]) -> Any | None:
    """A schedule of a module after a like module's trace; None if it doesn't fit.

    Args:
        postprocessors: MetaSchedule's, initialized: what they had made of the trace is made anew.
    """
    try:
        steps, decisions = before_postprocessing(json.loads(trace))
        # Once to have the steps as TVM's objects: it makes the factors divide, but as coarsely as can be.
        drawn = applied(module, json.dumps([steps, decisions]))
        if drawn is None:
            return None
        return _decided(module, drawn.trace, [value for _, value in decisions], postprocessors)
    except Exception:
        # TVM says by exceptions of many types that a step isn't legal here.
        return None


def redrawn(module: Any, trace: str, spaces: Sequence[Any], postprocessors: Sequence[Any]) -> Any | None:
    """A schedule of a module drawn as a trace of another function was; None if no space of it has such steps.

    Args:
        spaces: the module's design spaces.
        postprocessors: as of `adapted`.
    """
    try:
        steps, decisions = before_postprocessing(json.loads(trace))
        wanted = outline(steps)
        for space in spaces:
            own, _ = before_postprocessing(json.loads(trace_text(space)))
            if outline(own) == wanted:
                return _decided(module, space.trace, [value for _, value in decisions], postprocessors)
    except Exception:
        # As above.
        return None
    return None


def _decided(module: Any, trace: Any, decisions: Sequence[Any], postprocessors: Sequence[Any]) -> Any | None:
    """A trace on a module with other decisions, each in its turn; None if a postprocessor refuses it."""
    from tvm import s_tir

    schedule, left = s_tir.Schedule(module), list(decisions)

    def decide(step: Any, inputs: Any, _: Any, decision: Any) -> Any:
        kind = str(step.kind.name)
        if not kind.startswith("Sample"):
            return decision
        value = left.pop(0)
        return nearest_factors(int(schedule.get(inputs[0]).extent), value) if kind == _TILE else value

    trace.apply_to_schedule(schedule, True, decide)
    return schedule if all(one.apply(schedule) for one in postprocessors) else None


def outline(steps: Sequence[Any]) -> str:
    """The steps of a trace whatever the blocks of its function are called and however many are inlined."""
    needed: set[str] = set()
    kept = []
    for name, inputs, attributes, outputs in reversed(steps):
        if name in _INLINING or (name.startswith("Get") and not needed.intersection(outputs)):
            continue
        needed |= {value for value in inputs if isinstance(value, str) and _VARIABLE.fullmatch(value)}
        kept.append((name, inputs, attributes, outputs))
    numbers: dict[str, int] = {}
    found = []
    for name, inputs, attributes, outputs in reversed(kept):
        read = [numbers.get(value, value) if isinstance(value, str) else value for value in inputs]
        for value in outputs:
            if value in needed:
                numbers[value] = len(numbers)
        found.append(
            (name, read, [] if name == "GetSBlock" else attributes, len(needed.intersection(outputs)))
        )
    return json.dumps(found)


def applied(module: Any, trace: str) -> Any | None:
    """A schedule of a module as a trace says; None where it doesn't fit."""
    from tvm import s_tir
    from tvm.s_tir.schedule import Trace

    schedule = s_tir.Schedule(module)
    try:
        Trace.apply_json_to_schedule(json.loads(trace), schedule)
    except Exception:
        return None
    return schedule


def before_postprocessing(trace: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """A trace, as its steps and decisions, without what MetaSchedule's postprocessors added to it."""
    steps, decisions = trace
    names = [step[0] for step in steps]
    end = names.index("EnterPostproc") if "EnterPostproc" in names else len(names)
    return list(steps[:end]), [[step, value] for step, value in decisions if step < end]


def nearest_factors(extent: int, wanted: Sequence[int]) -> list[int]:
    """Factors of an extent, the inner ones as near to those wanted as divisors can be.

    >>> nearest_factors(180, [18, 8])
    [20, 9]
    """
    found: list[int] = []
    left = extent
    for want in reversed(wanted[1:]):
        factor = min((d for d in range(1, left + 1) if left % d == 0), key=lambda d: (abs(log(d / want)), d))
        found.append(factor)
        left //= factor
    return [extent // prod(found), *reversed(found)]
