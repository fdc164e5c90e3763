"""SkipVSR beside BasicVSR through the same engines, on clips of known truth: time, share skipped, quality.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import onnx_ir as ir
from common import fail, machine, write
from engines import Engines
from numpy.typing import NDArray

from superlower.cli.common import Bars, console, print_table
from superlower.driver.export import frontend
from superlower.driver.speed import physical_cores, take_turns
from superlower.errors import SuperlowerError
from superlower.frontends.base import ExportRequest
from superlower.frontends.fetch import fetch
from superlower.frontends.weights import fetch_weights
from superlower.frontends.zoo.skipvsr import DEFAULT_THRESHOLD, LIMIT
from superlower.media.clip import open_clip
from superlower.media.degrade import bi
from superlower.media.samples import SAMPLES
from superlower.media.tensors import from_tensor, to_tensor
from superlower.metrics.psnr import luma, psnr
from superlower.program.model import TemporalModel
from superlower.runtime.runner import Runner

WEIGHTS = "vimeo90k-bi"
SCALE = 4
PLAIN = "basicvsr"
OPTIONS = ("patch", "halo", "settle", "skips")

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Lap:
    """A run of the clip.

    Attributes:
        wall_s, cpu_s: seconds by the clock, and of all this process's threads together.
        psnr: of luma in dB, frame by frame.
        ran: share of the patches whose trunk ran, 1 where nothing is routed.
        gmacs: of convolutions, a frame.
    """

    wall_s: float
    cpu_s: float
    psnr: tuple[float, ...]
    ran: float
    gmacs: float


def read(source: str, first: int, count: int) -> list[Image]:
    """Ground truth: frames of a folder or a sample clip, cropped to multiples of the scale."""
    known = SAMPLES.get(source)
    path = Path(source) if known is None else fetch(known.location, sha256=known.sha256).path
    with open_clip(path) as clip:
        height, width = clip.height // SCALE * SCALE, clip.width // SCALE * SCALE
        return [p.rgb[:height, :width].astype(np.uint8) for p in islice(clip, first, first + count)]


def with_threshold(model: TemporalModel, threshold: float) -> TemporalModel:
    """The same model at another threshold: only graphs that choose are others."""
    graphs = {}
    for name, graph in model.graphs.items():
        graphs[name] = graph
        if LIMIT in graph.graph.initializers:
            graphs[name] = changed = graph.clone()
            limit = np.array(math.log2(threshold) if threshold else -math.inf, np.float32)
            changed.graph.initializers[LIMIT].const_value = ir.tensor(limit, name=LIMIT)
    return model.with_graphs(graphs)


def lap(engines: Engines, runner: Runner, low: Sequence[Image], truth: Sequence[Image]) -> Lap:
    """Run the clip. Scores are taken when the clocks have stopped."""
    contract = runner.program.frame
    inputs = [to_tensor(picture, contract) for picture in low]
    macs, chosen = engines.macs, sum(runner.chosen.values())
    started, cpu = time.perf_counter(), time.process_time()
    outputs = list(runner.run(inputs, total=len(inputs)))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    counts = sum(runner.chosen.values()) - chosen
    scores = tuple(
        psnr(luma(from_tensor(np.asarray(made, np.float32), contract, source)), luma(true))
        for made, source, true in zip(outputs, low, truth, strict=True)
    )
    ran = float(counts[1:].sum() / counts.sum()) if runner.chosen else 1.0
    return Lap(wall, cpu, scores, ran, (engines.macs - macs) / len(low) / 1e9)


def summary(name: str, laps: Sequence[Lap], plain: Sequence[Lap]) -> dict[str, object]:
    """One contender's row for the JSON file: what BasicVSR took by what it takes, round by round."""
    one, base = laps[0], plain[0]
    lost = [b - s for s, b in zip(one.psnr, base.psnr, strict=True)]
    return {
        "name": name,
        "ran": one.ran,
        "gmacs_a_frame": one.gmacs,
        "times_fewer_macs": base.gmacs / one.gmacs,
        "times_as_fast_wall": [p.wall_s / s.wall_s for s, p in zip(laps, plain, strict=True)],
        "times_as_fast_cpu": [p.cpu_s / s.cpu_s for s, p in zip(laps, plain, strict=True)],
        "wall_s": [s.wall_s for s in laps],
        "cpu_s": [s.cpu_s for s in laps],
        "psnr_y": fmean(one.psnr),
        "lost_db": fmean(lost),
        "lost_db_by_frame": lost,
    }


def export(name: str, size: tuple[int, int], options: Mapping[str, str]) -> TemporalModel:
    """The model with the published weights at a frame size."""
    architecture = frontend(name)
    weights = fetch_weights(WEIGHTS, architecture)
    return architecture.export(ExportRequest(weights.path, *size, options, weights.source))


def measure(arguments: argparse.Namespace, bars: Bars) -> dict[str, object]:
    """Everything about one clip on one backend."""
    truth = read(arguments.clip, arguments.first, arguments.frames)
    low = [bi(picture, SCALE) for picture in truth]
    size = (low[0].shape[0], low[0].shape[1])
    options = {name: str(value) for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    bars.stage("export")
    plain, skipping = export(PLAIN, size, {}), export("skipvsr", size, options)
    models = {f"threshold {t:g}": with_threshold(skipping, t) for t in arguments.threshold}
    with ExitStack() as stack:
        bars.stage(f"build with {arguments.backend}")
        engines = Engines(arguments.backend, arguments.threads, stack)
        runners = {name: engines.runner(model) for name, model in {PLAIN: plain, **models}.items()}
        laps = take_turns(
            {name: partial(lap, engines, runner, low, truth) for name, runner in runners.items()},
            rounds=arguments.rounds,
            warmup=arguments.warmup,
            progress=bars,
        )
    route = next(e.route for e in skipping.program.equations if e.route is not None)
    return {
        "machine": {**machine([arguments.backend]), "threads": arguments.threads},
        "clip": Path(arguments.clip).name,
        "frames": [arguments.first, arguments.first + len(truth)],
        "size": list(size),
        "degradation": "bi",
        "weights": WEIGHTS,
        "backend": arguments.backend,
        "patch": list(route.patch),
        "halo": route.halo,
        "settle": int(skipping.program.provenance["settle"]),
        "results": [summary(name, found, laps[PLAIN]) for name, found in laps.items()],
    }


def show(result: Mapping[str, Any]) -> None:
    """The table."""
    print_table(
        f"{result['clip']}, {len(result['results'][0]['lost_db_by_frame'])} frames, {result['backend']}",
        (
            "",
            "trunk runs on",
            "GMACs a frame",
            "times fewer",
            "times as fast",
            "by CPU",
            "PSNR-Y dB",
            "lost dB",
        ),
        (
            (
                row["name"],
                f"{row['ran']:.0%}",
                f"{row['gmacs_a_frame']:.1f}",
                f"{row['times_fewer_macs']:.2f}",
                f"{median(row['times_as_fast_wall']):.2f}",
                f"{median(row['times_as_fast_cpu']):.2f}",
                f"{row['psnr_y']:.3f}",
                f"{row['lost_db']:.3f}",
            )
            for row in result["results"]
        ),
    )


def main() -> int:
    """Run the script; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", help=f"a folder of ground-truth PNG frames, or one of {', '.join(SAMPLES)}")
    parser.add_argument("--first", type=int, default=0, help="frame of the clip to begin at")
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--threshold", type=float, nargs="+", default=[DEFAULT_THRESHOLD])
    for name in OPTIONS:
        parser.add_argument(f"--{name}", help=f"as `--set {name}` of SkipVSR")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="that engines compute with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that don't count")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    try:
        with Bars() as bars:
            result = measure(arguments, bars)
    except SuperlowerError as error:
        return fail(error)
    show(result)
    size = (result["size"][0], result["size"][1])
    name = f"skipvsr-{result['clip']}-{arguments.backend}"
    console.print(f"written: {write(name, size, result, arguments.output)}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
