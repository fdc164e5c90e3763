"""What simpler alignment costs in quality on real clips, and what it saves. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from common import fail, machine, start_with_threads, write
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.check.reference import reference_outputs
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.export import frontend, golden_input
from superlower.driver.footage import Footage, read_footage
from superlower.driver.progress import Progress
from superlower.driver.rewriting import frame_flops
from superlower.driver.speed import take_turns
from superlower.errors import SuperlowerError
from superlower.frontends.base import ExportRequest
from superlower.frontends.fetch import fetch
from superlower.frontends.weights import fetch_weights
from superlower.media.samples import SAMPLES
from superlower.metrics.loss import quality_loss
from superlower.passes.pipelines import apply, default_pipeline
from superlower.passes.validate import seeded_feeds
from superlower.program.model import TemporalModel
from superlower.rewrites.base import ProgramPass
from superlower.rewrites.reuse_coarse_flow import ReuseCoarseFlow
from superlower.rewrites.truncate_flow_levels import TruncateFlowLevels
from superlower.targets.base import Precision
from superlower.targets.catalog import target

BACKENDS = ("onnxruntime", "openvino")
SAMPLE = "carphone"


@dataclass(frozen=True)
class Case:
    """A model, and what is done to it.

    Attributes:
        model: its name.
        weights: published ones, a file, or seeded ones, whose pictures say nothing of quality.
        passes: each tried by itself.
    """

    model: str
    weights: str
    passes: tuple[ProgramPass, ...]

    @property
    def trained(self) -> bool:
        """Whether quality means anything."""
        return not self.weights.startswith("random:")


@dataclass(frozen=True)
class QualityRow:
    """One pass on one clip: `superlower.metrics.loss.QualityLoss`, and the estimate without the truth."""

    model: str
    simplified: str
    clip: str
    frames: int
    gflop: tuple[float, float]
    db: float
    worst_db: float
    last_db: float
    psnr_db: float
    estimated_db: float
    before_db: float | None
    after_db: float | None


@dataclass(frozen=True)
class SpeedRow:
    """One pass on one backend.

    Attributes:
        ms: median milliseconds of processor time a frame, before and after.
        ratio, ratios: how many times as fast, median over the rounds and each.
        changed_ratio: the same of the graphs that the pass changed, by themselves.
    """

    model: str
    simplified: str
    backend: str
    gflop: tuple[float, float]
    ms: tuple[float, float]
    ratio: float
    ratios: tuple[float, ...]
    changed_ratio: float


def called(one: ProgramPass) -> str:
    """A pass with the options that tell it from its like."""
    levels = one.options().get("levels")
    return one.name if levels is None else f"{one.name}, levels={levels}"


def export(case: Case, size: tuple[int, int]) -> TemporalModel:
    """The model at a frame size."""
    architecture = frontend(case.model)
    weights = fetch_weights(case.weights, architecture)
    request = ExportRequest(
        weights=weights.path, height=size[0], width=size[1], options={}, source=weights.source
    )
    return architecture.export(request)


def measure_quality(
    case: Case, size: tuple[int, int], truths: Sequence[Path], count: int, progress: Progress
) -> list[QualityRow]:
    """Each pass on each clip of known truth, and on the sample clip as it is."""
    before = export(case, size)
    frame = before.program.frame
    clips: dict[str, Footage] = {path.name: read_footage(path, frame, count) for path in truths}
    sample = SAMPLES[SAMPLE]
    frames, source = golden_input(frame, count, fetch(sample.location, sha256=sample.sha256).path)
    clips[SAMPLE] = Footage((), tuple(frames), source)
    rows = []
    for name, clip in clips.items():
        progress.stage(f"{case.model}: {name}", 1 + len(case.passes))
        old = reference_outputs(before, clip.frames)
        progress.advance("before")
        for one in case.passes:
            after = one.run(before).model
            new = reference_outputs(after, clip.frames)
            loss = quality_loss(old, new, frame, clip.truth)
            rows.append(
                QualityRow(
                    model=case.model,
                    simplified=called(one),
                    clip=name,
                    frames=count,
                    gflop=(1e-9 * frame_flops(before), 1e-9 * frame_flops(after)),
                    estimated_db=quality_loss(old, new, frame).db,
                    **asdict(loss),
                )
            )
            progress.advance(f"{called(one)}: {loss.db:.4f} dB")
    return rows


def measure_speed(
    case: Case, size: tuple[int, int], sdk_name: str, rounds: int, folder: Path
) -> list[SpeedRow]:
    """The graphs of the model and of each simplification of it, compiled by one backend and run in turns.

    A frame's time is that of one call of every equation. One thread, by the process's own time, so that
    whatever else the machine does counts for nothing.
    """
    before = export(case, size)
    models = {"before": before} | {called(one): one.run(before).model for one in case.passes}
    sdk, cpu = backend(sdk_name), target("cpu")
    passes = (*default_pipeline(), *sdk.legalize(cpu, Precision.FP32))
    with ExitStack() as stack:
        runs: dict[str, Callable[[], float]] = {}
        for which, model in models.items():
            for name, graph in model.graphs.items():
                if which != "before" and graph is before.graphs[name]:
                    continue
                legal, _ = apply(graph, passes)
                work = folder / f"{len(runs)}"
                work.mkdir()
                session = sdk.load(sdk.compile(legal, cpu, BuildOptions(threads=1), work), work)
                stack.callback(session.close)
                runs[f"{which}: {name}"] = _timed(session, seeded_feeds(graph, 0))
        laps = take_turns(runs, rounds=rounds)

    def frame_ms(which: str, graphs: Collection[str]) -> list[float]:
        """Of each round, the equations that call one of the graphs."""
        columns = [
            laps.get(f"{which}: {equation.graph}", laps[f"before: {equation.graph}"])
            for equation in before.program.equations
            if equation.graph in graphs
        ]
        return [sum(times) for times in zip(*columns, strict=True)]

    rows = []
    for one in case.passes:
        name = called(one)
        changed = {g for g in before.graphs if models[name].graphs[g] is not before.graphs[g]}
        old, new = (frame_ms(which, before.graphs) for which in ("before", name))
        ratios = tuple(a / b for a, b in zip(old, new, strict=True))
        part = zip(frame_ms("before", changed), frame_ms(name, changed), strict=True)
        rows.append(
            SpeedRow(
                model=case.model,
                simplified=name,
                backend=sdk_name,
                gflop=(1e-9 * frame_flops(before), 1e-9 * frame_flops(models[name])),
                ms=(median(old), median(new)),
                ratio=median(ratios),
                ratios=ratios,
                changed_ratio=median(a / b for a, b in part),
            )
        )
    return rows


def _timed(session: Session, feeds: Mapping[str, NDArray[np.generic]]) -> Callable[[], float]:
    def run() -> float:
        began = time.process_time()
        session.run(feeds)
        return 1000 * (time.process_time() - began)

    return run


def show(quality: Sequence[QualityRow], speed: Sequence[SpeedRow]) -> None:
    """Tables for people."""
    print_table(
        "quality",
        ("model", "simplified", "clip", "GFLOP", "dB before", "dB lost", "worst, last third", "estimate"),
        (
            (
                row.model,
                row.simplified,
                f"{row.clip}, {row.frames}",
                f"{row.gflop[0]:.4g} -> {row.gflop[1]:.4g}",
                "" if row.before_db is None else f"{row.before_db:.3f}",
                "" if row.before_db is None else f"{row.db:.4f}",
                "" if row.before_db is None else f"{row.worst_db:.4f}, {row.last_db:.4f}",
                f"{row.estimated_db:.4f} ({row.psnr_db:.1f} dB apart)",
            )
            for row in quality
        ),
    )
    print_table(
        "speed",
        ("model", "simplified", "backend", "GFLOP", "ms", "times as fast", "graphs changed"),
        (
            (
                row.model,
                row.simplified,
                row.backend,
                f"{row.gflop[0]:.4g} -> {row.gflop[1]:.4g}",
                f"{row.ms[0]:.4g} -> {row.ms[1]:.4g}",
                f"{row.ratio:.3f} ({min(row.ratios):.3f} to {max(row.ratios):.3f})",
                f"{row.changed_ratio:.2f}",
            )
            for row in speed
        ),
    )


def cases(sofvsr: Path | None) -> Mapping[str, Case]:
    """What is measured, by model; SOF-VSR where its checkpoint is at hand."""
    known = [
        Case("basicvsr", "vimeo90k-bi", tuple(TruncateFlowLevels(levels=n) for n in (1, 2, 3))),
        Case("mstgan", "random:0", (TruncateFlowLevels(), ReuseCoarseFlow())),
        Case("edvr-m", "random:0", (ReuseCoarseFlow(),)),
    ]
    if sofvsr is not None:
        known.append(Case("sofvsr", str(sofvsr), tuple(TruncateFlowLevels(levels=n) for n in (1, 2))))
    return {case.model: case for case in known}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("truth", type=Path, nargs="*", help="folders of ground-truth PNG frames, one a clip")
    parser.add_argument("--size", default="96x128", help="height x width of the inputs: the clips' middle")
    parser.add_argument("--frames", type=int, default=15, help="of each clip")
    parser.add_argument("--rounds", type=int, default=5, help="of timing; 0 for none")
    parser.add_argument("--sofvsr", type=Path, help="checkpoint of SOF-VSR")
    parser.add_argument("--model", action="append", help="repeatable; all if left out")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    asked = arguments()
    size = parse_size(asked.size)
    quality: list[QualityRow] = []
    speed: list[SpeedRow] = []
    chosen = [c for name, c in cases(asked.sofvsr).items() if asked.model is None or name in asked.model]
    try:
        with Bars() as bars, tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            for case in chosen:
                if case.trained:
                    quality += measure_quality(case, size, asked.truth, asked.frames, bars)
                for name in BACKENDS if asked.rounds else ():
                    place = Path(folder) / f"{case.model}-{name}"
                    place.mkdir()
                    bars.stage(f"{case.model}: speed on {name}")
                    speed += measure_speed(case, size, name, asked.rounds, place)
        show(quality, speed)
        rows = {"quality": [asdict(r) for r in quality], "speed": [asdict(r) for r in speed]}
        path = write("alignment", size, {"machine": machine(BACKENDS), **rows}, asked.output)
    except SuperlowerError as error:
        return fail(error)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    start_with_threads(1)
    raise SystemExit(main())
