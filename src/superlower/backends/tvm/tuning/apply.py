"""What a build takes from the tuning database."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superlower.backends import sdk
from superlower.backends.tvm import blocks, tensor_cores, wmma
from superlower.backends.tvm.schedule import is_scheduled
from superlower.backends.tvm.tuning.ranking import Record, target_key
from superlower.backends.tvm.tuning.store import in_force
from superlower.backends.tvm.tuning.tasks import calls_of, key_of, normal

log = logging.getLogger(__name__)


class Tuned:
    """The fastest schedules known for a target."""

    def __init__(self, target: Mapping[str, Any], folder: Path | None) -> None:
        """For TVM's target dictionary, from a database's folder and the one in the package; None: neither."""
        self._target = target_key(target)
        self._threads = int(target.get("num-cores", 0))
        self._version = sdk.version("apache-tvm")
        self._sources = in_force(folder)

    @property
    def skipped(self) -> int:
        """Lines of the databases that are no measurements."""
        return sum(source.skipped for source in self._sources)

    def best(self, task: str) -> Record | None:
        """The fastest schedule of a task, the user's own measurements first; None if nobody measured it."""
        for source in self._sources:
            found = source.best(task, self._target, self._version, self._threads)
            if found is not None:
                return found
        return None


def replayed(function: Any, trace: str) -> Any:
    """A function scheduled as a trace says.

    Raises:
        Exception: as TVM finds; the trace is of another function, or no trace.
    """
    from tvm import s_tir
    from tvm.s_tir.schedule import Trace

    if tensor_cores.TENSORIZE in trace:
        wmma.register()
    # A copy, as another schedule follows where this one doesn't fit.
    schedule = s_tir.Schedule(normal(blocks.copied(function)))
    Trace.apply_json_to_schedule(json.loads(trace), schedule)
    return tensor_cores.marked(schedule.mod["main"], trace).with_attr("tirx.is_scheduled", True)


def apply_records(
    module: Any, target: Mapping[str, Any], folder: str
) -> tuple[Any, dict[str, str | int | float]]:
    """Give each fused function the fastest schedule known for it; those nobody measured stay as they are.

    A schedule changes the order in which a function computes, never what: TVM checks each step of a trace.

    Returns:
        The module, and what the manifest says of it: how many functions have a record, how many of these run
        a schedule that search found, which (function=task), and how many lines of the database were none;
        where every function has a record, the milliseconds that they took together when they were measured.
    """
    from tvm import tirx

    if not folder:
        return module, {"tuned": "no"}
    tuned = Tuned(target, Path(folder))
    functions = [
        (name, function)
        for name, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc) and not is_scheduled(function)
    ]
    calls = calls_of(module)
    hits, searched, failed, seconds = 0, [], 0, 0.0
    for name, function in functions:
        key = key_of(function)
        record = tuned.best(key)
        if record is None:
            continue
        hits += 1
        seconds += calls[str(name.name_hint)] * record.time
        if not record.trace:
            continue
        try:
            scheduled = replayed(function, record.trace)
        except Exception as error:
            log.warning("tuned schedule of %s can't be applied: %s", name.name_hint, sdk.first_line(error))
            failed += 1
            continue
        kept = {"global_symbol": str(name.name_hint)} if "global_symbol" in (function.attrs or {}) else {}
        scheduled = scheduled.with_attrs(kept) if kept else scheduled.without_attr("global_symbol")
        module[name] = scheduled
        searched.append(f"{name.name_hint}={key}")
    facts: dict[str, str | int | float] = {"tuned": "yes" if searched else "no"}
    if hits:
        facts |= {"tasks": len(functions), "tasks_measured": hits, "tasks_tuned": len(searched)}
    if hits and hits == len(functions) and not failed:
        facts["tasks_ms"] = float(f"{1000 * seconds:.4g}")
    if searched:
        facts["records"] = " ".join(sorted(searched))
    facts |= {"records_skipped": tuned.skipped} if tuned.skipped else {}
    facts |= {"records_failed": failed} if failed else {}
    return module, facts
