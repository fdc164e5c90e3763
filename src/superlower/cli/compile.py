"""superlower compile: a model becomes a bundle of cross-checked engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, cast, get_type_hints

import msgspec
import typer

from superlower import plugins
from superlower.backends.base import BuildOptions
from superlower.bundle.manifest import Manifest, PassRecord, QuantizationRecord
from superlower.cli.common import (
    Atol,
    Bars,
    BudgetDb,
    DryRun,
    JsonFlag,
    OutputPath,
    PrecisionNames,
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
from superlower.cli.race import print_race
from superlower.driver import compile as driver
from superlower.driver.building import Job
from superlower.driver.calibrate import CALIBRATION_FRAMES, calibration_footage
from superlower.driver.export import GOLDEN_FRAMES, MIN_RECURRENT_FRAMES, golden_for
from superlower.driver.footage import golden_with_truth
from superlower.driver.quality import DEGRADATIONS
from superlower.driver.quantization import BUDGET_DB, Calibration
from superlower.driver.racing import AUTO, by_course, course_name
from superlower.errors import BadInputError, unknown_name
from superlower.frontends import onnx_files
from superlower.metrics.loss import ASSUMED_DB
from superlower.metrics.psnr import Image
from superlower.passes.base import Pass
from superlower.passes.surgery import Surgery
from superlower.rewrites.base import ProgramPass
from superlower.targets.base import Precision


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compile")(compile_)


def compile_(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="Program folder (from `export`) or .onnx file.")],
    output: OutputPath,
    targets: TargetNames,
    backend_names: RacedBackendNames = None,
    precisions: PrecisionNames = None,
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
            f"int8 is calibrated and measured on.",
        ),
    ] = None,
    budget_db: BudgetDb = BUDGET_DB,
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
    seed: Seed = 0,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Run the passes on MODEL, build it for every target by every backend, and cross-check the engines."""
    if mode not in ("latency", "throughput"):
        raise BadInputError(f"--mode {mode}: write latency or throughput")
    if clip is not None and truth is not None:
        raise BadInputError("--clip and --truth both make golden frames: give one")
    if state not in ("host", "engine"):
        raise BadInputError(f"--state {state}: write host or engine")
    racing = AUTO in (backend_names or ())
    if racing and backend_names != [AUTO]:
        raise BadInputError(f"--backend {AUTO} races every backend: name no other beside it")
    named = () if racing else backend_names or ()
    jobs = driver.plan_jobs(parse_targets(targets), parse_precisions(precisions), named)
    quantizes = any(job.precision is Precision.INT8 for job in jobs)
    if quantizes and calibrate is None:
        raise BadInputError("--precision int8 is calibrated on video: give a clip with --calibrate")
    if calibrate is not None and not quantizes:
        raise BadInputError("--calibrate is for --precision int8: ask for that too, or leave it out")
    height, width = parse_size(size) if size else (None, None)
    loaded = onnx_files.load(model, height=height, width=width)
    options = BuildOptions(
        mode=mode,
        threads=threads,
        timeout_s=timeout,
        memory_bytes=parse_bytes(workspace) if workspace else 0,
        settings=parse_settings(settings),
    )
    _check_owners(options.settings, before or ())
    chosen = [chosen_pass(name, options.settings) for name in before or ()]
    rewrites = [one for one in chosen if isinstance(one, ProgramPass)]
    extra = [one for one in chosen if isinstance(one, Pass)]
    extra += [Surgery(script=script) for script in surgery or ()]
    if dry_run:
        _would(output, jobs, list(loaded.graphs), racing, json)
        return
    with Bars() as bars:
        bars.stage("golden clip")
        known: tuple[Image, ...] = ()
        if truth is not None:
            golden, known = golden_with_truth(loaded, truth, frames, degradation)
        else:
            golden = golden_for(loaded, model if model.is_dir() else None, clip, frames, seed)
        calibration = None
        if calibrate is not None:
            bars.stage("calibration clip")
            footage = calibration_footage(calibrate, loaded.program.frame, degradation)
            calibration = Calibration(footage, budget_db)
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
            calibration=calibration,
            atol=atol,
            keep_going=keep_going,
            racing=racing,
            progress=bars,
        )
    save_config(ctx, output)
    if json:
        failures = {f.job: str(f.error) for f in result.failures}
        print_json({"output": output, "variants": result.bundle.manifest.variants, "failures": failures})
    print_manifest(output, result.bundle.manifest)
    if result.failures:
        for failure in result.failures:
            console.print(f"left out {failure.job}: {failure.error}", style="red")
        raise result.failures[0].error


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
        if variant.quantization is not None:
            print_quantization(variant.name, variant.quantization)
    for line in quality_lines(manifest.passes):
        console.print(line, markup=False, soft_wrap=True)


def print_quantization(variant: str, record: QuantizationRecord) -> None:
    """What of a variant runs in 8 bits, what that costs, and how the loss goes over time."""
    print_table(
        f"{variant}: {record.activations} activations, calibrated on {record.clip}",
        ("nodes", "in 8 bits", "share of the saving", "alone costs dB"),
        (
            (
                group.name,
                f"{group.quantized} of {group.nodes}",
                f"{group.share:.1%}",
                "" if group.alone_db is None else f"{group.alone_db:.4f}",
            )
            for group in record.groups
        ),
    )
    loss = record.quality
    curve = " ".join(f"{db:.3f}" for db in record.curve_db)
    console.print(
        f"int8 costs {loss.db:.4f} dB of PSNR of {loss.budget_db:g} allowed ({loss.before_db:.2f} -> "
        f"{loss.after_db:.2f} dB, in {record.measured_on}); frame by frame {curve}",
        soft_wrap=True,
    )


def quality_lines(records: Sequence[PassRecord]) -> list[str]:
    """What each pass that costs quality cost, a line each."""
    lines = []
    for record in records:
        if (loss := record.quality) is None:
            continue
        basis = (
            f"{loss.before_db:.2f} -> {loss.after_db:.2f} dB against the ground truth"
            if loss.before_db is not None and loss.after_db is not None
            else f"an estimate, without a ground truth, for a model that scores {ASSUMED_DB:.0f} dB"
        )
        lines.append(
            f"{record.name} costs {loss.db:.3f} dB of PSNR, {loss.worst_db:.3f} at the worst frame, of "
            f"{loss.budget_db:g} allowed ({basis}; {loss.psnr_db:.1f} dB between before and after)"
        )
    return lines


def _check_owners(settings: Mapping[str, str], passes: Sequence[str]) -> None:
    """Every setting is some backend's or some asked-for pass's: a misspelt one would do nothing, silently."""
    owners = {*plugins.table("backend"), *passes}
    for key in settings:
        owner, dot, _ = key.partition(".")
        if not dot or owner not in owners:
            raise unknown_name("backend or --pass of --set", owner, owners)


def chosen_pass(name: str, settings: Mapping[str, str]) -> Pass | ProgramPass:
    """A pass, of graphs or of programs, with the options that settings named NAME.OPTION give it."""
    group = "program pass" if name in plugins.table("program pass") else "pass"
    kind = cast("type[Pass] | type[ProgramPass]", plugins.load(group, name))
    types = get_type_hints(kind)
    known = {field.name: types[field.name] for field in fields(kind)}
    given: dict[str, object] = {}
    for key, value in settings.items():
        owner, _, option = key.partition(".")
        if owner != name:
            continue
        if option not in known:
            raise unknown_name(f"option of pass {name}", option, known)
        try:
            given[option] = msgspec.convert(value, known[option], strict=False)
        except msgspec.ValidationError as error:
            raise BadInputError(f"--set {key}={value}: {error}") from None
    return kind(**given)
