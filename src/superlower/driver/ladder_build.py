"""The bundles that a ladder's rungs run: one for each network and list of program passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec

from superlower import plugins
from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.driver import export as exporting
from superlower.driver.building import Job
from superlower.driver.calibrate import calibration_footage
from superlower.driver.compile import compile_bundle
from superlower.driver.entrants import Checkpoint
from superlower.driver.footage import golden_with_truth
from superlower.driver.ladder_plan import PYTORCH_BACKEND, Group, Rung
from superlower.driver.progress import Progress
from superlower.driver.quantization import BUDGET_DB, Calibration
from superlower.driver.speed import physical_cores
from superlower.errors import BadInputError, SuperlowerError
from superlower.frontends.weights import fetch_weights
from superlower.rewrites.base import ProgramPass
from superlower.targets.base import Precision
from superlower.targets.catalog import target

CPU = "cpu"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a ladder is made of besides its rungs.

    Attributes:
        model: architecture.
        whole: its checkpoint.
        pruned: the pruned checkpoint; None if there is none.
        height, width: of a low-resolution frame in pixels.
        truth: clips at the output's size, for scores: the first is the golden clip too.
        calibrate: clip for int8.
        budget_db: that int8 may cost.
        degradation: how clips at the output's size are shrunk.
        seed: of a golden clip that is made up.
    """

    model: str
    whole: Checkpoint
    height: int
    width: int
    pruned: Checkpoint | None = None
    truth: tuple[str, ...] = ()
    calibrate: str | None = None
    budget_db: float = BUDGET_DB
    degradation: str = "bi"
    seed: int = 0

    def checkpoint(self, group: Group) -> Checkpoint | None:
        """Of a group's network."""
        return self.pruned if group.pruned else self.whole


@dataclass(frozen=True)
class Built:
    """What there is of a group.

    Attributes:
        bundles: variant -> the bundle that has it.
        failed: variant -> why no bundle has it.
        why: there is nothing at all.
    """

    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    def bundle(self, rung: Rung) -> Bundle | None:
        """That a rung runs; PyTorch runs the program and the clip of any. None if it can't be had."""
        if rung.backend == PYTORCH_BACKEND:
            return next(iter(self.bundles.values()), None)
        return self.bundles.get(variant_name(rung))

    def reason(self, rung: Rung) -> str:
        """Why a rung can't be had; empty if it can."""
        if self.bundle(rung) is not None:
            return ""
        return self.why or self.failed.get(variant_name(rung)) or next(iter(self.failed.values()), "")


def variant_name(rung: Rung) -> str:
    """Of a rung's engines in its group's bundle."""
    return f"{rung.backend}-{CPU}-{rung.precision.value}"


def build(
    asked: Asked,
    group: Group,
    rungs: Sequence[Rung],
    folder: Path,
    progress: Progress,
    given: Sequence[Bundle] = (),
) -> Built:
    """Export and compile a group, or take up what an earlier run left in `folder` for the same request.

    Every engine is checked as `compile` does; one that fails is left out and says why.

    Args:
        rungs: of the group.
        folder: of the bundle; what it was asked with is written beside it.
        given: bundles compiled before: what fits the group and the request is taken from there.
    """
    checkpoint = asked.checkpoint(group)
    if checkpoint is None:
        return Built(why="needs a pruned checkpoint: give one by --pruned (superlower prune makes it)")
    there = _there(asked, checkpoint, group, given)
    jobs, failed = _jobs(asked, [rung for rung in rungs if variant_name(rung) not in there])
    if not jobs and (there or failed):
        return Built(there, failed)
    # PyTorch alone runs the program's clip all the same.
    jobs = jobs or [Job(backend("onnxruntime"), target(CPU), Precision.FP32)]
    request = msgspec.to_builtins([asked, group, [job.name for job in jobs]])
    note = folder.with_name(f"{folder.name}.request.json")
    known = msgspec.json.decode(note.read_bytes()) if note.is_file() else {}
    if known.get("request") == msgspec.json.decode(msgspec.json.encode(request)):
        try:
            return _whole(there, Bundle.open(folder), {**failed, **known["failed"]})
        except BadInputError:
            pass  # Of another version, or damaged: made anew.
    try:
        bundle, left_out = _compile(asked, checkpoint, group, jobs, folder, progress)
    except SuperlowerError as error:
        return Built(there, {**dict.fromkeys((j.name for j in jobs), one_line(error)), **failed})
    note.write_bytes(msgspec.json.encode({"request": request, "failed": left_out}))
    return _whole(there, bundle, {**failed, **left_out})


def _whole(there: Mapping[str, Bundle], bundle: Bundle, failed: Mapping[str, str]) -> Built:
    return Built({**there, **{v.name: bundle for v in bundle.manifest.variants}}, failed)


def _there(asked: Asked, checkpoint: Checkpoint, group: Group, given: Sequence[Bundle]) -> dict[str, Bundle]:
    """Variants of given bundles that are of the group: same network, weights, size and program passes."""
    found: dict[str, Bundle] = {}
    fetched = fetch_weights(checkpoint.weights, exporting.frontend(asked.model)) if given else None
    for bundle in given:
        program, manifest = bundle.program, bundle.manifest
        passes = tuple(
            r.name
            for r in manifest.passes
            if r.graph == program.name and r.name in plugins.table("program pass")
        )
        seeded = checkpoint.weights if fetched and not fetched.sha256 else None
        same = (
            manifest.model == asked.model
            and (program.frame.height, program.frame.width) == (asked.height, asked.width)
            and passes == group.passes
            and fetched is not None
            and program.provenance.get("weights_sha256") == (fetched.sha256 or None)
            and (seeded is None or program.provenance.get("weights") == seeded)
        )
        if same:
            for variant in manifest.variants:
                if bundle.why_not(variant) is None:
                    found.setdefault(variant.name, bundle)
    return found


def _jobs(asked: Asked, rungs: Sequence[Rung]) -> tuple[list[Job], dict[str, str]]:
    jobs: dict[str, Job] = {}
    failed: dict[str, str] = {}
    for rung in rungs:
        if rung.backend == PYTORCH_BACKEND:
            continue
        name = variant_name(rung)
        try:
            sdk = backend(rung.backend)
        except BadInputError as error:
            failed[name] = str(error)
            continue
        where = target(CPU)
        why = sdk.missing() or sdk.serves(where, rung.precision) or sdk.runnable(where)
        if why is None and rung.precision is Precision.INT8 and asked.calibrate is None:
            why = "int8 is calibrated on video: give a clip by --calibrate"
        if why is not None:
            failed[name] = why
        else:
            jobs[name] = Job(sdk, where, rung.precision)
    return list(jobs.values()), failed


def _compile(
    asked: Asked,
    checkpoint: Checkpoint,
    group: Group,
    jobs: Sequence[Job],
    folder: Path,
    progress: Progress,
) -> tuple[Bundle, dict[str, str]]:
    exported = exporting.export(
        asked.model,
        checkpoint.weights,
        asked.height,
        asked.width,
        options=checkpoint.options,
        seed=asked.seed,
        progress=progress,
    )
    model, golden = exported.model, exported.golden
    known = ()
    if asked.truth:
        golden, known = golden_with_truth(model, Path(asked.truth[0]), None, asked.degradation)  # type: ignore[assignment]
    calibration = None
    if any(job.precision is Precision.INT8 for job in jobs):
        assert asked.calibrate is not None
        footage = calibration_footage(Path(asked.calibrate), model.program.frame, asked.degradation)
        calibration = Calibration(footage, asked.budget_db)
    made = compile_bundle(
        model,
        jobs,
        golden,
        folder,
        options=BuildOptions(threads=physical_cores()),
        rewrites=[_program_pass(name) for name in group.passes],
        truth=known,
        calibration=calibration,
        keep_going=True,
        progress=progress,
    )
    for name in group.passes:
        records = [r for r in made.bundle.manifest.passes if r.name == name]
        if not any(record.rewritten for record in records):
            raise BadInputError(f"{name} finds nothing to rewrite in {asked.model}")
    failed = {failure.job: one_line(failure.error) for failure in made.failures}
    return made.bundle, failed


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _program_pass(name: str) -> ProgramPass:
    return cast("type[ProgramPass]", plugins.load("program pass", name))()
