"""The tuning process: measures default schedules, then searches where a frame's time goes.

Each measurement is on the disk before the next begins: whatever ends this process, another goes on from
there.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import count
from math import prod
from pathlib import Path
from typing import cast

import msgspec
import onnx_ir as ir

from superlower.backends import sdk
from superlower.backends.tvm.build import fused
from superlower.backends.tvm.processors import Cuda, processor
from superlower.backends.tvm.tuning import search, transfer
from superlower.backends.tvm.tuning.apply import Tuned
from superlower.backends.tvm.tuning.journal import Event, Journal, TaskLine
from superlower.backends.tvm.tuning.pool import Pool
from superlower.backends.tvm.tuning.ranking import (
    AGAIN,
    DEFAULT,
    MOST_TURNS,
    TURNS,
    Record,
    defaults_of,
    ranked,
    rivals,
    schedules_of,
    target_key,
)
from superlower.backends.tvm.tuning.request import Request, Result
from superlower.backends.tvm.tuning.search import Candidate, TaskSearch
from superlower.backends.tvm.tuning.store import Store, in_force
from superlower.backends.tvm.tuning.tasks import Task, merged, tasks_of
from superlower.backends.tvm.tuning.worker import Build, Reply, Run
from superlower.errors import BadInputError, BuildFailedError

SMALL = 0.002
"""Share of a frame's time under which a task isn't searched: nothing found there could be seen."""
BATCH = 8
BUILD_S, RUN_S, DEFAULTS_S = 60.0, 15, 900.0
"""Limits of a candidate's build and run, and of the build of all default schedules."""
AGAIN_S, AGAIN_SHARE = 20.0, 0.1
"""Time that is kept for that: of a task, and at most of the whole run."""
WAIT_S = 300.0
"""How long a measurement may wait for a device of a farm, others measuring on it."""


def tune(request: dict[str, object], workdir: Path) -> dict[str, object]:
    """Tune; returns a `Result`.

    Raises:
        UnsupportedOperatorError: TVM's importer refuses a node.
        BadInputError: nothing in the graphs can be tuned, or the database can't be used.
        BuildFailedError: not one default schedule could be built and measured.
    """
    run = _Run(msgspec.convert(request, Request), workdir)
    with ExitStack() as stack:
        run.start(stack)
        run.measure_defaults()
        run.search()
        run.measure_again()
    return run.result()


class _Run:
    def __init__(self, asked: Request, workdir: Path) -> None:
        self._asked, self._folder = asked, workdir
        self._journal = Journal(workdir)
        self._store = Store(Path(asked.database))
        self._target_key = target_key(asked.target)
        self._version = sdk.version("apache-tvm")
        # Before TVM is imported.
        self._where = processor(asked.target, workdir)
        self._device = "cuda" if isinstance(self._where, Cuda) else "cpu"
        self.measured = 0
        self._began = time.time()
        self._keeping = threading.Lock()
        self._numbers = count()
        self._defaults: dict[str, float] = {}
        self._searches: dict[str, TaskSearch] = {}
        self._suggested: dict[str, int] = {}
        self._failed: dict[str, int] = {}

    def start(self, stack: ExitStack) -> None:
        """Find the tasks, and what is known of them."""
        self._journal.tell(Event(stage="finding tasks", total=len(self._asked.graphs)))
        lists = []
        for file, calls in self._asked.graphs:
            lists.append(tasks_of(fused(ir.load(file), self._where), calls))
            self._journal.tell(Event())
        self._tasks = {task.key: task for task in merged(lists)}
        if not self._tasks:
            raise BadInputError("no fused function of these graphs can be tuned: none has fixed sizes")
        found = self._store.read()
        self._all = [*found.records, *in_force(self._store.folder)[-1].records]
        for task in self._tasks.values():
            if times := [r.time for r in self._known(task) if r.origin == DEFAULT and r.seconds]:
                self._defaults[task.key] = min(times)
        if self._asked.dry:
            return
        self._write_functions()
        log = self._folder / "workers.log"
        cores = self._asked.builders
        threads = str(max(1, self._asked.threads))
        runtime = {"TVM_NUM_THREADS": threads, "TVM_BIND_THREADS": "0", "TVM_USE_RUNTIME_LIB": "1"}
        devices = self._asked.devices if self._asked.farm else 1
        self._runners = stack.enter_context(Pool("run", self._device, devices, log, runtime))
        compiler = {"TVM_USE_RUNTIME_LIB": "0"}
        self._builders = stack.enter_context(Pool("build", self._device, cores, log, compiler))
        # These threads live as long as the workers they start, which end with them.
        self._threads = ThreadPoolExecutor(max(cores, self._runners.count))
        stack.callback(self._threads.shutdown, cancel_futures=True)

    def _known(self, task: Task) -> list[Record]:
        """What this device has measured of a task."""
        return [
            record
            for record in self._all
            if (record.task, record.target, record.tvm) == (task.key, self._target_key, self._version)
            and record.defaults == defaults_of(record.target)
            and (record.device, record.threads) == (self._asked.device, self._asked.threads)
        ]

    def _write_functions(self) -> None:
        import tvm

        for key, task in self._tasks.items():
            function = task.function.with_attr("global_symbol", _symbol(key))
            text = tvm.ir.save_json(tvm.IRModule({_symbol(key): function}))
            (self._folder / f"{key}.json").write_text(text)
        functions = {
            _symbol(key): task.function.with_attr("global_symbol", _symbol(key))
            for key, task in self._tasks.items()
        }
        (self._folder / "every.json").write_text(tvm.ir.save_json(tvm.IRModule(functions)))

    def measure_defaults(self) -> None:
        """Measure every task's default schedule, all built at once: it is what gains are told by."""
        if self._asked.dry:
            return
        library = str(self._defaults_library)
        self._journal.tell(Event(stage="building default schedules"))
        # Also those known from before: their results are what other schedules are compared with.
        reply = self._builders.do(
            Build(
                module=str(self._folder / "every.json"),
                traces={_symbol(key): "" for key in self._tasks},
                target=dict(self._asked.target),
                library=library,
            ),
            min(DEFAULTS_S, max(self._left_s(), 60.0)),
        )
        if reply.error:
            raise BuildFailedError(f"tvm: default schedules can't be built to be measured: {reply.error}")
        self._journal.tell(Event(stage="measuring default schedules", total=len(self._tasks)))
        # The largest first, should time be short.
        order = sorted(self._tasks.values(), key=lambda t: -t.calls * sum(map(prod, t.shapes)))
        list(self._threads.map(lambda task: self._measure_default(task, library), order))
        if not self._defaults:
            reasons = Counter(record.error for record in self._all if record.origin == DEFAULT)
            why = reasons.most_common(1)[0][0] if reasons else "no time was left"
            raise BuildFailedError(f"tvm: no default schedule could be measured: {why}")

    def _measure_default(self, task: Task, library: str) -> None:
        if self._left_s() <= 0:
            return
        reply = self._run(task, library, make_reference=True)
        if reply.error and self._left_s() > 0:
            # Without this one the task can't be searched: it is worth another try.
            reply = self._run(task, library, make_reference=True)
        self._keep(task, Candidate("", DEFAULT), reply)
        if reply.seconds:
            self._defaults[task.key] = min(reply.seconds)
        self._journal.tell(Event(measured=1))

    def search(self) -> None:
        """Search the tasks in turn, always where the next batch may save most of a frame's time."""
        total = self._total_s()
        for task in self._tasks.values():
            default = self._defaults.get(task.key)
            if default is not None and task.calls * default >= SMALL * total:
                known = self._known(task)
                # What this run measures from now on is among it.
                records = self._all if self._asked.transfer else []
                suggest = partial(transfer.suggestions, task, self._target_key, records)
                self._suggested[task.key] = len(suggest())
                seed = 1 + (zlib.crc32(task.key.encode()) ^ self._asked.seed) % (2**31 - 2)
                self._searches[task.key] = TaskSearch(
                    task,
                    self._where,
                    known,
                    suggest,
                    seed=seed,
                    batch=BATCH,
                    threads=1 if self._device == "cpu" else self._asked.builders,
                )
        if self._asked.dry:
            return
        self._journal.tell(Event(stage="searching", total=self._asked.trials or 0))
        self._searched = 0
        while (one := self._most_promising()) is not None:
            candidates = one.next()
            if (left := self._trials_left()) is not None:
                candidates = candidates[:left]
            done = self._measure(one, candidates)
            one.told([candidate for candidate, _ in done], [reply.seconds for _, reply in done])
            self._searched += len(done)
            line = self._line(one.task)
            self._journal.tell(Event(task=line, measured=len(done), left_s=self._expected_left_s()))

    def _most_promising(self) -> TaskSearch | None:
        if self._left_s() <= self._kept_s() or self._trials_left() == 0:
            return None
        open_ = [one for one in self._searches.values() if not one.done]
        return max(open_, key=lambda one: one.promise_s, default=None)

    def measure_again(self) -> None:
        """Measure the fastest schedules found in turns with the default one.

        Of a hundred that are equally fast one was measured in the machine's best moment.
        """
        found = {key: rivals(self._known(one.task)) for key, one in self._searches.items()}
        total = sum(TURNS * (1 + len(each)) for each in found.values() if each)
        if self._asked.dry or not total:
            return
        self._journal.tell(Event(stage="measuring the fastest again", total=total))
        # Those that take most of a frame first, should time be short.
        for task in sorted(self._tasks.values(), key=lambda t: -t.calls * self._defaults.get(t.key, 0.0)):
            if candidates := [Candidate(one.trace, AGAIN) for one in found.get(task.key, ())]:
                self._take_turns(task, candidates)

    def _take_turns(self, task: Task, candidates: Sequence[Candidate]) -> None:
        built = self._built(task, candidates)
        turns = [(candidate, library) for candidate, library, reply in built if not reply.error]
        for turn in range(MOST_TURNS):
            if turn and turn % TURNS == 0:
                open_ = {one.trace for one in schedules_of(self._known(task)) if one.undecided}
                turns = [(candidate, library) for candidate, library in turns if candidate.trace in open_]
            if not turns:
                return
            default_s = 0.0
            for candidate, library in [(Candidate("", AGAIN), self._defaults_library), *turns]:
                if self._left_s() <= 0:
                    return
                reply = self._run(task, str(library))
                self._keep(task, candidate, reply, default_s if candidate.trace else 0.0)
                default_s = default_s if candidate.trace else min(reply.seconds, default=0.0)
                self._journal.tell(Event(measured=1))

    def _measure(self, one: TaskSearch, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Reply]]:
        """Build side by side, then measure one after another, or on as many devices as the farm has."""
        ready = self._built(one.task, candidates)

        def measured(entry: tuple[Candidate, Path, Reply]) -> tuple[Candidate, Reply] | None:
            candidate, library, reply = entry
            if not reply.error:
                if self._left_s() <= 0:
                    return None
                reply = self._run(one.task, str(library), best_s=one.best_s)
                library.unlink(missing_ok=True)
            self._keep(one.task, candidate, reply)
            return candidate, reply

        if self._runners.count > 1:
            return [found for found in self._threads.map(measured, ready) if found is not None]
        return [found for found in map(measured, ready) if found is not None]

    def _built(self, task: Task, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Path, Reply]]:
        """Built side by side; those that the end of the run cut short are left out."""
        built = list(self._threads.map(lambda candidate: self._build(task, candidate), candidates))
        return [(c, library, reply) for c, (library, reply) in zip(candidates, built, strict=True) if reply]

    def _build(self, task: Task, candidate: Candidate) -> tuple[Path, Reply | None]:
        # A name of its own: a loader that knows one doesn't look at the file again.
        library = self._folder / f"candidate-{next(self._numbers)}.so"
        if (left := self._left_s()) <= 0:
            return library, None
        job = Build(
            module=str(self._folder / f"{task.key}.json"),
            traces={_symbol(task.key): candidate.trace},
            target=dict(self._asked.target),
            library=str(library),
        )
        reply = self._builders.do(job, min(BUILD_S, left))
        # What the end of the run cut short says nothing of the schedule.
        return library, None if reply.error and self._left_s() <= 0 else reply

    def _run(self, task: Task, library: str, *, make_reference: bool = False, best_s: float = 0.0) -> Reply:
        job = Run(
            library=library,
            function=_symbol(task.key),
            arguments=task.arguments,
            reference=str(self._folder / f"{task.key}.npy"),
            make_reference=make_reference,
            best_s=best_s,
            cuda=self._device == "cuda",
            farm=self._asked.farm,
            timeout_s=RUN_S,
        )
        if self._asked.farm is None:
            return self._runners.do(job, RUN_S)
        reply = self._runners.do(job, WAIT_S)
        # The device may have failed rather than the schedule: another one gets to say.
        return self._runners.do(job, WAIT_S) if reply.error else reply

    def _keep(self, task: Task, candidate: Candidate, reply: Reply, default_s: float = 0.0) -> None:
        record = Record(
            task=task.key,
            name=task.name,
            kind=task.kind,
            shapes=task.shapes,
            target=self._target_key,
            tvm=self._version,
            device=self._asked.device,
            origin=candidate.origin,
            threads=self._asked.threads,
            seconds=reply.seconds,
            default_s=default_s,
            error=reply.error,
            trace=candidate.trace,
            defaults=defaults_of(self._target_key),
            core=task.core,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._keeping:
            self._store.append([record])
            self._all.append(record)
            self.measured += 1
            if reply.error:
                self._failed[task.key] = self._failed.get(task.key, 0) + 1

    def _left_s(self) -> float:
        return float("inf") if self._asked.until is None else self._asked.until - time.time()

    def _kept_s(self) -> float:
        """Time to be left for measuring again what was faster than its default."""
        if self._asked.until is None:
            return 0.0
        gained = sum(one.best_s < one.default_s for one in self._searches.values())
        return min(AGAIN_S * gained, AGAIN_SHARE * (self._asked.until - self._began))

    @property
    def _defaults_library(self) -> Path:
        return self._folder / "defaults.so"

    def _trials_left(self) -> int | None:
        return None if self._asked.trials is None else max(0, self._asked.trials - self._searched)

    def _expected_left_s(self) -> float | None:
        left = self._left_s()
        return None if left == float("inf") else max(0.0, left)

    def _total_s(self) -> float:
        return sum(task.calls * self._defaults.get(key, 0.0) for key, task in self._tasks.items())

    def lines(self) -> list[TaskLine]:
        """Every task as it stands, those that take most of a frame first."""
        return sorted(map(self._line, self._tasks.values()), key=lambda line: -line.share)

    def result(self) -> dict[str, object]:
        """What the run came to; a build asks the database by the same keys."""
        tuned = Tuned(self._asked.target, self._store.folder)
        hits = sum(tuned.best(key) is not None for key in self._tasks)
        if not hits and not self._asked.dry:
            raise BuildFailedError(
                f"tvm: none of {len(self._tasks)} tasks has a measurement that a build would find in "
                f"{self._store.folder}"
            )
        result = Result(tasks=tuple(self.lines()), hits=hits, measured=self.measured, skipped=tuned.skipped)
        return cast(dict[str, object], msgspec.to_builtins(result))

    def _line(self, task: Task) -> TaskLine:
        one = self._searches.get(task.key)
        known = self._known(task)
        schedules = ranked(known)
        default = next((one.seconds for one in schedules if one.default), None)
        best = schedules[0].seconds if schedules else None
        if schedules and default is not None and (beside := schedules[0].beside) is not None:
            best = default * beside
        state = "small" if one is None else "searching"
        if one is not None and one.done:
            state = "exhausted" if one.exhausted else "done"
        return TaskLine(
            task=task.key,
            name=task.name,
            calls=task.calls,
            share=task.calls * self._defaults.get(task.key, 0.0) / (self._total_s() or 1.0),
            default_s=default,
            best_s=best,
            trials=sum(record.searched for record in known),
            failed=self._failed.get(task.key, 0),
            to_95=None if one is None or not one.curve else search.trials_to(one.curve, one.best_s / 0.95),
            suggested=self._suggested.get(task.key, 0),
            state=state,
        )


def _symbol(key: str) -> str:
    return f"task_{key}"
