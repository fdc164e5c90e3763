"""`--backend auto`: every backend builds every graph, the fastest that computes rightly make the variant."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from superlower.backends.base import BuildOptions, Session
from superlower.bundle.bundle import VARIANT_FOLDER
from superlower.bundle.choices import RacedEngine, RacedProgram, RaceRecord
from superlower.bundle.golden import GoldenClip
from superlower.bundle.manifest import Variant
from superlower.check.tolerance import Tolerance
from superlower.driver.building import BuiltEngine, Job, build_engine, variant_of
from superlower.driver.lowering import Lowered
from superlower.driver.many_builds import Builds, make
from superlower.driver.progress import Progress
from superlower.driver.race_choice import Candidate, Time, candidates, ranked, worth_timing
from superlower.driver.race_estimates import estimated_ms
from superlower.driver.race_timing import (
    CLIP_S,
    attempt,
    first_call,
    questions,
    time_calls,
    time_programs,
)
from superlower.driver.reference import Feeds
from superlower.driver.roofline import calls_per_frame
from superlower.driver.speed import back_and_forth
from superlower.errors import OutputsDifferError, SuperlowerError
from superlower.program.model import TemporalModel

AUTO = "auto"
"""What `--backend` takes for a race, and the variant's name begins with."""

MEASURED, ESTIMATED, UNKNOWN = "measured", "estimated", "unknown"


@dataclass(frozen=True)
class Race:
    """What a race is run on.

    Attributes:
        jobs: a backend each, for one target at one precision.
        model: as the default passes left it.
        feeds: what passes are validated on, by graph; engines are timed on the last of each.
        golden: the clip that whole programs are timed on.
        folder: the bundle's, where the variant is made.
        options: of every build.
        limit: what the variant is held to.
        lowered: how int8 engines are quantized.
        check: measures variants that lie in the bundle's folder.
        builds: how many at a time, and a cache.
        progress: told of stages.
    """

    jobs: Sequence[Job]
    model: TemporalModel
    feeds: Mapping[str, Sequence[Feeds]]
    golden: GoldenClip
    folder: Path
    options: BuildOptions
    limit: Tolerance
    lowered: Lowered | None
    check: Callable[[Variant], Sequence[Variant]]
    builds: Builds
    progress: Progress

    @property
    def name(self) -> str:
        """The variant's."""
        return course_name(self.jobs[0])


def course_name(job: Job) -> str:
    """Of the variant that a race for a job's target and precision ends in."""
    return f"{AUTO}-{job.target.name}-{job.precision}"


def by_course(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that race one another: for the same target at the same precision."""
    courses: dict[str, list[Job]] = {}
    for job in jobs:
        courses.setdefault(course_name(job), []).append(job)
    return list(courses.values())


def race(asked: Race) -> Variant:
    """Build, time and choose; the variant is checked, and its folder in the bundle.

    Where the target's device isn't here, engines are ranked by estimates, and the variant is unchecked.

    Raises:
        SuperlowerError: no backend builds some graph: the first's reason.
        OutputsDifferError: no program of the built engines is within tolerance.
    """
    aside = asked.folder / f".{asked.name}"
    try:
        field_ = _build(asked, aside)
        timed = _measure(asked, field_) if _runnable(asked, field_) else _estimate(asked, field_)
        return _take(asked, field_, timed)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@dataclass
class _Field:
    """All engines: graph -> backend -> engine in its folder, or why there is none that could be taken."""

    engines: dict[str, dict[str, BuiltEngine]]
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    out: dict[tuple[str, str], str] = field(default_factory=dict)
    errors: dict[tuple[str, str], float] = field(default_factory=dict)

    def running(self, graph: str) -> list[str]:
        """Backends that are still in the race for a graph."""
        return [name for name in self.engines[graph] if (graph, name) not in self.out]


@dataclass(frozen=True)
class _Timed:
    basis: str
    times: Mapping[str, Mapping[str, Time]]
    singles: Sequence[Candidate]
    mixed: Candidate | None
    whole: Mapping[str, Time]


def _build(asked: Race, aside: Path) -> _Field:
    def task(job: Job, graph: str) -> BuiltEngine:
        place, feeds = aside / job.backend.name / graph, asked.feeds[graph]
        return build_engine(
            job, graph, asked.model, feeds, asked.options, place, asked.lowered, asked.builds.cache
        )

    tasks = {
        (graph, job.backend.name): partial(task, job, graph)
        for job in asked.jobs
        for graph in asked.model.graphs
    }
    asked.progress.stage(f"building for {asked.name}", len(tasks))
    made = make(
        tasks,
        asked.builds.at_once,
        keep_going=True,
        on_done=lambda key: asked.progress.advance(f"{key[1]} {key[0]}"),
    )
    found = _Field({graph: {} for graph in asked.model.graphs})
    for (graph, name), one in made.items():
        if isinstance(one, BuiltEngine):
            found.engines[graph][name] = one
            found.folders[graph, name] = aside / name / graph
        else:
            found.out[graph, name] = str(one)
    for graph, engines in found.engines.items():
        if not engines:
            raise next(e for (g, _), e in made.items() if g == graph and isinstance(e, SuperlowerError))
    return found


def _runnable(asked: Race, found: _Field) -> bool:
    """Whether some backend's engines run here; those of others are then out."""
    reasons = {job.backend.name: job.backend.runnable(job.target) for job in asked.jobs}
    if all(reason is not None for reason in reasons.values()):
        return False
    for graph, engines in found.engines.items():
        for name in engines:
            if (reason := reasons[name]) is not None:
                found.out[graph, name] = f"can't be run here: {reason}"
    return True


def _measure(asked: Race, found: _Field) -> _Timed:
    asked.progress.stage("the reference's answers")
    asking = questions(asked.model, asked.feeds)
    low, high = asked.model.program.frame.range
    limit = asked.limit.max_abs / (high - low) if asked.limit.floor_db is None else float("inf")
    with _sessions(asked, found) as sessions:
        times: dict[str, dict[str, Time]] = {}
        for graph, question in asking.items():
            asked.progress.stage(f"racing for {graph}")
            first: dict[str, float] = {}
            for name, session in sessions[graph].items():
                call = first_call(session, question)
                found.errors[graph, name] = call.error
                if call.error <= limit:
                    first[name] = call.seconds
                else:
                    found.out[graph, name] = (
                        f"off by {call.error:.2g} of the largest value, over {limit:.2g} "
                        f"({asked.limit.reason})"
                    )
            if not first:
                why = "; ".join(f"{name}: {found.out[graph, name]}" for name in found.engines[graph])
                raise OutputsDifferError(f"no backend's engine of graph {graph} can be taken: {why}")
            running = {name: sessions[graph][name] for name in first}
            times[graph] = time_calls(running, question.feeds, first, asked.progress)
        singles, mixed = candidates(times, _calls(asked))
        contest = worth_timing(singles, mixed)
        whole: dict[str, Time] = {}
        if contest:
            programs = {
                one.name: {graph: sessions[graph][name] for graph, name in one.backends.items()}
                for one in contest
            }
            frame_s = min(one.expected_ms for one in contest) / 1000
            clip = back_and_forth(asked.golden.frames, max(2, min(4, int(CLIP_S / max(frame_s, 1e-6)))))
            whole = time_programs(asked.model.program, programs, clip, asked.progress)
    return _Timed(MEASURED, times, singles, mixed, whole)


@contextmanager
def _sessions(asked: Race, found: _Field) -> Iterator[dict[str, dict[str, Session]]]:
    """Graph -> backend -> session, of the engines that load."""
    loaders = {job.backend.name: job.backend for job in asked.jobs}
    with ExitStack() as stack:
        sessions: dict[str, dict[str, Session]] = {}
        for graph, engines in found.engines.items():
            sessions[graph] = {}
            for name in found.running(graph):
                folder, artifact = found.folders[graph, name], engines[name].artifact
                loaded = attempt(lambda n=name, a=artifact, f=folder: loaders[n].load(a, f))  # type: ignore[misc]
                if isinstance(loaded, str):
                    found.out[graph, name] = loaded
                else:
                    sessions[graph][name] = loaded
                    stack.callback(loaded.close)
        yield sessions


def _estimate(asked: Race, found: _Field) -> _Timed:
    """Times by the target's figures. Where there are none for a graph, the backends' order decides."""
    target, precision = asked.jobs[0].target, asked.jobs[0].precision
    times: dict[str, dict[str, Time]] = {}
    basis = ESTIMATED
    for graph, engines in found.engines.items():
        model = asked.model.graphs[graph]
        guesses = {
            name: estimated_ms(model, engine.artifact, found.folders[graph, name], target, precision)
            for name, engine in engines.items()
        }
        times[graph] = {name: Time(ms) for name, ms in guesses.items() if ms is not None}
        if not times[graph]:
            basis = UNKNOWN
        for name in engines.keys() - times[graph].keys():
            found.out[graph, name] = f"nothing is known of its speed on {target.name}"
    if basis == UNKNOWN:
        for graph, engines in found.engines.items():
            times[graph] = {name: Time(float(place)) for place, name in enumerate(engines, 1)}
    singles, mixed = candidates(times, _calls(asked))
    return _Timed(basis, times, singles, mixed, {})


def _calls(asked: Race) -> dict[str, float]:
    return calls_per_frame(asked.model.program, len(asked.golden.frames), asked.golden.choices)


def _take(asked: Race, found: _Field, timed: _Timed) -> Variant:
    """The best candidate that passes check, in the bundle's folder."""
    order, reason = ranked(timed.singles, timed.mixed, timed.whole)
    out: dict[str, str] = {}
    for one in order:
        place = asked.folder / VARIANT_FOLDER / asked.name
        for graph, name in one.backends.items():
            shutil.copytree(found.folders[graph, name], place / graph)
        engines = {graph: found.engines[graph][name] for graph, name in one.backends.items()}
        job = asked.jobs[0]
        (variant,) = asked.check(
            variant_of(asked.name, job.target, job.precision, engines, asked.limit, asked.lowered)
        )
        measured = variant.measured
        if measured is None or measured.within(variant.tolerance, variant.floor_db):
            if timed.basis == UNKNOWN:
                reason = f"{one.name}: nothing is known of speed on {job.target.name}, so by the names' order"
            if out:
                reason = f"{one.name}: {'; '.join(f'{name} {why}' for name, why in out.items())}"
            return _recorded(asked, found, timed, variant, one, out, reason)
        out[one.name] = f"leaves tolerance over the golden clip, by {max(measured.max_abs):.3g}"
        shutil.rmtree(place)
    why = "; ".join(f"{name} {text}" for name, text in out.items())
    raise OutputsDifferError(f"{asked.name}: no backend's engines pass the check: {why}")


def _recorded(
    asked: Race,
    found: _Field,
    timed: _Timed,
    variant: Variant,
    taken: Candidate,
    out: Mapping[str, str],
    reason: str,
) -> Variant:

    unknown = timed.basis == UNKNOWN
    graphs = {
        graph: tuple(
            _raced(
                graph, job.backend.name, found, None if unknown else timed.times[graph].get(job.backend.name)
            )
            for job in asked.jobs
        )
        for graph in asked.model.graphs
    }
    programs = []
    for one in (*timed.singles, *([timed.mixed] if timed.mixed is not None else [])):
        time = timed.whole.get(one.name)
        programs.append(
            RacedProgram(
                name=one.name,
                backends=dict(one.backends),
                expected_ms=None if unknown else one.expected_ms,
                ms=None if time is None else time.ms,
                rounds_ms=() if time is None else time.rounds,
                out="" if one == taken else out.get(one.name, "slower, or not faster beyond noise"),
            )
        )
    record = RaceRecord(
        basis=timed.basis,
        device=asked.jobs[0].target.title,
        graphs=graphs,
        programs=tuple(programs),
        reason=reason,
    )
    return msgspec.structs.replace(variant, race=record)


def _raced(graph: str, name: str, found: _Field, time: Time | None) -> RacedEngine:
    error = found.errors.get((graph, name))
    return RacedEngine(
        backend=name,
        ms=None if time is None else time.ms,
        rounds_ms=() if time is None else time.rounds,
        error=None if error is None or error == float("inf") else error,
        out=found.out.get((graph, name), ""),
    )
