"""The exact rewrites, each against the graph it rewrites, on every backend in turns; and windows hoisted.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir
from common import fail, machine, start_with_threads, write

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.golden import GoldenClip, moving_texture
from superlower.check.reference import reference_outputs
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.export import frontend
from superlower.driver.flops import convolutions
from superlower.driver.progress import Progress
from superlower.driver.rewriting import frame_flops
from superlower.driver.speed import contenders, physical_cores, stopwatch, take_turns
from superlower.errors import SuperlowerError
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.ir import IR_VERSION, OPSET, infer_shapes
from superlower.passes.base import Pass
from superlower.passes.conv_transpose_to_sub_pixel import ConvTransposeToSubPixel
from superlower.passes.fold_batch_norm import ARITHMETIC, FoldBatchNorm
from superlower.passes.pipelines import apply
from superlower.passes.resize_conv_to_sub_pixel import ResizeConvToSubPixel
from superlower.rewrites.hoist_frames import HoistFrames
from superlower.rewrites.pipeline import apply as apply_to_program
from superlower.targets.base import Precision
from superlower.targets.catalog import target

BACKENDS = ("onnxruntime", "openvino", "tvm")
CHANNELS = 64
FRAMES = 6


@dataclass(frozen=True)
class Row:
    """One rewrite on one backend.

    Attributes:
        case: which.
        backend: where.
        gflop: of convolutions, before and after; a frame's for windows.
        ms: median milliseconds, before and after.
        ratio: how many times as fast, median over the rounds.
        ratios: of each round.
        error: largest difference of outputs.
    """

    case: str
    backend: str
    gflop: tuple[float, float]
    ms: tuple[float, float]
    ratio: float
    ratios: tuple[float, ...]
    error: float


class Graph:
    """A graph under construction, over x [1, 64, height, width]."""

    def __init__(self, height: int, width: int) -> None:
        shape = ir.Shape([1, CHANNELS, height, width])
        self.x = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.rng = np.random.default_rng(0)

    def add(self, op: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        """A node."""
        node = ir.node(op, inputs, attributes, name=f"{op}_{len(self.nodes)}")
        node.outputs[0].name = f"{node.name}_out"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: object) -> ir.Value:
        """An fp32 initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(ir.Value(name=name, const_value=ir.tensor(np.float32(array), name=name)))
        return self.constants[-1]

    def weight(self, *shape: int) -> ir.Value:
        """Seeded weights."""
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(CHANNELS * 9))

    def norm(self, x: ir.Value) -> ir.Value:
        """A batch norm."""
        arrays = [self.rng.uniform(0.5, 2, CHANNELS) for _ in range(4)]
        return self.add("BatchNormalization", x, *map(self.constant, arrays))

    def model(self, output: ir.Value) -> ir.Model:
        """The model, typed."""
        output.name, output.type = "out", ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.x],
            [output],
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": OPSET},
            name="case",
        )
        return infer_shapes(ir.Model(graph, ir_version=IR_VERSION))


def _conv_norm(g: Graph) -> ir.Value:
    convolved = g.add("Conv", g.x, g.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)
    return g.add("Relu", g.norm(convolved))


def _norm_alone(g: Graph) -> ir.Value:
    return g.add("Conv", g.add("Relu", g.norm(g.add("Abs", g.x))), g.weight(8, CHANNELS, 1, 1))


def _transposed(kernel: int, further: int) -> Callable[[Graph], ir.Value]:
    def build(g: Graph) -> ir.Value:
        weight = g.weight(CHANNELS, CHANNELS, kernel, kernel)
        more = {"pads": [1] * 4, "output_padding": [further] * 2}
        return g.add("ConvTranspose", g.x, weight, strides=[2, 2], **more)

    return build


def _resized(g: Graph) -> ir.Value:
    large = g.add("Resize", g.x, None, g.constant([1, 1, 2, 2]), mode="nearest")
    return g.add("Conv", large, g.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)


CASES: Mapping[str, tuple[Callable[[Graph], ir.Value], Pass]] = {
    "batch norm after a convolution": (_conv_norm, FoldBatchNorm()),
    "batch norm alone, as a 1x1 convolution": (_norm_alone, FoldBatchNorm()),
    "batch norm alone, as Mul and Add": (_norm_alone, FoldBatchNorm(alone=ARITHMETIC)),
    "transposed convolution 3x3, stride 2": (_transposed(3, 1), ConvTransposeToSubPixel()),
    "transposed convolution 4x4, stride 2": (_transposed(4, 0), ConvTransposeToSubPixel()),
    "nearest x2 and a 3x3 convolution": (_resized, ResizeConvToSubPixel()),
}


def measure_graph(name: str, sdk_name: str, size: tuple[int, int], rounds: int, folder: Path) -> Row:
    """One rewrite on one backend."""
    build, one = CASES[name]
    g = Graph(*size)
    before = g.model(build(g))
    after, _ = apply(before, [one])
    sdk, cpu = backend(sdk_name), target("cpu")
    options = BuildOptions(threads=physical_cores())
    feeds = {"x": np.random.default_rng(1).standard_normal((1, CHANNELS, *size)).astype(np.float32)}
    with ExitStack() as stack:
        sessions = {}
        for which, model in (("before", before), ("after", after)):
            legal, _ = apply(model, sdk.legalize(cpu, Precision.FP32))
            work = folder / which
            work.mkdir()
            with redirect_stdout(StringIO()):
                artifact = sdk.compile(legal, cpu, options, work)
            sessions[which] = sdk.load(artifact, work)
            stack.callback(sessions[which].close)
        outputs = [session.run(feeds)["out"] for session in sessions.values()]

        def timed(which: str) -> float:
            began = time.perf_counter()
            sessions[which].run(feeds)
            return 1000 * (time.perf_counter() - began)

        laps = take_turns({w: (lambda w=w: timed(w)) for w in sessions}, rounds=rounds)  # type: ignore[misc]
    gflop = [2e-9 * sum(c.macs for c in convolutions(model)) for model in (before, after)]
    error = float(np.abs(outputs[0] - outputs[1]).max())
    return _row(name, sdk_name, gflop, laps["before"], laps["after"], error)


def measure_window(
    name: str, sums: bool, sdk_name: str, size: tuple[int, int], rounds: int, folder: Path, progress: Progress
) -> Row:
    """A window model with seeded weights, as it is and hoisted (with convolutions' terms), over a clip."""
    architecture = frontend(name)
    weights = fetch_weights("random:0", architecture)
    request = ExportRequest(
        weights=weights.path, height=size[0], width=size[1], options={}, source=weights.source
    )
    before = architecture.export(request)
    frames = moving_texture(before.program.frame, FRAMES, 0)
    after, _ = apply_to_program(before, [HoistFrames(sums=sums)])
    made = "ONNX Runtime on the graphs as given"
    golden = GoldenClip(tuple(frames), tuple(reference_outputs(before, frames)), "made up", made)
    jobs = plan_jobs([target("cpu")], [Precision.FP32], [sdk_name])
    options = BuildOptions(threads=physical_cores())
    with ExitStack() as stack:
        ready = {}
        errors = []
        for which, model in (("before", before), ("after", after)):
            bundle = compile_bundle(
                model, jobs, golden, folder / which, options=options, progress=progress
            ).bundle
            (variant,) = bundle.manifest.variants
            errors.append(max(variant.measured.max_abs) if variant.measured else 0.0)
            (ready[which],) = stack.enter_context(contenders(bundle, [variant], frames)).values()
        laps = take_turns({w: stopwatch(c) for w, c in ready.items()}, rounds=rounds, progress=progress)
    seconds = {which: [1000 * lap.seconds / FRAMES for lap in found] for which, found in laps.items()}
    gflop = [1e-9 * frame_flops(model) for model in (before, after)]
    return _row(
        f"{name} hoisted{', with sums' if sums else ''}",
        sdk_name,
        gflop,
        seconds["before"],
        seconds["after"],
        max(errors),
    )


def _row(
    case: str, where: str, gflop: Sequence[float], old: Sequence[float], new: Sequence[float], error: float
) -> Row:
    ratios = tuple(a / b for a, b in zip(old, new, strict=True))
    return Row(case, where, (gflop[0], gflop[1]), (median(old), median(new)), median(ratios), ratios, error)


def show(rows: Sequence[Row]) -> None:
    """A table for people."""
    print_table(
        "rewrites",
        ("case", "backend", "GFLOP", "ms", "times as fast", "largest difference"),
        (
            (
                row.case,
                row.backend,
                f"{row.gflop[0]:.3g} -> {row.gflop[1]:.3g}",
                f"{row.ms[0]:.3g} -> {row.ms[1]:.3g}",
                f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})",
                f"{row.error:.2g}",
            )
            for row in rows
        ),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="90x160", help="height x width of the inputs")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeatable; all if left out")
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable; all if left out")
    parser.add_argument("--model", action="append", help="a window model to hoist; repeatable; edvr-m")
    parser.add_argument("--no-models", action="store_true", help="graphs' rewrites only")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    asked = arguments()
    size = parse_size(asked.size)
    names = asked.backend or [n for n in BACKENDS if backend(n).missing() is None]
    models = [] if asked.no_models else asked.model or ["edvr-m"]
    rows = []
    try:
        with Bars() as bars, tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            for sdk_name in names:
                for i, case in enumerate(asked.case or CASES):
                    bars.stage(f"{sdk_name}: {case}")
                    place = Path(folder) / f"{sdk_name}-{i}"
                    place.mkdir()
                    rows.append(measure_graph(case, sdk_name, size, asked.rounds, place))
                # Untuned TVM code takes minutes a frame for a whole model.
                for model, sums in product(models if sdk_name != "tvm" else (), (False, True)):
                    place = Path(folder) / f"{sdk_name}-{model}-{sums}"
                    place.mkdir()
                    turns = max(asked.rounds // 4, 2)
                    rows.append(measure_window(model, sums, sdk_name, size, turns, place, bars))
        show(rows)
        path = write(
            "rewrites", size, {"machine": machine(names), "rows": [asdict(r) for r in rows]}, asked.output
        )
    except SuperlowerError as error:
        return fail(error)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    start_with_threads(physical_cores())
    raise SystemExit(main())
