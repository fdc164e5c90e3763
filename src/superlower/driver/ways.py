"""Ways to run a variant, and the engines they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from superlower.backends.base import Artifact, BuildOptions
from superlower.bundle.bundle import VARIANT_FOLDER, OpenedPlan, load_engines
from superlower.bundle.manifest import Variant
from superlower.driver.building import Job, build_graph, tidy
from superlower.driver.engine_cache import EngineCache
from superlower.driver.lowering import Lowered
from superlower.errors import BadInputError
from superlower.ir import digest
from superlower.passes.batching import batched
from superlower.program import analysis
from superlower.program.model import TemporalModel
from superlower.program.plan import ExecutionPlan
from superlower.program.states import state_pairs
from superlower.rewrites.pixels import over_pixels
from superlower.rewrites.split_tail import split
from superlower.runtime.load import planned_runner
from superlower.runtime.runner import Runner

Engines = Mapping[str, tuple[Artifact, Path]]
"""Graph -> engine, and the folder it lies in."""


@dataclass(frozen=True)
class Way:
    """A way to run a variant, with its engines.

    Attributes:
        plan: in short.
        model: what the engines are of.
        engines, batched: for one call and for several.
        own: whether `engines` are the variant's own.
    """

    plan: ExecutionPlan
    model: TemporalModel
    engines: Engines
    batched: Engines
    own: bool


@dataclass(frozen=True)
class Subject:
    """A variant that is to be run in other ways.

    Attributes:
        variant: built, and able to run here.
        folder: the bundle's, perhaps unfinished.
        model: what was built: cleaned up, for int8 and mixed as prepared for it.
        job: what built it; None where several backends did, and engines stay as they are.
        options: of the builds.
        lowered: how it is quantized or typed, if it is.
        cache: of engines.
    """

    variant: Variant
    folder: Path
    model: TemporalModel
    job: Job | None
    options: BuildOptions
    lowered: Lowered | None = None
    cache: EngineCache | None = None

    @property
    def states(self) -> str:
        """Where its own engines keep hidden states, as a plan says it."""
        inside = any(engine.stateful for engine in self.variant.engines.values())
        return "engine" if inside else "host"


@dataclass
class WayBuilder:
    """Builds what ways take, each engine once, in folders under `scratch`."""

    subject: Subject
    scratch: Path
    _made: dict[object, tuple[Artifact, Path]] = field(default_factory=dict)

    def way(self, plan: ExecutionPlan) -> Way:
        """The way's engines, built.

        Raises:
            SuperlowerError: it can't be gone; what the build or a rewrite said.
        """
        subject = self.subject
        model, origins = subject.model, {name: name for name in subject.model.graphs}
        if plan.tail_cut:
            rewritten, origins = split(model)
            if not rewritten.applied.changed:
                raise BadInputError("there is no tail to cut off a recurrence")
            model = rewritten.model
        if plan.pixels:
            model = over_pixels(model)
        if waits := sorted(plan.batch.keys() - analysis.batchable_graphs(model.program)):
            raise BadInputError(f"calls of graph '{waits[0]}' can't be batched: they wait for one another")
        own = not (plan.tail_cut or plan.pixels or plan.threads) and plan.states == subject.states
        engines: Engines
        if own:
            place = subject.folder / VARIANT_FOLDER / subject.variant.name
            engines = {g: (a, place / g) for g, a in subject.variant.engines.items()}
        else:
            inside = plan.states == "engine"
            pairs = {g: state_pairs(model.program, g) if inside else () for g in model.graphs}
            engines = {g: self._engine(model.graphs[g], origins[g], plan, pairs[g]) for g in model.graphs}
        many = {
            g: self._engine(batched(model.graphs[g], size), origins[g], plan, ())
            for g, size in plan.batch.items()
        }
        return Way(plan, model, engines, many, own)

    def _engine(
        self, graph: ir.Model, origin: str, plan: ExecutionPlan, states: tuple[tuple[str, str], ...]
    ) -> tuple[Artifact, Path]:
        subject = self.subject
        if subject.job is None:
            raise BadInputError("engines of several backends run as they are: plan calls in flight alone")
        calls = plan.in_flight if plan.threads else 1
        key = (digest(graph.clone()), plan.threads, calls, states)
        if key not in self._made:
            workdir = self.scratch / str(len(self._made))
            workdir.mkdir()
            threads = plan.threads or subject.options.threads
            options = replace(subject.options, threads=threads, calls=calls, stateful=states)
            how = subject.lowered
            first, last = ([], []) if how is None else how.passes_for(origin, subject.job.backend)
            # Passes were validated on the graph this is made of; what comes of them here, the clip shows.
            built = build_graph(subject.job, graph, (), options, workdir, first, last, subject.cache)
            tidy(workdir, built.artifact)
            self._made[key] = built.artifact, workdir
        return self._made[key]


@contextmanager
def opened(variant: Variant, way: Way) -> Iterator[Runner]:
    """A runner that goes a way, for the length of a block."""
    with ExitStack() as stack:
        loaded = []
        for some in (way.engines, way.batched):
            sessions = load_engines(variant, some)
            for session in sessions.values():
                stack.callback(session.close)
            loaded.append(sessions)
        artifacts = {g: a for g, (a, _) in way.engines.items()}
        yield planned_runner(OpenedPlan(way.plan, way.model.program, artifacts, *loaded))
