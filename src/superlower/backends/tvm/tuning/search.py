"""The search for one task: what to measure next, told what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from superlower.backends.tvm.processors import Cpu, Cuda
from superlower.backends.tvm.tuning import space, transfer
from superlower.backends.tvm.tuning.ranking import DEFAULT, Record
from superlower.backends.tvm.tuning.tasks import Task, normal

POPULATION = 96
"""Of a generation: small, as a core that evolves schedules is one that doesn't measure them."""
LEAST_GAIN = 0.01
PATIENCE = 40
"""Measurements without a gain after which a task is done."""
UNLIMITED = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """A schedule to measure.

    Attributes:
        trace: its trace as JSON.
        origin: "transfer" or "search".
    """

    trace: str
    origin: str
    measured: Any = field(default=None, compare=False)


class TaskSearch:
    """MetaSchedule's evolutionary search over a task's design spaces, after what other tasks suggest."""

    def __init__(
        self,
        task: Task,
        where: Cpu | Cuda,
        known: Sequence[Record],
        suggest: Callable[[], Sequence[Record]],
        *,
        seed: int,
        batch: int,
        threads: int = 1,
    ) -> None:
        """Begin, or go on with what is known.

        Args:
            where: what is tuned for.
            known: measurements of this very task on this device.
            suggest: records of like tasks as they are now, best first: their schedules are measured first.
            seed: of what is drawn.
            batch: schedules measured between two generations.
            threads: that draw schedules.
        """
        self.task = task
        self.best_s = min((record.time for record in known), default=float("inf"))
        self.default_s = min((r.time for r in known if r.origin == DEFAULT), default=float("inf"))
        self.trials = sum(record.searched for record in known)
        self.curve = _curve(known)
        self.exhausted = False
        self._since = _since_gain(self.curve)
        self._seen = {record.trace for record in known}
        self._where, self._seed, self._batch, self._threads = where, seed, batch, threads
        self._known = tuple(known)
        self._suggest = suggest
        self._taken: set[str] = set()
        self._began = False
        self._context: Any = None
        self._spaces: list[Any] = []
        self._sent: dict[str, Any] = {}

    @property
    def done(self) -> bool:
        """Whether gains have dried up, or every schedule was measured."""
        return self.exhausted or self._since >= PATIENCE

    @property
    def promise_s(self) -> float:
        """Seconds of a frame that the next batch may save: the task's time, less with each batch in vain."""
        batches = 1 + self.trials / self._batch
        patience = 1 - self._since / PATIENCE
        return self.task.calls * self.best_s * max(patience, 0.0) / batches

    def next(self) -> list[Candidate]:
        """Schedules to measure, none of them measured before; none at all when the search is exhausted."""
        found = self._near_default() or self._transferred() or self._generated()
        self._seen |= {candidate.trace for candidate in found}
        self.exhausted = not found
        return found

    def told(self, candidates: Sequence[Candidate], seconds: Sequence[Sequence[float]]) -> None:
        """What a batch's measuring came to: seconds of each repetition; none for a failure."""
        for times in seconds:
            self.trials += 1
            time = min(times, default=float("inf"))
            gained = time < self.best_s * (1 - LEAST_GAIN)
            self._since = 0 if gained else self._since + 1
            self.best_s = min(self.best_s, time)
            self.curve.append(self.best_s)
        sent = [(c.measured, times) for c, times in zip(candidates, seconds, strict=True) if c.measured]
        if not sent or self._context is None:
            return
        from tvm.s_tir import meta_schedule as ms

        results = [
            ms.runner.RunnerResult(list(times), None) if times else ms.runner.RunnerResult(None, "failed")
            for _, times in sent
        ]
        measured = [candidate for candidate, _ in sent]
        for candidate, times in sent:
            self._commit(candidate.sch.trace, times)
        self._model.update(self._context, measured, results)
        self._context.notify_runner_results(measured, results)

    def _near_default(self) -> list[Candidate]:
        """The default schedule's tiles as the search draws them: what it should know of first."""
        if self._began or not isinstance(self._where, Cpu):
            return []
        self._began = True
        self._started()
        from tvm.s_tir import Schedule

        plain = Schedule(normal(self.task.function))
        tiles = space.register_tiles(plain, self._where.vectors, by_default=True)
        drawn = [one for one in tiles if all(post.apply(one) for post in self._postprocessors)]
        return self._unseen(map(self._candidate, drawn))

    def _transferred(self) -> list[Candidate]:
        new = [record for record in self._suggest() if record.trace not in self._taken]
        if not new:
            return []
        self._started()
        found: dict[str, Candidate] = {}
        for record in new:
            if len(found) == self._batch:
                break
            self._taken.add(record.trace)
            module = normal(self.task.function)
            if record.kind == self.task.kind:
                schedule = transfer.adapted(module, record.trace, self._postprocessors)
            else:
                schedule = transfer.redrawn(module, record.trace, self._spaces, self._postprocessors)
            trace = "" if schedule is None else space.trace_text(schedule)
            if trace and trace not in self._seen:
                found.setdefault(trace, Candidate(trace, "transfer", self._candidate(schedule)))
        return list(found.values())

    def _generated(self) -> list[Candidate]:
        self._started()
        return self._unseen(self._context.generate_measure_candidates() or ())

    def _unseen(self, measured: Iterable[Any]) -> list[Candidate]:
        """Those of MetaSchedule's candidates that weren't measured yet, each once."""
        found: dict[str, Candidate] = {}
        for one in measured:
            trace = space.trace_text(one.sch)
            if trace not in self._seen:
                found.setdefault(trace, Candidate(trace, "search", one))
        return list(found.values())

    def _started(self) -> None:
        if self._context is not None:
            return
        from tvm.s_tir import meta_schedule as ms

        module = normal(self.task.function)
        self._context, self._spaces = space.context(
            module, self._where, self._seed, POPULATION, self._threads
        )
        self._postprocessors = list(self._context.space_generator.postprocs)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(module)
        self._model = ms.cost_model.XGBModel(num_warmup_samples=self._batch)
        self._learn()
        self._context.pre_tuning(UNLIMITED, self._batch, self._spaces, self._database, self._model)

    def _learn(self) -> None:
        """Take up measurements of an earlier run: as parents of new schedules, and to the cost model."""
        from tvm.s_tir import meta_schedule as ms

        module, measured, results = normal(self.task.function), [], []
        for record in self._known:
            if not record.trace:
                continue
            schedule = transfer.applied(module, record.trace)
            if schedule is None:
                continue
            self._commit(schedule.trace, record.seconds)
            if record.seconds:
                measured.append(self._candidate(schedule))
                results.append(ms.runner.RunnerResult(list(record.seconds), None))
        if measured:
            self._model.update(self._context, measured, results)

    @staticmethod
    def _candidate(schedule: Any) -> Any:
        from tvm.s_tir import meta_schedule as ms

        arguments = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
        return ms.MeasureCandidate(schedule, arguments)

    def _commit(self, trace: Any, times: Sequence[float]) -> None:
        from tvm.s_tir import meta_schedule as ms

        if not times:
            return
        record = ms.database.TuningRecord(trace, self._workload, list(times), self._where.target, None)
        self._database.commit_tuning_record(record)


def _curve(known: Sequence[Record]) -> list[float]:
    """The best time after each schedule that search measured; the default one is where it starts."""
    best = min((record.time for record in known if record.origin == DEFAULT), default=float("inf"))
    found = []
    for record in known:
        if record.searched:
            best = min(best, record.time)
            found.append(best)
    return found


def _since_gain(curve: Sequence[float]) -> int:
    """Measurements since the last that gained enough."""
    for back in range(len(curve) - 1, 0, -1):
        if curve[back] < curve[back - 1] * (1 - LEAST_GAIN):
            return len(curve) - 1 - back
    return max(len(curve) - 1, 0)


def trials_to(curve: Sequence[float], seconds: float) -> int | None:
    """Measurements until a time was reached; None if it wasn't."""
    return next((i + 1 for i, best in enumerate(curve) if best <= seconds), None)
