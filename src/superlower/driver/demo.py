"""The whole path on public parts: checkpoint to engines to video, with every figure it can be judged by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from superlower.backends.base import BuildOptions, NodeSupport
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.golden import GoldenClip
from superlower.bundle.manifest import Variant
from superlower.check.crosscheck import VariantCheck, stored_check
from superlower.driver import export as exporting
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.progress import Progress
from superlower.driver.speed import SpeedRow, contenders, race
from superlower.driver.upscale import Upscaled, upscale
from superlower.frontends.base import ExportRequest
from superlower.frontends.fetch import fetch
from superlower.frontends.weights import fetch_weights
from superlower.media.clip import open_clip
from superlower.media.resize import imresize, to_uint8
from superlower.media.samples import SAMPLES
from superlower.targets.base import Precision
from superlower.targets.catalog import target

MODEL = "basicvsr"
WEIGHTS = "vimeo90k-bi"
CLIP = "carphone"
CROP = 64
"""Side of the frames TVM runs: its default CPU schedules are slow until tuned, so it has a crop to do."""
CPU_BACKENDS = ("onnxruntime", "openvino")
GPU_TARGETS = ("rtx2080ti", "rtx3090", "rtx4090", "rtx5090")


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
        bundle, crop_bundle: at the clip's size; at the crop's, for TVM (None where TVM isn't installed).
        checks: of every variant of both.
        coverage: of the clean graphs.
        timings: PyTorch eager first.
        video, upscaled: the clip upscaled.
        before, after: PNG bytes of one frame, upscaled bicubically and by the model.
        skipped: what was left out for want of an SDK, with the reason.
        seconds: the demo took.
    """

    folder: Path
    bundle: Bundle
    crop_bundle: Bundle | None
    checks: tuple[VariantCheck, ...]
    coverage: tuple[CoverageRow, ...]
    timings: tuple[SpeedRow, ...]
    video: Path
    upscaled: Upscaled
    before: bytes
    after: bytes
    skipped: tuple[str, ...]
    seconds: float


def run(folder: Path, frames: int, progress: Progress) -> Demo:
    """Run the demo into `folder`.

    Args:
        folder: results; made if absent, replaced file by file.
        frames: of the clip to upscale.
        progress: told of each stage.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    progress.stage("fetching the clip")
    clip = fetch(SAMPLES[CLIP].location, sha256=SAMPLES[CLIP].sha256).path
    sample = SAMPLES[CLIP]
    skipped: list[str] = []
    bundle = _bundle(
        folder / "basicvsr.bundle",
        (sample.height, sample.width),
        clip,
        _present(CPU_BACKENDS, skipped),
        progress,
    )
    crop = None
    if _present(("tvm",), skipped):
        crop = _bundle(folder / "basicvsr-64x64.bundle", (CROP, CROP), clip, ["tvm"], progress)
    checks = _checks(bundle) + (_checks(crop) if crop else ())
    coverage = _coverage(bundle, progress)
    variants = [v for v in bundle.manifest.variants if bundle.why_not(v) is None]
    fastest = variants[-1]
    video = folder / f"{clip.stem}-x4.mp4"
    result = upscale(bundle, fastest, clip, video, limit=frames, overwrite=True, progress=progress)
    before, after = _pictures(clip, video, folder, frames // 2)
    timings = _timings(bundle, variants, progress)
    return Demo(
        folder=folder,
        bundle=bundle,
        crop_bundle=crop,
        checks=checks,
        coverage=coverage,
        timings=tuple(timings),
        video=video,
        upscaled=result,
        before=before,
        after=after,
        skipped=tuple(skipped),
        seconds=time.monotonic() - started,
    )


def _present(names: Sequence[str], skipped: list[str]) -> list[str]:
    found = []
    for name in names:
        reason = backend(name).missing()
        if reason is None:
            found.append(name)
        else:
            skipped.append(f"{name}: {reason}")
    return found


def _bundle(
    output: Path, size: tuple[int, int], clip: Path, names: Sequence[str], progress: Progress
) -> Bundle:
    """A bundle of the given CPU backends; at the clip's own size also plans for the GPUs."""
    exported = exporting.export(MODEL, WEIGHTS, *size, clip=clip, progress=progress)
    exporting.save(exported, output.with_suffix(""))
    jobs = plan_jobs([target("cpu")], [Precision.FP32], names)
    if size != (CROP, CROP) and backend("tensorrt-rtx").missing() is None:
        jobs += plan_jobs([target(name) for name in GPU_TARGETS], [Precision.FP16], ["tensorrt-rtx"])
    golden: GoldenClip = exported.golden
    compiled = compile_bundle(exported.model, jobs, golden, output, options=BuildOptions(), progress=progress)
    return compiled.bundle


def _checks(bundle: Bundle) -> tuple[VariantCheck, ...]:
    manifest = bundle.manifest
    return tuple(stored_check(variant, manifest.golden.reference) for variant in manifest.variants)


def _coverage(bundle: Bundle, progress: Progress) -> tuple[CoverageRow, ...]:
    asked = [(name, "cpu", Precision.FP32) for name in (*CPU_BACKENDS, "tvm")]
    asked.append(("tensorrt-rtx", "rtx4090", Precision.FP16))
    graphs = bundle.model().graphs
    progress.stage("coverage", len(asked) * len(graphs))
    rows = []
    for name, where, precision in asked:
        for graph, model in graphs.items():
            rows.append(
                CoverageRow(
                    name, where, precision, graph, backend(name).coverage(model, target(where), precision)
                )
            )
            progress.advance(f"{name} {graph}")
    return tuple(rows)


def _timings(bundle: Bundle, variants: Sequence[Variant], progress: Progress) -> list[SpeedRow]:
    architecture = exporting.frontend(MODEL)
    fetched = fetch_weights(WEIGHTS, architecture)
    frame = bundle.program.frame
    reference = architecture.reference(
        ExportRequest(
            weights=fetched.path, height=frame.height, width=frame.width, options={}, source=fetched.source
        )
    )
    clip = bundle.golden().frames[:3]
    with contenders(bundle, variants, clip, reference) as ready:
        return race(ready, len(clip), rounds=3, progress=progress)


def _pictures(clip: Path, video: Path, folder: Path, index: int) -> tuple[bytes, bytes]:
    """One frame, upscaled bicubically and by the model; also side by side as before-after.png."""
    low, high = _frame(clip, index), _frame(video, index)
    bicubic = to_uint8(imresize(low, high.shape[0] / low.shape[0]))
    pair = np.concatenate([bicubic, high], axis=1)
    (folder / "before-after.png").write_bytes(_png(pair))
    return _png(bicubic), _png(high)


def _frame(path: Path, index: int) -> NDArray[np.uint8]:
    with open_clip(path) as clip:
        picture = next(islice(clip, index, None))
        return picture.rgb.astype(np.uint8, copy=False)


def _png(rgb: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()
