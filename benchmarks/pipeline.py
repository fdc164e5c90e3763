"""Ways to run a program's calls, each beside one call after another: overlap, batches, tails, pixels, states.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from common import fail, machine, result_path, start_with_threads, write
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import MANIFEST_FILE, Variant
from superlower.check.crosscheck import replay
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle
from superlower.driver.export import export, frontend
from superlower.driver.planning import TOGETHER
from superlower.driver.progress import Progress
from superlower.driver.speed import REST_S, physical_cores
from superlower.driver.upscale import upscale
from superlower.driver.ways import Subject, WayBuilder, opened
from superlower.errors import BadInputError, SuperlowerError
from superlower.media.clip import open_clip
from superlower.media.tensors import from_tensor, picture_of, to_tensor
from superlower.program import analysis
from superlower.program.plan import ExecutionPlan
from superlower.rewrites.split_tail import split
from superlower.runtime.load import open_runners
from superlower.runtime.runner import Runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target

FRAMES = 8
BASE = "one call after another"
TWO_CLIPS = "two clips, each with half the threads"

Pictures = Sequence[NDArray[np.uint8]]
Lap = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One way.

    Attributes:
        way: in words.
        ms: median milliseconds a frame, from uint8 picture to uint8 picture.
        cpu_ms: the same by the process's own time on all threads.
        ratios: how many times as fast as one call after another, round by round.
        cpu_ratios: the same of processor time, which others on the machine disturb less.
        error: largest error over the golden clip beyond rounding; None where that isn't its own.
        refused: why it couldn't be gone.
    """

    way: str
    ms: float | None = None
    cpu_ms: float | None = None
    ratios: tuple[float, ...] = ()
    cpu_ratios: tuple[float, ...] = ()
    error: float | None = None
    refused: str = ""


def made(folder: Path, asked: argparse.Namespace, progress: Progress) -> Bundle:
    """The bundle in the folder; built there first if there is none."""
    if not (folder / MANIFEST_FILE).is_file():
        height, width = parse_size(asked.size)
        weights = asked.weights or frontend(asked.model).checkpoints[0].name
        exported = export(
            asked.model,
            weights,
            height,
            width,
            clip=asked.clip,
            golden_frames=FRAMES,
            progress=progress,
        )
        job = Job(backend(asked.backend), target("cpu"), Precision(asked.precision))
        options = BuildOptions(threads=physical_cores())
        compile_bundle(exported.model, [job], exported.golden, folder, options=options, progress=progress)
    return Bundle.open(folder)


def plans(subject: Subject) -> dict[str, ExecutionPlan]:
    """Every way that the program may be gone, but the first."""
    half = max(1, physical_cores() // 2)
    found = {
        "two calls in flight": ExecutionPlan(in_flight=2),
        "two calls in flight, half the threads each": ExecutionPlan(in_flight=2, threads=half),
    }
    cut = split(subject.model)[0]
    tail = cut.applied.changed
    if tail:
        found["tail cut off"] = ExecutionPlan(tail_cut=True)
        found["tail cut off, two in flight, half the threads"] = ExecutionPlan(
            tail_cut=True, in_flight=2, threads=half
        )
    if graphs := sorted(analysis.batchable_graphs(cut.model.program)):
        batch = dict.fromkeys(graphs, TOGETHER)
        found[f"{', '.join(graphs)} by {TOGETHER}"] = ExecutionPlan(tail_cut=tail, batch=batch)
    found["pixels in the graphs"] = ExecutionPlan(pixels=True)
    if subject.variant.backend == "openvino":
        found["states in the engines"] = ExecutionPlan(states="engine")
    return found


def lap(runner: Runner, pictures: Pictures) -> None:
    """One clip, from pictures to pictures."""
    frame = runner.program.frame
    if frame.pixels is not None:
        for _ in runner.run((one[None] for one in pictures), total=len(pictures)):
            pass
        return
    outputs = runner.run((to_tensor(one, frame) for one in pictures), total=len(pictures))
    for one, output in zip(pictures, outputs, strict=True):
        from_tensor(np.asarray(output, np.float32), frame, one)


@contextmanager
def two_clips(bundle: Bundle, builder: WayBuilder, pictures: Pictures) -> Iterator[Lap]:
    """Two clips side by side, by engines of half the threads."""
    half = builder.way(ExecutionPlan(threads=max(1, physical_cores() // 2)))
    with opened(builder.subject.variant, half) as one, opened(builder.subject.variant, half) as other:

        def both() -> None:
            beside = threading.Thread(target=lap, args=(other, pictures))
            beside.start()
            lap(one, pictures)
            beside.join()

        yield both


Times = list[tuple[float, float]]
"""Seconds of each round, by the wall's clock and by the process's own."""


def duel(base: Lap, other: Lap, rounds: int, clips: int) -> tuple[Times, Times]:
    """Seconds a clip of both, in turns."""
    times: tuple[Times, Times] = ([], [])
    for turn in range(rounds + 1):
        for k, run in enumerate((base, other)):
            time.sleep(REST_S)
            cpu, started = time.process_time(), time.perf_counter()
            run()
            if turn:
                share = clips if k else 1
                wall, own = time.perf_counter() - started, time.process_time() - cpu
                times[k].append((wall / share, own / share))
    return times


def measure(bundle: Bundle, variant: Variant, rounds: int, only: str, progress: Progress) -> list[Row]:
    """Each way beside the first, in turns."""
    golden, options = bundle.golden(), BuildOptions(threads=physical_cores())
    job = Job(backend(variant.backend), target("cpu"), variant.precision)
    subject = Subject(variant, bundle.folder, bundle.model(), job, options)
    pictures = [picture_of(one, bundle.program.frame) for one in golden.frames]
    found: list[Row] = []
    first: Times = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="superlower-")))
        builder = WayBuilder(subject, scratch)
        base = stack.enter_context(opened(variant, builder.way(ExecutionPlan())))
        ways = {name: plan for name, plan in plans(subject).items() if only in name}
        progress.stage("timing", len(ways) + 2)

        def row(name: str, other: Lap, error: float | None, clips: int = 1) -> Row:
            one, two = duel(lambda: lap(base, pictures), other, rounds, clips)
            first.extend(one)
            wall, own = (tuple(a[k] / b[k] for a, b in zip(one, two, strict=True)) for k in (0, 1))
            return Row(name, *_ms(two, len(pictures)), wall, own, error)

        for name, plan in ways.items():
            try:
                with opened(variant, builder.way(plan)) as runner:
                    error = max(replay(runner, golden)[0])
                    found.append(row(name, lambda r=runner: lap(r, pictures), error))  # type: ignore[misc]
            except SuperlowerError as refused:
                found.append(Row(name, refused=str(refused)))
            progress.advance(name)
        if only in TWO_CLIPS:
            with two_clips(bundle, builder, pictures) as both:
                found.append(row(TWO_CLIPS, both, None, clips=2))
        progress.advance(TWO_CLIPS)
    return [Row(BASE, *_ms(first, len(pictures))), *found] if first else found


def _ms(times: Times, frames: int) -> tuple[float, float]:
    wall, own = (1000 * median(one[k] for one in times) / frames for k in (0, 1))
    return wall, own


def end_to_end(
    bundle: Bundle, variant: Variant, clip: Path, frames: int, rounds: int, folder: Path
) -> dict[str, object]:
    """A video through `upscale`, decoded and encoded, beside its pictures through the engines alone."""
    variant = msgspec.structs.replace(variant, planned=None)
    pictures = [picture_of(one, bundle.program.frame) for one in bundle.golden().frames][:frames]
    alone, whole = [], []
    for turn in range(rounds + 1):
        with open_runners(bundle, variant, 1) as (runner,):
            lap(runner, pictures[:2])
            started = time.perf_counter()
            lap(runner, pictures)
            one = time.perf_counter() - started
        done = upscale(bundle, variant, clip, folder / "out.mp4", limit=len(pictures), overwrite=True)
        if turn:
            alone.append(one)
            whole.append(done.seconds)
    return {
        "frames": len(pictures),
        "engines_ms": 1000 * median(alone) / len(pictures),
        "upscale_ms": 1000 * median(whole) / len(pictures),
        "ratios": [b / a for a, b in zip(alone, whole, strict=True)],
    }


def refuse_tiles(clip: Path, bundle: Bundle) -> None:
    """A larger clip would be cut into tiles, whose overlaps the engines alone don't compute."""
    frame = bundle.program.frame
    with open_clip(clip) as video:
        size = video.height, video.width
    if size != (frame.height, frame.width):
        raise BadInputError(
            f"--end-to-end: {clip} is {size[0]}x{size[1]}, the engines' frame {frame.height}x{frame.width}: "
            f"give --size {size[0]}x{size[1]}, or leave --end-to-end out"
        )


def beside(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """The result, in the place of the same ways' rows of the file there."""
    if not path.is_file():
        return result
    known = msgspec.json.decode(path.read_bytes())
    fresh = {row["way"]: row for row in result["rows"] if row["way"] != BASE}
    rows = {row["way"]: row for row in known["rows"]} | fresh
    whole = result["end_to_end"] or known["end_to_end"]
    return {**result, "rows": list(rows.values()), "end_to_end": whole}


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def show(rows: Sequence[Row], title: str) -> None:
    """The table."""
    print_table(
        title,
        ("way", "ms a frame", "processor ms", "times as fast", "by processor time", "error"),
        (
            (
                row.way,
                "" if row.ms is None else f"{row.ms:.1f}",
                "" if row.cpu_ms is None else f"{row.cpu_ms:.1f}",
                row.refused or _spread(row.ratios),
                _spread(row.cpu_ratios),
                "" if row.error is None else f"{row.error:.1e}",
            )
            for row in rows
        ),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="basicvsr")
    parser.add_argument("--weights", help="as of `export`; the first published checkpoint if left out")
    parser.add_argument("--size", default="144x176", help="height x width of the frame")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--clip", type=Path, help="video that golden frames come from: pictures need whole levels"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="ways whose names hold this")
    parser.add_argument("--bundle", type=Path, help="take it, or make it there and keep it")
    parser.add_argument("--build-only", action="store_true", help="stop when --bundle is made")
    parser.add_argument(
        "--end-to-end",
        action="store_true",
        help="time upscale on --clip too, which must be as large as the frame",
    )
    parser.add_argument("--add", action="store_true", help="keep other ways' rows that the file has")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    asked = arguments()
    try:
        with Bars() as bars, tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            bundle = made(asked.bundle or Path(folder) / "bundle", asked, bars)
            if asked.build_only:
                return 0
            if asked.end_to_end:
                refuse_tiles(asked.clip, bundle)
            variant = bundle.variant(f"{asked.backend}-cpu-{asked.precision}")
            rows = measure(bundle, variant, asked.rounds, asked.only, bars)
            whole = None
            if asked.end_to_end:
                whole = end_to_end(bundle, variant, asked.clip, FRAMES, asked.rounds, Path(folder))
        size = (bundle.program.frame.height, bundle.program.frame.width)
        name = f"pipeline-{asked.model}-{asked.backend}-{asked.precision}"
        show(rows, f"{asked.model} at {size[0]}x{size[1]} in {asked.backend}, {asked.precision}")
        if whole:
            console.print(f"upscale: {whole}")
        result = {
            "machine": machine([asked.backend]),
            "model": asked.model,
            "backend": asked.backend,
            "precision": asked.precision,
            "frames": FRAMES,
            "rows": [asdict(row) for row in rows],
            "end_to_end": whole,
        }
        if asked.add:
            result = beside(result, result_path(name, size, asked.output))
        path = write(name, size, result, asked.output)
    except SuperlowerError as error:
        return fail(error)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    start_with_threads(physical_cores())
    raise SystemExit(main())
