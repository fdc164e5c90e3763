"""superlower compile: a model becomes a bundle of cross-checked engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from superlower import plugins
from superlower.backends.base import BuildOptions
from superlower.bundle.manifest import Manifest
from superlower.cli.cache import engine_cache
from superlower.cli.common import (
    Atol,
    Bars,
    BudgetDb,
    BudgetFlicker,
    BudgetTof,
    CompilePrecisions,
    DryRun,
    JsonFlag,
    RacedBackendNames,
    Seed,
    TargetNames,
    Threads,
    Timeout,
    console,
    parse_bytes,
    parse_precisions,
    parse_settings,
    parse_size,
    parse_targets,
    print_json,
    print_table,
    save_config,
)
from superlower.cli.matrix import Asked, compile_all, counts, report_of
from superlower.cli.pass_options import check_owners, chosen_pass, quality_lines
from superlower.cli.plans import print_plan
from superlower.cli.precisions import print_found
from superlower.cli.race import print_race
from superlower.driver import compile as driver
from superlower.driver.building import Job
from superlower.driver.calibrate import CALIBRATION_FRAMES, calibration_footage
from superlower.driver.compile import Compiled
from superlower.driver.engine_cache import EngineCache
from superlower.driver.export import GOLDEN_FRAMES, MIN_RECURRENT_FRAMES, golden_for
from superlower.driver.footage import golden_with_truth
from superlower.driver.many_builds import Builds
from superlower.driver.planning import read_plan
from superlower.driver.quality import DEGRADATIONS
from superlower.driver.quantization import BUDGET_DB, BUDGET_FLICKER, BUDGET_TOF, Calibration
from superlower.driver.racing import AUTO, by_course, course_name
from superlower.errors import BadInputError
from superlower.frontends import onnx_files
from superlower.metrics.psnr import Image
from superlower.passes.base import Pass
from superlower.passes.surgery import Surgery
from superlower.program.model import Frame
from superlower.report.html import require_writable
from superlower.report.matrix import write
from superlower.rewrites.base import ProgramPass
from superlower.targets.base import Precision


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compile")(compile_)


def compile_(
    ctx: typer.Context,
    model: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Program folder (from `export`) or .onnx file; or several."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="The bundle; of several models, a folder with a bundle each."),
    ],
    targets: TargetNames,
    backend_names: RacedBackendNames = None,
    precisions: CompilePrecisions = None,
    size: Annotated[str | None, typer.Option("--size", help="For an .onnx with free sizes.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="latency or throughput.")] = "latency",
    threads: Threads = 0,
    state: Annotated[
        str, typer.Option("--state", help="Hidden states in the host's or the engine's memory.")
    ] = "host",
    timeout: Timeout = 1800.0,
    workspace: Annotated[
        str | None, typer.Option("--workspace", help="Builder's memory limit, as 2GB.")
    ] = None,
    before: Annotated[
        list[str] | None,
        typer.Option("--pass", help="Further pass to run first (onnxsim, hoist-frames); repeatable."),
    ] = None,
    surgery: Annotated[
        list[str] | None,
        typer.Option(
            "--surgery", help="FILE.py:FUNCTION on an onnx_graphsurgeon graph, run first; repeatable."
        ),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option("--clip", help="Video or PNG folder for new golden frames.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            help="Video or PNG folder at the output's size: new golden frames are made of it, and passes "
            "that cost quality are held to what they lose against it.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            help=f"Video or PNG folder, best at the output's size, whose first {CALIBRATION_FRAMES} frames "
            f"int8 and mixed types are calibrated and measured on.",
        ),
    ] = None,
    budget_db: BudgetDb = BUDGET_DB,
    budget_flicker: BudgetFlicker = BUDGET_FLICKER,
    budget_tof: BudgetTof = BUDGET_TOF,
    degradation: Annotated[
        str,
        typer.Option(
            "--degradation", help=f"How --truth and --calibrate are shrunk: {', '.join(DEGRADATIONS)}."
        ),
    ] = "bi",
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            min=1,
            help=f"Golden frames, {MIN_RECURRENT_FRAMES} at least for a model with hidden states. Default: "
            f"the program folder's own clip, else {GOLDEN_FRAMES} new ones.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="BACKEND.KEY=VALUE, or PASS.OPTION=VALUE of a --pass; repeatable."),
    ] = None,
    atol: Atol = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out builds that fail.")] = False,
    at_once: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Builds at a time.")] = 1,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Take engines from the cache, and keep new ones there (see `cache`). Default: with several "
            "models or --jobs.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report of several models to this page, too.")
    ] = None,
    plan: Annotated[
        str,
        typer.Option(
            "--plan",
            help="How upscale runs the engines: measure (ways to, in turns, here), none, or a JSON FILE.",
        ),
    ] = "none",
    seed: Seed = 0,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Run the passes on MODEL, build it for every target by every backend, and cross-check the engines.

    Of several models each becomes a bundle in the output folder. Those that are there already, made of the
    same files with the same options and versions, are left as they are: a stopped command goes on.
    """
    racing = AUTO in (backend_names or ())
    _refuse(mode, state, clip, truth, backend_names or ())
    jobs = driver.plan_jobs(
        parse_targets(targets),
        parse_precisions(precisions, list(Precision)),
        () if racing else backend_names or (),
    )
    _refuse_calibration(jobs, calibrate)
    if html is not None:
        require_writable(html)
    cached = cache if cache is not None else at_once > 1 or len(model) > 1
    if len(model) > 1:
        inputs = [path for path in (clip, truth, calibrate) if path is not None]
        inputs += [Path(script.rpartition(":")[0]) for script in surgery or ()]
        where = parse_targets(targets)
        compile_all(
            ctx,
            Asked(
                models=model,
                output=output,
                targets=where,
                inputs=inputs,
                settings=parse_settings(settings),
                at_once=at_once,
                cached=cached,
                keep_going=keep_going,
                html=html,
                json=json,
                dry_run=dry_run,
            ),
        )
        return
    (path,) = model
    planning = _planning(plan)
    height, width = parse_size(size) if size else (None, None)
    loaded = onnx_files.load(path, height=height, width=width)
    options = BuildOptions(
        mode=mode,
        threads=threads,
        timeout_s=timeout,
        memory_bytes=parse_bytes(workspace) if workspace else 0,
        settings=parse_settings(settings),
    )
    check_owners(options.settings, [*plugins.table("backend"), *(before or ())], "backend or --pass")
    chosen = [chosen_pass(name, options.settings) for name in before or ()]
    rewrites = [one for one in chosen if isinstance(one, ProgramPass)]
    extra = [one for one in chosen if isinstance(one, Pass)]
    extra += [Surgery(script=script) for script in surgery or ()]
    if dry_run:
        _would(output, jobs, list(loaded.graphs), racing, json)
        return
    builds = Builds(at_once, engine_cache() if cached else None)
    with Bars() as bars:
        bars.stage("golden clip")
        known: tuple[Image, ...] = ()
        if truth is not None:
            golden, known = golden_with_truth(loaded, truth, frames, degradation)
        else:
            golden = golden_for(loaded, path if path.is_dir() else None, clip, frames, seed)
        result = driver.compile_bundle(
            loaded,
            jobs,
            golden,
            output,
            options=options,
            states_inside=state == "engine",
            extra=extra,
            rewrites=rewrites,
            truth=known,
            calibration=_calibration(
                calibrate, loaded.program.frame, degradation, (budget_db, budget_flicker, budget_tof), bars
            ),
            atol=atol,
            keep_going=keep_going,
            builds=builds,
            racing=racing,
            planning=planning,
            progress=bars,
        )
    ctx.params["model"] = str(path)
    save_config(ctx, output)
    _show(output, result, builds.cache, html, json)
    if result.failures:
        raise result.failures[0].error


def _refuse(
    mode: str, state: str, clip: Path | None, truth: Path | None, backend_names: Sequence[str]
) -> None:
    """Refuse options that say nothing, or two things."""
    if mode not in ("latency", "throughput"):
        raise BadInputError(f"--mode {mode}: write latency or throughput")
    if clip is not None and truth is not None:
        raise BadInputError("--clip and --truth both make golden frames: give one")
    if state not in ("host", "engine"):
        raise BadInputError(f"--state {state}: write host or engine")
    if AUTO in backend_names and len(backend_names) > 1:
        raise BadInputError(f"--backend {AUTO} races every backend: name no other beside it")


def _refuse_calibration(jobs: Sequence[Job], calibrate: Path | None) -> None:
    needy = [job.precision for job in jobs if job.precision in (Precision.INT8, Precision.MIXED)]
    if needy and calibrate is None:
        raise BadInputError(f"--precision {needy[0]} is calibrated on video: give a clip with --calibrate")
    if calibrate is not None and not needy:
        raise BadInputError("--calibrate is for --precision int8 or mixed: ask for one too, or leave it out")


def _show(output: Path, result: Compiled, cache: EngineCache | None, html: Path | None, json: bool) -> None:
    manifest = result.bundle.manifest
    failures = {f.job: str(f.error) for f in result.failures}
    if html is not None:
        write(report_of(output, manifest, failures, cache), html)
    if json:
        document = {"output": output, "variants": manifest.variants, "failures": failures}
        print_json(document if cache is None else document | {"cache": counts(cache)})
    print_manifest(output, manifest)
    if cache is not None:
        console.print(f"{cache.built} engines built, {cache.hits} from the cache")
    for failure in result.failures:
        console.print(f"left out {failure.job}: {failure.error}", style="red")


def _calibration(
    clip: Path | None, frame: Frame, degradation: str, budgets: tuple[float, float, float], bars: Bars
) -> Calibration | None:
    if clip is None:
        return None
    bars.stage("calibration clip")
    return Calibration(calibration_footage(clip, frame, degradation), *budgets)


def _planning(text: str) -> driver.Planning | None:
    if text == "none":
        return None
    return driver.Planning(None if text == "measure" else read_plan(Path(text)))


def _would(output: Path, jobs: Sequence[Job], graphs: Sequence[str], racing: bool, json: bool) -> None:
    courses = [course_name(course[0]) for course in by_course(jobs)] if racing else []
    if json:
        names = courses or [job.name for job in jobs]
        print_json({"output": output, "variants": names, "graphs": graphs})
    for job in jobs:
        console.print(f"would build {job.name}: graphs {', '.join(graphs)}")
    for name in courses:
        console.print(f"would choose {name} of these, graph by graph")


def print_manifest(output: Path, manifest: Manifest) -> None:
    """A compiled bundle's variants, and what made them what they are."""
    print_table(
        f"{output}: {manifest.model}, {manifest.golden.frames} frames against {manifest.golden.reference}",
        ("variant", "build s", "largest error", "tolerance"),
        (
            (
                v.name,
                f"{sum(a.build_s for a in v.engines.values()):.1f}",
                f"{max(v.measured.max_abs):.2g}" if v.measured else f"not run: {v.unchecked}",
                f"{v.tolerance:.2g}" if v.floor_db is None else f"{v.floor_db:.1f} dB",
            )
            for v in manifest.variants
        ),
    )
    for variant in manifest.variants:
        if variant.race is not None:
            print_race(variant.name, variant.race)
        print_found(variant)
        if variant.planned is not None:
            print_plan(variant.name, variant.planned)
    for line in quality_lines(manifest.passes):
        console.print(line, markup=False, soft_wrap=True)
