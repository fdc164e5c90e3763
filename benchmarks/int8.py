"""BasicVSR in int8 beside fp32: quality on Vid4 frame by frame, and time. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from common import MODEL, fail, machine, result_path, start_with_threads, write

from superlower.backends.base import BuildOptions
from superlower.bundle.bundle import Bundle
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver import export as exporting
from superlower.driver.calibrate import calibration_footage
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.placement import GROWTH, GROWTH_DB
from superlower.driver.progress import Progress
from superlower.driver.quality import measure, read_truth
from superlower.driver.quantization import BUDGET_DB, Calibration
from superlower.driver.speed import contenders, physical_cores, take_turns
from superlower.errors import SuperlowerError
from superlower.media.clip import open_clip
from superlower.targets.base import Precision
from superlower.targets.catalog import target

BACKENDS = ("openvino", "onnxruntime")
SPEED_BAR = 2.6
"""How many times fp32's speed int8 must have on OpenVINO, in the same run."""
WEIGHTS = "vimeo90k-bi"
TIMED_FRAMES = 3
SCALE = 4
ENDS = 5
"""Frames at either end of a clip whose mean losses are compared."""


def compiled(
    folder: Path,
    size: tuple[int, int],
    clip: Path,
    names: Sequence[str],
    given: argparse.Namespace,
    progress: Progress,
) -> Bundle:
    """BasicVSR in fp32 and int8, calibrated on a clip, weights published or seeded; taken up if there."""
    if folder.exists():
        return Bundle.open(folder)
    options = {} if given.blocks is None else {"blocks": str(given.blocks)}
    location = WEIGHTS if given.blocks is None else "random:0"
    exported = exporting.export(MODEL, location, *size, options=options, progress=progress)
    jobs = plan_jobs([target("cpu")], [Precision.FP32, Precision.INT8], names)
    held = Calibration(calibration_footage(clip, exported.model.program.frame), given.budget_db)
    threads = BuildOptions(threads=physical_cores())
    return compile_bundle(
        exported.model, jobs, exported.golden, folder, options=threads, calibration=held, progress=progress
    ).bundle


def quality(bundle: Bundle, truth: Path, frames: int | None, progress: Progress) -> dict[str, object]:
    """Luma PSNR of every variant, and of int8 what it loses to its backend's fp32, frame by frame."""
    shown = read_truth(truth, bundle.program.frame, frames)
    rows = measure(bundle, bundle.manifest.variants, shown, "bi", progress=progress)
    scores = {row.variant: row.quality for row in rows}
    losses: dict[str, object] = {}
    for variant in bundle.manifest.variants:
        if variant.precision is not Precision.INT8:
            continue
        exact = scores[f"{variant.backend}-{variant.target}-fp32"].psnr
        curve = [a - b for a, b in zip(exact, scores[variant.name].psnr, strict=True)]
        first, last = fmean(curve[:ENDS]), fmean(curve[-ENDS:])
        losses[variant.name] = {
            "db": fmean(curve),
            "first_db": first,
            "last_db": last,
            "grows": last >= GROWTH * first + GROWTH_DB,
            "curve_db": [round(loss, 5) for loss in curve],
        }
    psnr = {name: found.mean_psnr for name, found in scores.items()}
    return {"clip": truth.name, "frames": len(shown), "psnr_y": psnr, "loss": losses}


def speed(bundle: Bundle, rounds: int, progress: Progress) -> dict[str, dict[str, object]]:
    """Milliseconds a frame of every variant in turns, by the clock and by this process's time on the CPU."""
    frames = bundle.golden().frames[:TIMED_FRAMES]
    with contenders(bundle, bundle.manifest.variants, frames) as ready:

        def lap(name: str) -> tuple[float, float]:
            clock, own = time.perf_counter(), time.process_time()
            ready[name].run()
            return (time.perf_counter() - clock) / len(frames), (time.process_time() - own) / len(frames)

        calls = {name: (lambda n=name: lap(n)) for name in ready}  # type: ignore[misc]
        laps: Mapping[str, list[tuple[float, float]]] = take_turns(calls, rounds=rounds, progress=progress)
    found: dict[str, dict[str, object]] = {}
    for variant in bundle.manifest.variants:
        exact = laps[f"{variant.backend}-{variant.target}-fp32"]
        own = laps[variant.name]
        ratios = [[b[i] / a[i] for a, b in zip(own, exact, strict=True)] for i in (0, 1)]
        found[variant.name] = {
            "ms": 1000 * median(clock for clock, _ in own),
            "cpu_ms": 1000 * median(cpu for _, cpu in own),
            "rounds_ms": [1000 * clock for clock, _ in own],
            "times_fp32": median(ratios[0]),
            "cpu_times_fp32": median(ratios[1]),
            "rounds_times_fp32": ratios[0],
        }
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("truth", type=Path, nargs="+", help="folders of ground-truth PNG frames, one a clip")
    parser.add_argument("--calibrate", type=Path, help="clip (default: each on the next one's first frames)")
    parser.add_argument("--frames", type=int, help="of each clip (default: all)")
    parser.add_argument("--size", help="HxW of the model's input, for centre crops (default: the clip's)")
    parser.add_argument("--blocks", type=int, help="residual blocks, with seeded weights; default: published")
    parser.add_argument("--backend", action="append", help=f"default: {', '.join(BACKENDS)}")
    parser.add_argument("--budget-db", type=float, default=BUDGET_DB, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="timed (default: %(default)s); 0 for none")
    parser.add_argument(
        "--bundles", type=Path, help="keep each clip's bundle here, and take up those that are"
    )
    parser.add_argument(
        "--part",
        choices=("all", "bundle", "quality", "speed"),
        default="all",
        help="what to measure; a result file keeps what other runs measured of the same bundle",
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file, of a single clip")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write; 1 where a bar is missed."""
    given = arguments()
    start_with_threads(physical_cores())
    names = given.backend or BACKENDS
    missed: list[str] = []
    try:
        for at, truth in enumerate(given.truth):
            clip = given.calibrate or given.truth[(at + 1) % len(given.truth)]
            missed += _clip(truth, clip, names, given)
    except SuperlowerError as error:
        return fail(error)
    for line in missed:
        console.print(f"missed: {line}", style="red", markup=False, soft_wrap=True)
    return 1 if missed else 0


def _clip(truth: Path, clip: Path, names: Sequence[str], given: argparse.Namespace) -> list[str]:
    with open_clip(truth) as opened:
        size = parse_size(given.size) if given.size else (opened.height // SCALE, opened.width // SCALE)
    name = f"int8-{truth.name}"
    parts = ("quality", "speed") if given.part == "all" else (given.part,)
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as bars:
        kept = given.bundles or Path(folder)
        bundle = compiled(kept / f"{truth.name}-{size[0]}x{size[1]}", size, clip, names, given, bars)
        if given.part == "bundle":
            return []
        earlier = _measured_before(result_path(name, size, given.output), bundle)
        about = machine(names)
        timed = "speed" in parts and given.rounds > 0
        speeds = {"machine": about, "engines": speed(bundle, given.rounds, bars)} if timed else {}
        scored = "quality" in parts and not given.size
        result = {
            "benchmark": "int8",
            "weights": WEIGHTS if given.blocks is None else "random:0",
            "height": size[0],
            "width": size[1],
            "calibrated_on": clip.name,
            "bundle": bundle.manifest.checksum,
            "quality": {"machine": about, **quality(bundle, truth, given.frames, bars)}
            if scored
            else earlier.get("quality", {}),
            "speed": speeds or earlier.get("speed", {}),
            "quantization": {
                v.name: v.quantization for v in bundle.manifest.variants if v.quantization is not None
            },
        }
    scores: Mapping[str, Any] = result["quality"]
    times: Mapping[str, Any] = result["speed"].get("engines", {})
    losses: Mapping[str, Mapping[str, object]] = scores.get("loss", {})
    print_table(
        f"{truth.name}, {size[0]}x{size[1]}, calibrated on {clip.name}",
        ("engine", "PSNR-Y dB", "loss dB", "first, last frames", "ms a frame", "times fp32", "by CPU time"),
        (
            (
                v.name,
                f"{scores['psnr_y'][v.name]:.3f}" if scores else "",
                f"{losses[v.name]['db']:.4f}" if v.name in losses else "",
                f"{losses[v.name]['first_db']:.4f}, {losses[v.name]['last_db']:.4f}"
                if v.name in losses
                else "",
                f"{times[v.name]['ms']:.0f}" if times else "",
                f"{times[v.name]['times_fp32']:.2f}" if times else "",
                f"{times[v.name]['cpu_times_fp32']:.2f}" if times else "",
            )
            for v in bundle.manifest.variants
        ),
    )
    console.print(f"written: {write(name, size, result, given.output)}", markup=False, soft_wrap=True)
    missed = [
        f"{truth.name}: {name} loses {loss['db']:.4f} dB, {given.budget_db:g} are allowed"
        for name, loss in losses.items()
        if float(str(loss["db"])) > given.budget_db
    ]
    missed += [
        f"{truth.name}: the loss of {name} grows over time" for name, loss in losses.items() if loss["grows"]
    ]
    for name, row in times.items():
        if (
            name.startswith("openvino")
            and name.endswith("int8")
            and float(str(row["times_fp32"])) < SPEED_BAR
        ):
            missed.append(f"{name} is {row['times_fp32']:.2f} times as fast as fp32, the bar is {SPEED_BAR}")
    return missed


def _measured_before(path: Path, bundle: Bundle) -> Mapping[str, Any]:
    """What a result file holds of the same bundle: nothing if it is another's, or absent."""
    if not path.is_file():
        return {}
    found: Mapping[str, Any] = json.loads(path.read_text())
    return found if found.get("bundle") == bundle.manifest.checksum else {}


if __name__ == "__main__":
    sys.exit(main())
