"""Builds for one target: a graph legalized, treated for known bugs and compiled; engines made a variant."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import onnx_ir as ir

from superlower.backends.base import Artifact, Backend, BuildOptions
from superlower.bundle.manifest import MIXED, PassRecord, Variant
from superlower.check.tolerance import Tolerance, quantized_tolerance, tolerance
from superlower.doctor.examine import Context
from superlower.doctor.treat import treat
from superlower.driver.engine_cache import EngineCache
from superlower.driver.lowering import Lowered
from superlower.driver.mixed import Mixed
from superlower.driver.quantization import Quantized
from superlower.driver.records import record_of
from superlower.driver.reference import Feeds
from superlower.ir import save
from superlower.passes.base import Pass
from superlower.passes.pipelines import PassReport, apply
from superlower.program.model import Frame, TemporalModel
from superlower.targets.base import Precision, Target
from superlower.targets.detect import required_flags

log = logging.getLogger(__name__)

_PASSES = threading.Lock()
"""Held while passes run, of several builds made at once: rewrite rules keep state of what they match."""

TYPED = "typed.onnx"
"""A graph of mixed types as the backend was given it, beside its engine."""


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
    first: Sequence[Pass] = (),
    last: Sequence[Pass] = (),
    cache: EngineCache | None = None,
) -> BuiltGraph:
    """Compile a graph that had the default passes: legalized, treated for known bugs, then built.

    Args:
        feeds: to validate passes on.
        options: of the build but for its precision; settings are named BACKEND.KEY.
        workdir: an empty folder, the engine's.
        first: passes to run before the graph is legalized.
        last: passes to run on the legalized graph that no budget by element holds for. Neither they nor what
            known bugs need of their result are validated: the last bit of a coordinate decides a level.
        cache: to take the engine from, if it was built before.

    Raises:
        OutputsDifferError: a pass left its budget.
        BuildFailedError, UnsupportedOperatorError, MissingSdkError: as the backend found.
    """
    settings = own_settings(job.backend, options.settings)
    legal = legal_graph(job, graph, feeds, settings, first, last)
    asked = replace(options, precision=job.precision, settings=settings)
    if cache is None:
        artifact = job.backend.compile(legal.model, job.target, asked, workdir)
    else:
        artifact = cache.compile(job.backend, legal.model, job.target, asked, workdir)
    if job.precision is Precision.MIXED:
        save(legal.model, workdir / TYPED)
        artifact = msgspec.structs.replace(artifact, files={**artifact.files, "typed": TYPED})
    return BuiltGraph(artifact, legal.reports, legal.warnings)


@dataclass(frozen=True)
class LegalGraph:
    """A graph as a backend compiles it, what was done to it, and what known bugs the rules warn of."""

    model: ir.Model
    reports: tuple[PassReport, ...]
    warnings: tuple[str, ...]


def legal_graph(
    job: Job,
    graph: ir.Model,
    feeds: Sequence[Feeds] = (),
    settings: Mapping[str, str] | None = None,
    first: Sequence[Pass] = (),
    last: Sequence[Pass] = (),
) -> LegalGraph:
    """A graph that had the default passes, legalized and treated for known bugs; see `build_graph`.

    Args:
        settings: of the backend, by their own names.
    """
    context = Context(job.backend.name, job.backend.versions(), job.target, job.precision, settings or {})
    with _PASSES:
        legal, reports = apply(graph, (*first, *job.backend.legalize(job.target, job.precision)), feeds)
        changed, further = apply(legal, last)
        treated = treat(context, changed, () if last else feeds)
    return LegalGraph(treated.model, (*reports, *further, *treated.reports), treated.warnings)


def own_settings(backend: Backend, settings: Mapping[str, str]) -> dict[str, str]:
    """A backend's settings by their own names, of settings named BACKEND.KEY."""
    own = f"{backend.name}."
    return {key.removeprefix(own): value for key, value in settings.items() if key.startswith(own)}


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in its folder, as a manifest tells of it.

    Attributes:
        artifact: what the build left.
        passes: those its backend asked for.
        warnings: of known bugs, without the graph's name.
    """

    artifact: Artifact
    passes: tuple[PassRecord, ...]
    warnings: tuple[str, ...]


def build_engine(
    job: Job,
    name: str,
    model: TemporalModel,
    feeds: Sequence[Feeds],
    options: BuildOptions,
    workdir: Path,
    lowered: Lowered | None = None,
    cache: EngineCache | None = None,
) -> BuiltEngine:
    """Build one graph of a model into a folder of its own, which then holds just what the engine needs.

    Args:
        name: the graph's.
        feeds: to validate its passes on.
        options: as of `build_graph`, with the states to keep inside.
        workdir: made here.
        lowered: how the job quantizes or types the model, if it does.
        cache: as of `build_graph`.

    Raises:
        SuperlowerError: as of `build_graph`.
    """
    workdir.mkdir(parents=True)
    records: list[PassRecord] = []
    if lowered is None:
        built = build_graph(job, model.graphs[name], feeds, options, workdir, cache=cache)
    else:
        records += [record_of(name, report) for report in lowered.reports[name]]
        first, last = lowered.passes_for(name, job.backend)
        built = build_graph(job, lowered.model.graphs[name], feeds, options, workdir, first, last, cache)
    records += [record_of(name, report) for report in built.reports]
    if built.warnings:
        log.warning("%s, %s: %s", job.name, name, "; ".join(built.warnings))
    tidy(workdir, built.artifact)
    return BuiltEngine(built.artifact, tuple(records), built.warnings)


def limit_of(precision: Precision, frame: Frame, atol: float | None, lowered: Lowered | None) -> Tolerance:
    """What engines are held to: the precision's tolerance, the lowered model's, or the user's own."""
    if lowered is None or atol is not None:
        return tolerance(precision, frame, atol)
    return quantized_tolerance(lowered.record.golden_db, frame)


def variant_of(
    name: str,
    target: Target,
    precision: Precision,
    engines: Mapping[str, BuiltEngine],
    limit: Tolerance,
    lowered: Lowered | None = None,
) -> Variant:
    """A variant of built engines, not measured yet: `mixed` where they are of several backends.

    Args:
        engines: by graph.
        limit: what it is held to.
        lowered: how the model was quantized or typed, if it was.
    """
    makers = list(dict.fromkeys(engine.artifact.backend for engine in engines.values()))
    flags = required_flags(target) if "tvm" in makers and target.kind == "cpu" else frozenset()
    return Variant(
        name=name,
        backend=makers[0] if len(makers) == 1 else MIXED,
        target=target.name,
        precision=precision,
        engines={graph: engine.artifact for graph, engine in engines.items()},
        passes=tuple(record for engine in engines.values() for record in engine.passes),
        tolerance=limit.max_abs,
        tolerance_reason=limit.reason,
        floor_db=limit.floor_db,
        quantization=lowered.record if isinstance(lowered, Quantized) else None,
        types=lowered.record if isinstance(lowered, Mixed) else None,
        machine={"processor": target.title, "flags": " ".join(sorted(flags))} if flags else {},
        warnings=tuple(f"{graph}: {text}" for graph, engine in engines.items() for text in engine.warnings),
    )


def tidy(workdir: Path, artifact: Artifact) -> None:
    """Remove what the build left that the engine doesn't need."""
    wanted = set(artifact.files.values())
    for file in [p for p in workdir.rglob("*") if p.is_file()]:
        if file.relative_to(workdir).as_posix() not in wanted:
            file.unlink()
