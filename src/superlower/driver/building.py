"""One backend's build for one target: a graph legalized, treated for known bugs, and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from superlower.backends.base import Artifact, Backend, BuildOptions
from superlower.doctor.examine import Context
from superlower.doctor.treat import treat
from superlower.driver.reference import Feeds
from superlower.passes.base import Pass
from superlower.passes.pipelines import PassReport, apply
from superlower.targets.base import Precision, Target


@dataclass(frozen=True)
class Job:
    """One backend's build for one target at one precision.

    Attributes:
        backend, target, precision: which.
        named: whether the user asked for the backend by its name, so that it can't be left out silently.
    """

    backend: Backend
    target: Target
    precision: Precision
    named: bool = True

    @property
    def name(self) -> str:
        """The variant's name."""
        return f"{self.backend.name}-{self.target.name}-{self.precision}"


@dataclass(frozen=True)
class BuiltGraph:
    """One graph's engine, what its passes did, and what the rules for known bugs warn of."""

    artifact: Artifact
    reports: tuple[PassReport, ...]
    warnings: tuple[str, ...]


def build_graph(
    job: Job,
    graph: ir.Model,
    feeds: Sequence[Feeds],
    options: BuildOptions,
    workdir: Path,
    last: Sequence[Pass] = (),
) -> BuiltGraph:
    """Compile a graph that had the default passes: legalized, treated for known bugs, then built.

    Args:
        feeds: to validate passes on.
        options: of the build but for its precision; settings are named BACKEND.KEY.
        workdir: an empty folder, the engine's.
        last: passes to run on the legalized graph that no budget by element holds for. Neither they nor what
            known bugs need of their result are validated: the last bit of a coordinate decides a level.

    Raises:
        OutputsDifferError: a pass left its budget.
        BuildFailedError, UnsupportedOperatorError, MissingSdkError: as the backend found.
    """
    own = f"{job.backend.name}."
    settings = {k.removeprefix(own): v for k, v in options.settings.items() if k.startswith(own)}
    context = Context(job.backend.name, job.backend.versions(), job.target, job.precision, settings)
    legal, reports = apply(graph, job.backend.legalize(job.target, job.precision), feeds)
    changed, further = apply(legal, last)
    treated = treat(context, changed, () if last else feeds)
    asked = replace(options, precision=job.precision, settings=settings)
    artifact = job.backend.compile(treated.model, job.target, asked, workdir)
    return BuiltGraph(artifact, (*reports, *further, *treated.reports), treated.warnings)
