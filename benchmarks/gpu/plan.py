"""Steps within a time limit, unattended: each in a process of its own, and the record written after each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DONE, FAILED, SKIPPED, LATE = "done", "failed", "skipped", "out of time"

RESERVE_S = 10.0
"""Of the whole limit: for writing what was found."""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        name: as the record has it: "check basicvsr".
        argument: what the child is called with.
        least_s: it isn't begun with less time than this left.
        most_s: it is stopped after so long.
        needs: steps that must be done.
        kept: whether a record from before is good: builds are, measurements aren't.
    """

    name: str
    argument: str
    least_s: float = 5.0
    most_s: float = 600.0
    needs: tuple[str, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Record:
    """What became of a step.

    Attributes:
        name: the step's.
        status: "done", "failed", "skipped" or "out of time".
        seconds: it took.
        result: what it found.
        error: why it isn't done, in a line.
        exit_code: of what failed, as superlower's are.
    """

    name: str
    status: str
    seconds: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    exit_code: int = 0


Run = Callable[[Step, float], Record]
"""Does a step within so many seconds."""


def run_steps(
    steps: Sequence[Step],
    limit_s: float,
    run: Run,
    checkpoint: Callable[[Sequence[Record]], None],
    *,
    before: Sequence[Record] = (),
    clock: Callable[[], float] = time.monotonic,
) -> list[Record]:
    """Do the steps in order, as far as the time goes.

    Args:
        limit_s: of all together, `RESERVE_S` included.
        checkpoint: given all records so far after each step.
        before: records of an earlier run, taken for steps that are `kept` and were done.
    """
    end = clock() + limit_s - RESERVE_S
    stored = {record.name: record for record in before if record.status == DONE}
    records: list[Record] = []
    for step in steps:
        left = end - clock()
        done = {record.name for record in records if record.status == DONE}
        lacking = [name for name in step.needs if name not in done]
        if step.kept and step.name in stored:
            records.append(stored[step.name])
        elif lacking:
            records.append(Record(step.name, SKIPPED, error=f"needs {lacking[0]}, which isn't done"))
        elif left < step.least_s:
            why = f"{max(left, 0):.0f} s are left, it takes {step.least_s:.0f} at least"
            records.append(Record(step.name, LATE, error=why))
        else:
            records.append(run(step, min(left, step.most_s)))
        checkpoint(records)
    return records


def child(script: Path, work: Path) -> Run:
    """Runs steps as `script --do ARGUMENT --result FILE`, and kills those that take too long."""

    def run(step: Step, seconds: float) -> Record:
        result = work / "step.json"
        result.unlink(missing_ok=True)
        log = work / "logs" / f"{step.argument.replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(script), "--work", str(work), "--do", step.argument]
        began = time.monotonic()
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*command, "--result", str(result)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Tuned schedules lie with the rest of the run, and later builds find them.
                env={**os.environ, "SUPERLOWER_TUNING": str(work / "tuning")},
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                took = time.monotonic() - began
                return Record(step.name, LATE, took, error=f"stopped after {took:.0f} s; see {log}")
            finally:
                # And whatever it started: compilers, tuners.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        took = time.monotonic() - began
        if code == 0 and result.is_file():
            return Record(step.name, DONE, took, json.loads(result.read_text()))
        how = f"killed by signal {-code}" if code < 0 else last_line(log)
        return Record(step.name, FAILED, took, error=how, exit_code=5 if code < 0 else code or 1)

    return run


def last_line(log: Path) -> str:
    """Of a log, what an error ends with."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no output"


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON aside first and then under its name, so that a run cut short leaves what it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(document, indent=2, default=str) + "\n")
    aside.replace(path)


def read_records(path: Path) -> list[Record]:
    """Records of an earlier run; none where there is no file that can be read."""
    try:
        return [Record(**one) for one in json.loads(path.read_text())["steps"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def builtins(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as JSON has them."""
    return [asdict(record) for record in records]
