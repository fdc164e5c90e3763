"""The variants of a bundle: every job's engines, built one by one or several at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from superlower.backends.base import BuildOptions
from superlower.bundle.bundle import VARIANT_FOLDER
from superlower.bundle.manifest import Variant
from superlower.driver.building import BuiltEngine, Job, build_engine, limit_of, variant_of
from superlower.driver.lowering import Lowered
from superlower.driver.many_builds import Builds, make
from superlower.driver.progress import Progress
from superlower.driver.reference import Feeds
from superlower.errors import SuperlowerError
from superlower.program.model import TemporalModel


@dataclass(frozen=True)
class Failure:
    """A job that came to nothing."""

    job: str
    error: SuperlowerError


@dataclass(frozen=True)
class VariantBuilds:
    """The builds of a compile, and what they have in common."""

    model: TemporalModel
    feeds: Mapping[str, list[Feeds]]
    options: BuildOptions
    states: Mapping[str, tuple[tuple[str, str], ...]]
    folder: Path
    atol: float | None
    builds: Builds
    progress: Progress

    def build(
        self, jobs: Sequence[Job], lowered_for: Callable[[Job], Lowered | None], keep_going: bool
    ) -> tuple[list[Variant], list[Failure]]:
        """A variant of each job that doesn't fail."""
        variants: list[Variant] = []
        failures: list[Failure] = []
        many = self.builds.at_once > 1
        for some in [jobs] if many else [[job] for job in jobs]:
            try:
                lowered = {job.name: lowered_for(job) for job in some}
            except SuperlowerError as failed:
                if not keep_going:
                    raise
                failures += [Failure(job.name, failed) for job in some]
                continue
            what = f"{len(some) * len(self.model.graphs)} engines" if many else some[0].name
            self.progress.stage(f"building {what}", len(some) * len(self.model.graphs))
            engines = self._engines(some, lowered, keep_going)
            for job in some:
                made = {graph: engines[job.name, graph] for graph in self.model.graphs}
                failed_with = next((one for one in made.values() if isinstance(one, SuperlowerError)), None)
                if failed_with is not None:
                    shutil.rmtree(self._place(job), ignore_errors=True)
                    failures.append(Failure(job.name, failed_with))
                    continue
                of_job = {g: one for g, one in made.items() if isinstance(one, BuiltEngine)}
                how = lowered[job.name]
                limit = limit_of(job.precision, self.model.program.frame, self.atol, how)
                variants.append(variant_of(job.name, job.target, job.precision, of_job, limit, how))
        return variants, failures

    def _place(self, job: Job) -> Path:
        return self.folder / VARIANT_FOLDER / job.name

    def _engines(
        self, jobs: Sequence[Job], lowered: Mapping[str, Lowered | None], keep_going: bool
    ) -> dict[tuple[str, str], BuiltEngine | SuperlowerError]:
        failed: dict[str, SuperlowerError] = {}

        def task(job: Job, graph: str) -> BuiltEngine:
            if job.name in failed:  # Its other graphs make no variant.
                raise failed[job.name]
            asked = replace(self.options, stateful=self.states[graph])
            try:
                return build_engine(
                    job,
                    graph,
                    self.model,
                    self.feeds[graph],
                    asked,
                    self._place(job) / graph,
                    lowered[job.name],
                    self.builds.cache,
                )
            except SuperlowerError as error:
                failed.setdefault(job.name, error)
                raise

        return make(
            {(job.name, graph): partial(task, job, graph) for job in jobs for graph in self.model.graphs},
            self.builds.at_once,
            keep_going=keep_going,
            on_done=lambda key: self.progress.advance(" ".join(key) if len(jobs) > 1 else key[1]),
        )
