"""From a temporal model to a bundle: passes, validation, builds, cross-check."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np

from superlower.backends.base import BuildOptions, keeps_states
from superlower.backends.registry import backend, backends
from superlower.bundle.bundle import PROGRAM_FOLDER, VARIANT_FOLDER, Bundle, seal, writing
from superlower.bundle.golden import GOLDEN_FILE, GoldenClip
from superlower.bundle.manifest import Measured, PassRecord, Variant
from superlower.check.crosscheck import check_variant
from superlower.check.reference import reference_outputs, with_choices
from superlower.driver.building import Job, limit_of
from superlower.driver.lowering import Lowered, Lowerings
from superlower.driver.many_builds import Builds
from superlower.driver.planning import Planner, planned
from superlower.driver.progress import Progress, Silent
from superlower.driver.quantization import Calibration, Material
from superlower.driver.racing import Race, by_course, course_name, race
from superlower.driver.records import record_of
from superlower.driver.reference import Feeds, validation_feeds
from superlower.driver.variants import Failure, VariantBuilds
from superlower.driver.ways import Subject
from superlower.errors import BadInputError, MissingSdkError, OutputsDifferError, SuperlowerError
from superlower.metrics.psnr import Image
from superlower.passes.base import Pass
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program import files
from superlower.program.model import TemporalModel
from superlower.program.plan import ExecutionPlan
from superlower.program.states import state_pairs
from superlower.rewrites import pipeline as rewriting
from superlower.rewrites.base import ProgramPass
from superlower.targets.base import Precision, Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planning:
    """How plans are found.

    Attributes:
        plan: the user's own for every variant; None to measure.
    """

    plan: ExecutionPlan | None = None


@dataclass(frozen=True)
class Compiled:
    """A bundle and what is left out of it."""

    bundle: Bundle
    failures: tuple[Failure, ...]


def plan_jobs(
    targets: Sequence[Target], precisions: Sequence[Precision], names: Sequence[str] = ()
) -> list[Job]:
    """The builds to make: every backend asked for, for every target it serves; each build once.

    Args:
        targets: to compile for.
        precisions: to compile at.
        names: backends; none for all that are installed.

    Raises:
        BadInputError: a backend asked for serves none of the targets, or a target has no backend.
        MissingSdkError: a backend asked for isn't installed.
    """
    asked = [backend(name) for name in names]
    for sdk in asked:
        if (reason := sdk.missing()) is not None:
            raise MissingSdkError(reason)
    pool = asked or [sdk for sdk in backends() if sdk.missing() is None]
    jobs = []
    for where in targets:
        for precision in precisions:
            reasons = {sdk.name: sdk.serves(where, precision) for sdk in pool}
            found = [
                Job(sdk, where, precision, named=bool(asked)) for sdk in pool if reasons[sdk.name] is None
            ]
            if not found:
                why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
                raise BadInputError(f"no backend can compile for {where.name} at {precision}: {why}")
            jobs += found
    for sdk in asked:
        if not any(job.backend is sdk for job in jobs):
            reasons_of = "; ".join(f"{t.name}: {sdk.serves(t, p)}" for t in targets for p in precisions)
            raise BadInputError(f"{sdk.name} serves none of the targets: {reasons_of}")
    return list({job.name: job for job in jobs}.values())


def compile_bundle(
    model: TemporalModel,
    jobs: Sequence[Job],
    golden: GoldenClip,
    output: Path,
    *,
    options: BuildOptions,
    states_inside: bool = False,
    extra: Sequence[Pass] = (),
    rewrites: Sequence[ProgramPass] = (),
    truth: Sequence[Image] = (),
    calibration: Calibration | None = None,
    atol: float | None = None,
    keep_going: bool = False,
    racing: bool = False,
    builds: Builds | None = None,
    planning: Planning | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compile a model into a bundle.

    Args:
        model: a legal model with graphs that fit it.
        jobs: from `plan_jobs`.
        golden: the clip that every variant able to run here must reproduce.
        output: the bundle's folder.
        options: of every build but for its precision and states; settings are named BACKEND.KEY.
        states_inside: keep hidden states inside engines; a backend that can't refuses the job if it was
            named, and is left out with a warning if it wasn't.
        extra: passes to run before the default ones.
        rewrites: program passes to run before all others, validated on the golden clip. If one of them costs
            quality, engines are held to the simplified model's outputs.
        truth: the golden clip's ground truth, uint8 [scale * H, scale * W, 3] a frame, if there is one.
        calibration: clip and budgets of int8 and mixed jobs.
        atol: instead of the precision's own tolerance.
        keep_going: leave out jobs that fail rather than fail with the first.
        builds: how many at a time, and a cache; one by one without a cache if None.
        planning: how variants' plans are found; without it they have none.
        racing: make one variant of all jobs for a target at a precision: of each graph's fastest engine.

    Raises:
        OutputsDifferError: a pass or an engine left its tolerance; named.
        BuildFailedError, UnsupportedOperatorError, MissingSdkError: as the backend found.
    """
    progress, builds = progress or Silent(), builds or Builds()
    if racing:
        _require_race(jobs, states_inside)
    if states_inside:
        jobs = _that_keep_states(jobs, model)
    variants: list[Variant] = []
    failures: list[Failure] = []
    with writing(output) as folder:
        golden = with_choices(model, golden)
        progress.stage("program passes", len(rewrites))
        model, reports = rewriting.apply(
            model,
            rewrites,
            golden.frames,
            on_pass=lambda report: progress.advance(report.name),
            truth=truth,
        )
        golden = _simplified(golden, model, reports)
        progress.stage("capturing inputs for validation")
        feeds = validation_feeds(model, golden.frames)
        clean, records = _clean(model, feeds, extra, progress)
        records = (*(record_of(model.program.name, report) for report in reports), *records)
        files.write_model(clean, folder / PROGRAM_FOLDER)
        golden.save(folder / GOLDEN_FILE)
        lowerings = Lowerings(Material(clean, feeds, calibration, golden, options, progress))

        def check(*made: Variant) -> list[Variant]:
            return _check(Bundle(folder, seal(folder, clean.program, golden, made, records)), progress)

        def lowered_for(job: Job) -> Lowered | None:
            return lowerings.lowered(job.backend, job.target, job.precision)

        def run_race(course: Sequence[Job]) -> Variant:
            lowered = lowered_for(course[0])
            limit = limit_of(course[0].precision, clean.program.frame, atol, lowered)
            return race(
                Race(course, clean, feeds, golden, folder, options, limit, lowered, check, builds, progress)
            )

        if racing:
            for course in by_course(jobs):
                try:
                    variants.append(run_race(course))
                except SuperlowerError as failed:
                    if not keep_going:
                        raise
                    failures.append(Failure(course_name(course[0]), failed))
        else:
            states = {n: state_pairs(clean.program, n) if states_inside else () for n in clean.graphs}
            todo = VariantBuilds(clean, feeds, options, states, folder, atol, builds, progress)
            variants, failures = todo.build(jobs, lowered_for, keep_going)
        if not variants:
            raise failures[0].error
        checked = check(*variants)
        wrong = [
            v for v in checked if v.measured is not None and not v.measured.within(v.tolerance, v.floor_db)
        ]
        for variant in wrong:
            error = _differs(variant, golden)
            if not keep_going:
                raise error
            failures.append(Failure(variant.name, error))
            shutil.rmtree(folder / VARIANT_FOLDER / variant.name)
        kept = tuple(v for v in checked if v not in wrong)
        if not kept:
            raise failures[0].error
        kept = _with_plans(
            planning,
            Bundle(folder, seal(folder, clean.program, golden, kept, records)),
            kept,
            {} if racing else {job.name: job for job in jobs},
            lowered_for,
            options,
            builds,
            progress,
        )
        seal(folder, clean.program, golden, kept, records)
    return Compiled(Bundle.open(output), tuple(failures))


def _require_race(jobs: Sequence[Job], states_inside: bool) -> None:
    if states_inside:
        raise BadInputError("engines race with their states in the host's memory: leave out --state engine")
    if any(job.precision is Precision.MIXED for job in jobs):
        raise BadInputError("types are searched for one backend at a time: name it (--backend openvino)")


def _with_plans(
    planning: Planning | None,
    bundle: Bundle,
    variants: tuple[Variant, ...],
    makers: Mapping[str, Job],
    lowered_for: Callable[[Job], Lowered | None],
    options: BuildOptions,
    builds: Builds,
    progress: Progress,
) -> tuple[Variant, ...]:
    if planning is None:
        return variants
    model, golden, made = bundle.model(), bundle.golden(), []
    for variant in variants:
        job = makers.get(variant.name)
        lowered = None if job is None else lowered_for(job)
        built = model if lowered is None else lowered.model
        subject = Subject(variant, bundle.folder, built, job, options, lowered, builds.cache)
        made.append(planned(bundle, Planner(subject, golden, progress), planning.plan))
    return tuple(made)


def _simplified(
    golden: GoldenClip, model: TemporalModel, reports: Sequence[rewriting.ProgramReport]
) -> GoldenClip:
    """The golden clip with the outputs of the model as passes that cost quality left it, if any did."""
    names = [report.name for report in reports if report.loss is not None]
    if not names:
        return golden
    outputs = tuple(np.asarray(o, np.float32) for o in reference_outputs(model, golden.frames))
    reference = f"ONNX Runtime on the graphs after {', '.join(names)}"
    return replace(golden, outputs=outputs, reference=reference)


def _that_keep_states(jobs: Sequence[Job], model: TemporalModel) -> list[Job]:
    """The jobs but for those of backends that keep no states and that nobody asked for by name.

    Raises:
        BadInputError: none is left.
    """
    if not any(state_pairs(model.program, graph) for graph in model.graphs):
        return list(jobs)
    kept = [job for job in jobs if job.named or keeps_states(job.backend)]
    left_out = ", ".join(dict.fromkeys(job.backend.name for job in jobs if job not in kept))
    if not kept:
        raise BadInputError(
            f"no backend here keeps hidden states inside its engines for these targets (not {left_out}): "
            f"compile with host states"
        )
    if left_out:
        log.warning("left out as they keep no hidden states inside their engines: %s", left_out)
    return kept


def _clean(
    model: TemporalModel, feeds: Mapping[str, list[Feeds]], extra: Sequence[Pass], progress: Progress
) -> tuple[TemporalModel, tuple[PassRecord, ...]]:
    pipeline = (*extra, *default_pipeline())
    progress.stage("passes", len(pipeline) * len(model.graphs))
    graphs, records = {}, []
    for name, graph in model.graphs.items():
        graphs[name], reports = apply(
            graph,
            pipeline,
            feeds[name],
            on_pass=lambda r, g=name: progress.advance(f"{g}: {r.name}"),  # type: ignore[misc]
        )
        records += [record_of(name, report) for report in reports]
    return model.with_graphs(graphs), tuple(records)


def _check(bundle: Bundle, progress: Progress) -> list[Variant]:
    golden = bundle.golden()
    checked = []
    for variant in bundle.manifest.variants:
        if variant.measured is not None or variant.unchecked:
            checked.append(variant)
            continue
        progress.stage(f"checking {variant.name}", len(golden.frames))
        found = check_variant(bundle, variant, golden, on_frame=progress.advance)
        measured = None
        if found.passed is not None:
            measured = Measured(
                max_abs=found.max_abs,
                psnr_db=found.psnr_db,
                flips=found.flips,
                flips_accepted=found.flips_accepted,
            )
        checked.append(msgspec.structs.replace(variant, measured=measured, unchecked=found.skipped))
    return checked


def _differs(variant: Variant, golden: GoldenClip) -> OutputsDifferError:
    assert variant.measured is not None
    if variant.measured.flips > variant.measured.flips_accepted:
        return OutputsDifferError(
            f"{variant.name} chooses otherwise than the reference for {variant.measured.flips} patches of "
            f"the golden clip, over the {variant.measured.flips_accepted} that its tolerance of "
            f"{variant.tolerance:.3g} accounts for ({variant.tolerance_reason}): superlower check --bisect "
            f"names the node"
        )
    if variant.floor_db is not None:
        return OutputsDifferError(
            f"{variant.name} is {fmean(variant.measured.psnr_db):.1f} dB from {golden.reference}, under "
            f"{variant.floor_db:.1f} ({variant.tolerance_reason}): leave the backend out, or accept its "
            f"largest error by --atol"
        )
    worst = max(variant.measured.max_abs)
    frame = variant.measured.max_abs.index(worst)
    return OutputsDifferError(
        f"{variant.name} differs from {golden.reference} by {worst:.3g} at frame {frame}, over its tolerance "
        f"of {variant.tolerance:.3g} ({variant.tolerance_reason}): compile with a larger --atol, then "
        f"superlower check --atol {variant.tolerance:.3g} --bisect names the node"
    )
