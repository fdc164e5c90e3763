"""The whole path on public parts: checkpoint to engines to video, with every figure it can be judged by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, NodeSupport
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.check.crosscheck import VariantCheck, stored_check
from superlower.driver import export as exporting
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.progress import Progress, received
from superlower.driver.speed import SpeedRow, contenders, race
from superlower.driver.upscale import Upscaled, upscale
from superlower.frontends.base import ExportRequest
from superlower.frontends.fetch import fetch
from superlower.frontends.weights import fetch_weights
from superlower.media.clip import open_clip
from superlower.media.images import write_png
from superlower.media.resize import imresize, to_uint8
from superlower.media.samples import SAMPLES
from superlower.targets.base import Precision
from superlower.targets.catalog import target

MODEL = "basicvsr"
WEIGHTS = "vimeo90k-bi"
CLIP = "carphone"
CPU_BACKENDS = ("onnxruntime", "openvino", "tvm")
GPU_BACKEND = "tensorrt-rtx"
GPU_TARGETS = ("rtx2080ti", "rtx3090", "rtx4090", "rtx5090")
COVERAGE_TARGETS = {
    **dict.fromkeys(CPU_BACKENDS, ("cpu", Precision.FP32)),
    GPU_BACKEND: ("rtx4090", Precision.FP16),
}


@dataclass(frozen=True)
class CoverageRow:
    """Coverage of one graph by one backend on one target."""

    backend: str
    target: str
    precision: str
    graph: str
    nodes: Sequence[NodeSupport]


@dataclass(frozen=True)
class Demo:
    """What the demo made and found.

    Attributes:
        folder: holds everything below.
        bundle: of every engine, at the clip's size.
        checks: of every variant.
        coverage: of the clean graphs.
        timings: PyTorch eager first.
        variant: the fastest of the timings, which upscaled the clip.
        video, upscaled: the clip upscaled.
        low, high: the middle frame of those upscaled, uint8 [H, W, 3] and [4H, 4W, 3].
        skipped: what was left out for want of an SDK, with the reason.
        seconds: the demo took.
    """

    folder: Path
    bundle: Bundle
    checks: tuple[VariantCheck, ...]
    coverage: tuple[CoverageRow, ...]
    timings: tuple[SpeedRow, ...]
    variant: str
    video: Path
    upscaled: Upscaled
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    skipped: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Parts:
    """Model and clip."""

    clip: Path
    height: int
    width: int
    weights: str
    options: Mapping[str, str]


def run(
    folder: Path,
    frames: int,
    progress: Progress,
    *,
    clip: Path | None = None,
    weights: str = WEIGHTS,
    options: Mapping[str, str] | None = None,
    gpus: Sequence[str] = GPU_TARGETS,
) -> Demo:
    """Run the demo into `folder`.

    Args:
        folder: results; made if absent, replaced file by file.
        frames: of the clip to upscale, or all of a shorter one.
        progress: told of each stage.
        clip: at least 8 frames; the model is exported at their size. None for the sample clip.
        weights, options: of BasicVSR, as for `export`.
        gpus: what TensorRT-RTX builds plans for.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    present = _present(skipped)
    parts = _parts(clip, weights, options or {}, progress)
    jobs = plan_jobs([target("cpu")], [Precision.FP32], [n for n in CPU_BACKENDS if n in present])
    if GPU_BACKEND in present:
        jobs += plan_jobs([target(name) for name in gpus], [Precision.FP16], [GPU_BACKEND])
    bundle = _bundle(folder / f"{MODEL}.bundle", parts, jobs, progress)
    coverage = _coverage(bundle, present, progress)
    variants = [v for v in bundle.manifest.variants if bundle.why_not(v) is None]
    timings = _timings(bundle, variants, parts, progress)
    milliseconds = {row.name: row.ms for row in timings}
    fastest = min(variants, key=lambda v: milliseconds[v.name])
    video = folder / f"{parts.clip.stem}-x4.mp4"
    done = upscale(bundle, fastest, parts.clip, video, limit=frames, overwrite=True, progress=progress)
    low, high = (_frame(path, done.frames // 2) for path in (parts.clip, video))
    bicubic = to_uint8(imresize(low, high.shape[0] / low.shape[0]))
    write_png(folder / "before-after.png", np.concatenate([bicubic, high], axis=1))
    return Demo(
        folder=folder,
        bundle=bundle,
        checks=_checks(bundle),
        coverage=coverage,
        timings=tuple(timings),
        variant=fastest.name,
        video=video,
        upscaled=done,
        low=low,
        high=high,
        skipped=tuple(skipped),
        seconds=time.monotonic() - started,
    )


def _present(skipped: list[str]) -> list[str]:
    """The demo's backends that can build here; the others, with the reason, go to `skipped`."""
    reasons = {name: backend(name).missing() for name in COVERAGE_TARGETS}
    skipped += [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return [name for name, reason in reasons.items() if reason is None]


def _parts(clip: Path | None, weights: str, options: Mapping[str, str], progress: Progress) -> _Parts:
    if clip is None:
        progress.stage("fetching the clip")
        sample, on_bytes = SAMPLES[CLIP], received(progress, "fetching the clip")
        clip = fetch(sample.location, sha256=sample.sha256, progress=on_bytes).path
    with open_clip(clip) as opened:
        return _Parts(clip, opened.height, opened.width, weights, options)


def _bundle(output: Path, parts: _Parts, jobs: Sequence[Job], progress: Progress) -> Bundle:
    exported = exporting.export(
        MODEL,
        parts.weights,
        parts.height,
        parts.width,
        options=parts.options,
        clip=parts.clip,
        progress=progress,
    )
    exporting.save(exported, output.with_suffix(""))
    return compile_bundle(
        exported.model, jobs, exported.golden, output, options=BuildOptions(), progress=progress
    ).bundle


def _checks(bundle: Bundle) -> tuple[VariantCheck, ...]:
    manifest = bundle.manifest
    return tuple(stored_check(variant, manifest.golden.reference) for variant in manifest.variants)


def _coverage(bundle: Bundle, names: Sequence[str], progress: Progress) -> tuple[CoverageRow, ...]:
    graphs = bundle.model().graphs
    progress.stage("coverage", len(names) * len(graphs))
    rows = []
    for name in names:
        where, precision = COVERAGE_TARGETS[name]
        for graph, model in graphs.items():
            nodes = backend(name).coverage(model, target(where), precision)
            rows.append(CoverageRow(name, where, precision, graph, nodes))
            progress.advance(f"{name} {graph}")
    return tuple(rows)


def _timings(
    bundle: Bundle, variants: Sequence[Variant], parts: _Parts, progress: Progress
) -> list[SpeedRow]:
    architecture = exporting.frontend(MODEL)
    fetched = fetch_weights(parts.weights, architecture)
    reference = architecture.reference(
        ExportRequest(
            weights=fetched.path,
            height=parts.height,
            width=parts.width,
            options=parts.options,
            source=fetched.source,
        )
    )
    frames = bundle.golden().frames[:3]
    with contenders(bundle, variants, frames, reference) as ready:
        return race(ready, len(frames), rounds=3, progress=progress)


def _frame(path: Path, index: int) -> NDArray[np.uint8]:
    with open_clip(path) as clip:
        picture = next(islice(clip, index, None))
        return picture.rgb.astype(np.uint8, copy=False)
