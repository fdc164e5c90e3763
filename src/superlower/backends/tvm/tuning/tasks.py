"""Tuning tasks: the fused functions of a graph, as its build schedules them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from superlower.backends.tvm import blocks

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Task:
    """One fused function.

    Attributes:
        key: structural hash, in hexadecimal: equal in every process for equal functions.
        name: in the graph.
        calls: of it, in a frame.
        kind: hash of the function with its sizes left out.
        arguments: (element type, shape) of each, the result last.
        function: the function itself.
        core: hash of its reductions with their sizes left out, the same whatever is done to the sums; "" for
            a function without any.
    """

    key: str
    name: str
    calls: int
    kind: str
    arguments: tuple[tuple[str, tuple[int, ...]], ...]
    function: Any
    core: str = ""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the arguments."""
        return tuple(shape for _, shape in self.arguments)


def normal(function: Any) -> Any:
    """A function as a module of its own, the same whatever the graph calls it."""
    import tvm

    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def key_of(function: Any) -> str:
    """A function's structural hash, in hexadecimal."""
    import tvm_ffi

    return f"{tvm_ffi.structural_hash(normal(function)) & (2**64 - 1):016x}"


def tasks_of(module: Any, calls: int = 1) -> list[Task]:
    """Every fused function of static sizes in a module, each once.

    Args:
        module: after the pipeline that fuses, before any schedule.
        calls: of the whole graph, in a frame.
    """
    from tvm import tirx

    times = calls_of(module)
    found: dict[str, Task] = {}
    for name, function in module.functions_items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        arguments = _arguments(function)
        if arguments is None:
            continue
        key, label = key_of(function), str(name.name_hint)
        known = found.get(key)
        count = times[label] * calls + (known.calls if known else 0)
        found[key] = Task(key, label, count, _kind(function), arguments, function, _core(function))
    return list(found.values())


def merged(lists: Sequence[Sequence[Task]]) -> list[Task]:
    """The tasks of several graphs, each once, with its calls in all of them."""
    found: dict[str, Task] = {}
    for task in (task for tasks in lists for task in tasks):
        known = found.get(task.key)
        calls = task.calls + (known.calls if known else 0)
        found[task.key] = replace(task, calls=calls)
    return list(found.values())


def calls_of(module: Any) -> Mapping[str, int]:
    """How often a graph's own functions call each fused one."""
    from tvm import relax

    counted: Counter[str] = Counter()

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and getattr(node.op, "name", "") == "relax.call_tir":
            counted[str(node.args[0].name_hint)] += 1

    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return counted


def _arguments(function: Any) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo

    try:
        found = [argument.as_json() for argument in ArgInfo.from_prim_func(function)]
    except Exception:
        return None  # Of a size known at run time only, or no tensor.
    return tuple((str(kind), tuple(map(int, shape))) for _, kind, shape in found)


def _kind(function: Any) -> str:
    return _without_sizes(function.script(show_meta=False))


def _core(function: Any) -> str:
    from tvm import s_tir
    from tvm.s_tir.schedule import ScheduleError

    schedule = s_tir.Schedule(function)
    try:
        found = schedule.get_child_blocks(schedule.get_sblock("root"))
    except ScheduleError:
        return ""
    sums = [
        schedule.get(block).script(show_meta=False) for block in found if blocks.is_reduction(schedule, block)
    ]
    return _without_sizes("".join(sums)) if sums else ""


def _without_sizes(text: str) -> str:
    return hashlib.sha256(_NUMBER.sub("", text).encode()).hexdigest()[:16]
