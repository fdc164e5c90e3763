"""The exact rewrites, each against the graph it rewrites, on every backend in turns; and windows hoisted.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir
from common import fail, machine, start_with_threads, write
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.bundle.golden import moving_texture
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.export import frontend
from superlower.driver.flops import convolutions, graph_macs
from superlower.driver.rewriting import frame_flops
from superlower.driver.small_graphs import CHANNELS, SmallGraph
from superlower.driver.speed import physical_cores, take_turns
from superlower.errors import BadInputError, OutputsDifferError, SuperlowerError
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.passes.base import Pass
from superlower.passes.conv_transpose_to_sub_pixel import ConvTransposeToSubPixel
from superlower.passes.fold_batch_norm import ARITHMETIC, FoldBatchNorm
from superlower.passes.own_biases import OwnBiases
from superlower.passes.pipelines import apply, default_pipeline
from superlower.passes.resize_conv_to_sub_pixel import ResizeConvToSubPixel
from superlower.program.model import TemporalModel
from superlower.rewrites.base import ProgramPass
from superlower.rewrites.hoist_frames import HoistFrames
from superlower.rewrites.pipeline import apply as apply_to_program
from superlower.runtime.runner import Engine, Runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target

BACKENDS = ("onnxruntime", "openvino", "tvm")

TOLERANCE = 1e-3
"""Of the largest output, at least 1: the rewrites' budgets of 1e-4, and what kernels differ by."""


@dataclass(frozen=True)
class Times:
    """By one clock.

    Attributes:
        ms: median milliseconds, before and after; a frame's for networks.
        ratios: of each round, how many times as fast.
    """

    ms: tuple[float, float]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One rewrite on one backend.

    Attributes:
        case: which.
        backend: where.
        gflop: of convolutions, before and after; a frame's for networks.
        wall: by the clock on the wall.
        cpu: by the process's own time on all threads, which others on the machine disturb less.
        error: largest difference of outputs.
    """

    case: str
    backend: str
    gflop: tuple[float, float]
    wall: Times
    cpu: Times
    error: float


@dataclass(frozen=True)
class Asked:
    """How to measure: a frame's size, frames of a clip, counted rounds, threads of an engine."""

    size: tuple[int, int]
    frames: int
    rounds: int
    threads: int


def _conv_norm(g: SmallGraph) -> ir.Value:
    convolved = g.add("Conv", g.x, g.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)
    return g.add("Relu", g.norm(convolved))


def _norm_alone(g: SmallGraph) -> ir.Value:
    return g.add("Conv", g.add("Relu", g.norm(g.add("Abs", g.x))), g.weight(8, CHANNELS, 1, 1))


def _transposed(kernel: int, further: int) -> Callable[[SmallGraph], ir.Value]:
    def build(g: SmallGraph) -> ir.Value:
        weight = g.weight(CHANNELS, CHANNELS, kernel, kernel)
        more = {"pads": [1] * 4, "output_padding": [further] * 2}
        return g.add("ConvTranspose", g.x, weight, strides=[2, 2], **more)

    return build


def _resized(g: SmallGraph) -> ir.Value:
    large = g.add("Resize", g.x, None, g.constant([1, 1, 2, 2]), mode="nearest")
    return g.add("Conv", large, g.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)


def _windowed(g: SmallGraph) -> ir.Value:
    """Three residual blocks on five frames, each block's weights and biases shared by them."""
    blocks = [[(g.weight(CHANNELS, CHANNELS, 3, 3), g.weight(CHANNELS)) for _ in range(2)] for _ in range(3)]
    frames = []
    for shift in range(5):
        x = g.add("Add", g.x, g.constant(shift))
        for (w1, b1), (w2, b2) in blocks:
            inner = g.add("Relu", g.add("Conv", x, w1, b1, pads=[1] * 4))
            x = g.add("Add", g.add("Conv", inner, w2, b2, pads=[1] * 4), x)
        frames.append(x)
    return g.add("Sum", *frames)


CASES: Mapping[str, tuple[Callable[[SmallGraph], ir.Value], Pass]] = {
    "batch norm after a convolution": (_conv_norm, FoldBatchNorm()),
    "batch norm alone, as a 1x1 convolution": (_norm_alone, FoldBatchNorm()),
    "batch norm alone, as Mul and Add": (_norm_alone, FoldBatchNorm(alone=ARITHMETIC)),
    "transposed convolution 3x3, stride 2": (_transposed(3, 1), ConvTransposeToSubPixel()),
    "transposed convolution 4x4, stride 2": (_transposed(4, 0), ConvTransposeToSubPixel()),
    "nearest x2 and a 3x3 convolution": (_resized, ResizeConvToSubPixel()),
    "biases that five frames share": (_windowed, OwnBiases()),
}


@dataclass(frozen=True)
class Network:
    """A network of the zoo, with seeded weights, and what is rewritten in it.

    Attributes:
        name: the frontend.
        rewrite: of its program, or of each of its graphs.
        options: of the frontend.
    """

    name: str
    rewrite: ProgramPass | Pass
    options: Mapping[str, str] = field(default_factory=dict)

    def models(self, size: tuple[int, int]) -> tuple[TemporalModel, TemporalModel]:
        """Cleaned up as for every build, and then rewritten."""
        architecture = frontend(self.name)
        weights = fetch_weights("random:0", architecture)
        request = ExportRequest(
            weights=weights.path,
            height=size[0],
            width=size[1],
            options=dict(self.options),
            source=weights.source,
        )
        before = _on_graphs(architecture.export(request), default_pipeline())
        if isinstance(self.rewrite, ProgramPass):
            after, reports = apply_to_program(before, [self.rewrite])
            changed = any(report.applied.changed for report in reports)
        else:
            after = _on_graphs(before, [self.rewrite])
            changed = graph_macs(after) != graph_macs(before)
        if not changed:
            raise BadInputError(f"{self.rewrite.name} finds nothing to rewrite in {self.name}")
        return before, after


NETWORKS: Mapping[str, Network] = {
    "EDVR-M hoisted": Network("edvr-m", HoistFrames()),
    "EDVR-M hoisted, with sums": Network("edvr-m", HoistFrames(sums=True)),
    "MST-GAN hoisted": Network("mstgan", HoistFrames()),
    # Windows of 5 every 5 frames, its own, have no frame in common.
    "IconVSR of windows of 7 hoisted": Network("iconvsr", HoistFrames(), {"window": "7"}),
    "TecoGAN, transposed convolutions": Network("tecogan", ConvTransposeToSubPixel()),
    "ESPCN, transposed convolution": Network("espcn", ConvTransposeToSubPixel(), {"tail": "transposed"}),
}


def measure_graph(case: str, sdk_name: str, asked: Asked, folder: Path) -> Row:
    """One rewrite on one backend."""
    build, one = CASES[case]
    g = SmallGraph(*asked.size)
    before = g.model(build(g))
    # What the backend would do by itself is left to the graph after.
    others = [p for p in _legalizing(sdk_name) if not isinstance(p, type(one))]
    before, _ = apply(before, others)
    after, _ = apply(before, [one])
    feeds = {"x": np.random.default_rng(1).standard_normal((1, CHANNELS, *asked.size)).astype(np.float32)}
    gflop = [2e-9 * sum(c.macs for c in convolutions(model)) for model in (before, after)]
    with ExitStack() as stack:
        sessions = [
            _loaded(stack, model, sdk_name, asked.threads, folder / which, legal=True)
            for which, model in (("before", before), ("after", after))
        ]
        # By default, as the loop's variable would be the last one in every call.
        calls = [lambda s=session: [s.run(feeds)["out"]] for session in sessions]
        return _in_turns(case, sdk_name, gflop, calls, asked.rounds, 1)


def measure_network(case: str, sdk_name: str, asked: Asked, folder: Path) -> Row:
    """A network as it is and rewritten, over a clip."""
    models = NETWORKS[case].models(asked.size)
    frames = moving_texture(models[0].program.frame, asked.frames, 0)
    gflop = [1e-9 * frame_flops(model) for model in models]
    with ExitStack() as stack:
        runners = [
            Runner(
                model.program,
                {
                    name: Engine(_loaded(stack, graph, sdk_name, asked.threads, folder / f"{i}-{name}"))
                    for name, graph in model.graphs.items()
                },
            )
            for i, model in enumerate(models)
        ]
        calls = [lambda r=runner: list(r.run(frames, total=len(frames))) for runner in runners]
        return _in_turns(case, sdk_name, gflop, calls, asked.rounds, len(frames))


def _on_graphs(model: TemporalModel, passes: Sequence[Pass]) -> TemporalModel:
    return model.with_graphs({name: apply(graph, passes)[0] for name, graph in model.graphs.items()})


def _legalizing(sdk_name: str) -> Sequence[Pass]:
    return backend(sdk_name).legalize(target("cpu"), Precision.FP32)


def _loaded(
    stack: ExitStack, model: ir.Model, sdk_name: str, threads: int, folder: Path, legal: bool = False
) -> Session:
    """The graph as the backend builds it, loaded; its own passes are run unless it is `legal` already."""
    sdk, cpu = backend(sdk_name), target("cpu")
    model = model if legal else apply(model, _legalizing(sdk_name))[0]
    folder.mkdir(parents=True)
    with redirect_stdout(StringIO()):
        artifact = sdk.compile(model, cpu, BuildOptions(threads=threads), folder)
    session = sdk.load(artifact, folder)
    stack.callback(session.close)
    return session


def _in_turns(
    case: str,
    sdk_name: str,
    gflop: Sequence[float],
    calls: Sequence[Callable[[], Sequence[NDArray[np.generic]]]],
    rounds: int,
    frames: int,
) -> Row:
    """Before and after in turns.

    Raises:
        OutputsDifferError: their outputs differ by more than `TOLERANCE`.
    """
    before, after = (call() for call in calls)
    error = max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True))
    largest = max(1.0, *(float(np.abs(a).max()) for a in before))
    if not error <= TOLERANCE * largest:
        raise OutputsDifferError(f"{case} on {sdk_name}: outputs differ by {error:.3g}")

    def timed(call: Callable[[], object]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        return tuple(1000 * s / frames for s in (time.perf_counter() - wall, time.process_time() - cpu))  # type: ignore[return-value]

    laps = take_turns({str(i): (lambda c=c: timed(c)) for i, c in enumerate(calls)}, rounds=rounds)  # type: ignore[misc]
    old, new = laps.values()
    wall, cpu = (
        Times(
            (median(a[clock] for a in old), median(b[clock] for b in new)),
            tuple(a[clock] / b[clock] for a, b in zip(old, new, strict=True)),
        )
        for clock in (0, 1)
    )
    return Row(case, sdk_name, (gflop[0], gflop[1]), wall, cpu, error)


def show(rows: Sequence[Row]) -> None:
    """A table for people."""
    print_table(
        "rewrites",
        ("case", "backend", "GFLOP", "ms", "times as fast", "by processor time", "largest difference"),
        (
            (
                row.case,
                row.backend,
                f"{row.gflop[0]:.3g} -> {row.gflop[1]:.3g}",
                f"{row.wall.ms[0]:.3g} -> {row.wall.ms[1]:.3g}",
                *(
                    f"{median(t.ratios):.2f} ({min(t.ratios):.2f} to {max(t.ratios):.2f})"
                    for t in (row.wall, row.cpu)
                ),
                f"{row.error:.2g}",
            )
            for row in rows
        ),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="64x64", help="height x width of the inputs")
    parser.add_argument("--frames", type=int, default=6, help="of a network's clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=physical_cores(), help="of an engine")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeatable; all if left out")
    parser.add_argument(
        "--case", action="append", choices=[*CASES, *NETWORKS], help="repeatable; all if left out"
    )
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    asked = Asked(parse_size(given.size), given.frames, given.rounds, given.threads)
    names = given.backend or [n for n in BACKENDS if backend(n).missing() is None]
    cases = given.case or [*CASES, *NETWORKS]
    rows = []
    try:
        with Bars() as bars, tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            for i, (sdk_name, case) in enumerate(product(names, cases)):
                # Untuned TVM code takes minutes a frame for a whole network.
                if case in CASES or sdk_name != "tvm":
                    bars.stage(f"{sdk_name}: {case}")
                    measure = measure_graph if case in CASES else measure_network
                    rows.append(measure(case, sdk_name, asked, Path(folder) / str(i)))
        show(rows)
        result = {
            "machine": machine(names) | {"threads": asked.threads},
            "size": asked.size,
            "frames": asked.frames,
            "rows": [asdict(row) for row in rows],
        }
        path = write("rewrites", asked.size, result, given.output)
    except SuperlowerError as error:
        return fail(error)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    start_with_threads(physical_cores())
    raise SystemExit(main())
