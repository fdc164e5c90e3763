"""What the benchmarks share: the machine, a model as a bundle, threads, results on disk."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.cli.common import console
from superlower.driver import export as exporting
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.progress import Progress
from superlower.driver.speed import physical_cores
from superlower.errors import SuperlowerError
from superlower.frontends.base import ClipReference, ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.targets.base import Precision
from superlower.targets.catalog import target

MODEL = "basicvsr"
RESULTS = Path(__file__).resolve().parent / "results"
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def start_with_threads(threads: int) -> None:
    """Start this script anew unless libraries that read their thread count when they load were told it."""
    wanted = dict.fromkeys(_THREADS, str(threads))
    if any(os.environ.get(name) != count for name, count in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def machine(backends: Sequence[str]) -> dict[str, object]:
    """What figures depend on besides the code: processor, threads, versions, how busy the machine is."""
    import torch

    versions = {"torch": str(torch.__version__)}
    for name in backends:
        versions |= backend(name).versions()
    return {
        "title": target("cpu").title,
        "system": platform.platform(),
        "threads": physical_cores(),
        "load_average": os.getloadavg()[0],
        "versions": versions,
    }


@dataclass(frozen=True)
class Built:
    """A bundle, and PyTorch's run of the same weights."""

    bundle: Bundle
    reference: ClipReference
    weights: str


def build(
    folder: Path,
    size: tuple[int, int],
    backends: Sequence[str],
    progress: Progress,
    *,
    model: str = MODEL,
    weights: str | None = None,
    blocks: int | None = None,
    clip: Path | None = None,
    golden_frames: int = exporting.GOLDEN_FRAMES,
) -> Built:
    """Export a model and compile it in fp32 with a thread a physical core.

    Args:
        folder: where the bundle goes.
        size: height and width of a frame.
        backends: to compile with.
        model: its name.
        weights: a file, or the name of a published checkpoint; None for the first of those.
        blocks: residual blocks a trunk, with seeded weights; None for a checkpoint and what it has.
        clip: golden frames come from it; made up if None.
        golden_frames: how many.
    """
    architecture = exporting.frontend(model)
    location, options = weights or architecture.checkpoints[0].name, {}
    if blocks is not None:
        location, options = "random:0", {"blocks": str(blocks)}
    fetched = fetch_weights(location, architecture)
    exported = exporting.export(
        model,
        location,
        *size,
        options=options,
        clip=clip,
        golden_frames=golden_frames,
        progress=progress,
    )
    jobs = plan_jobs([target("cpu")], [Precision.FP32], backends)
    threads = BuildOptions(threads=physical_cores())
    made = compile_bundle(exported.model, jobs, exported.golden, folder, options=threads, progress=progress)
    request = ExportRequest(
        weights=fetched.path, height=size[0], width=size[1], options=options, source=fetched.source
    )
    published = (c.name for c in architecture.checkpoints if c.sha256 == fetched.sha256)
    return Built(made.bundle, architecture.reference(request), next(published, Path(location).name))


def result_path(name: str, size: tuple[int, int], output: Path | None) -> Path:
    """Where a result goes: `output`, or under results/ by the machine's name."""
    slug = re.sub(r"[^a-z0-9]+", "-", target("cpu").title.lower()).strip("-")
    return output or RESULTS / f"{name}-{size[0]}x{size[1]}-{slug}.json"


def write(name: str, size: tuple[int, int], result: Mapping[str, object], output: Path | None) -> Path:
    """Write a result as JSON where `result_path` says."""
    path = result_path(name, size, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    aside.replace(path)
    return path


def fail(error: SuperlowerError) -> int:
    """Say in one line what went wrong; the exit code for it."""
    console.print(f"benchmark: {error}", style="red", markup=False, soft_wrap=True)
    return error.exit_code
