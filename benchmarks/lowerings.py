"""Every form of warps and deformable convolutions on every backend: right against float64, and how fast.

Writes what `select-lowering` chooses from. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir
from common import fail, machine, start_with_threads

from superlower.backends import lowerings
from superlower.backends.base import Backend, BuildOptions, Session
from superlower.backends.lowerings import Finding, Lowerings, Order, Trial, order_for, order_of, title
from superlower.backends.process import building_here
from superlower.backends.registry import backend
from superlower.backends.tables import architecture
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.progress import Progress
from superlower.driver.speed import physical_cores
from superlower.errors import SuperlowerError
from superlower.ir import clone, infer_shapes
from superlower.passes.forms import FORMS, NATIVE, Choice, lower_each
from superlower.passes.lower_deform_conv import LowerDeformConv
from superlower.probes.case import Case, Tolerance, widen
from superlower.probes.cases._build import FP32, OPSET, Floats, drawn, probe, uniform, weights
from superlower.probes.cases._sampling import normalized, pixels, sample
from superlower.probes.cases.deform_conv import deform_conv
from superlower.probes.key import key_of
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

PAGE = Path(lowerings.__file__).with_name("lowerings.json")
CHANNELS = 64
BACKENDS = ("onnxruntime", "openvino", "tvm", "tensorrt-rtx")
BUILT_FOR = "rtx3090"
# Forms lead to others: without align_corners before with it, zeros before border.
SAMPLED = (
    *(("bilinear", padding, aligned) for padding in ("zeros", "border") for aligned in (0, 1)),
    ("bilinear", "reflection", 1),
    ("nearest", "zeros", 1),
)
DEFORMED = ((1, True), (1, False), (16, True), (16, False))
"""Offset groups, and whether there is a mask: 16 and masks are BasicVSR++'s, 8 and masks EDVR's."""
FLOW = 2.0
"""Standard deviation of flows and offsets, in pixels: as of ordinary video."""


@dataclass(frozen=True)
class Bench:
    """One backend for one target.

    Attributes:
        runs: whether engines run here; else they are only built.
        threads: of its engines.
        clock: seconds that pass, or that this process computes.
    """

    backend: Backend
    target: Target
    runs: bool
    threads: int
    clock: Callable[[], float]


def warp(mode: str, padding: str, aligned: int, size: tuple[int, int]) -> Case:
    """A warp by seeded flow; some positions lie outside the image."""
    sizes = size

    def grid(rng: np.random.Generator) -> Floats:
        rows, columns = np.mgrid[0 : sizes[0], 0 : sizes[1]]
        places = np.stack([columns, rows], axis=-1)[None] + FLOW * rng.standard_normal((1, *sizes, 2))
        # Off the halves, where the last bit decides between two pixels.
        places = np.round(places) + rng.uniform(-0.25, 0.25, places.shape) if mode == "nearest" else places
        return normalized(places, sizes, bool(aligned))

    def reference(x: Floats, given: Floats) -> Floats:
        taps = 1 if mode == "nearest" else 2
        return sample(x, pixels(given, sizes, bool(aligned)), taps, padding, bool(aligned))

    # 8 roundings of a position of the image's size, along 2 axes of an image in [-1, 1]; 9 of the sample.
    position = 8 * FP32.roundoff * (max(size) + 8 * FLOW)
    limit = 0.0 if mode == "nearest" else 2 * 2 * position + 9 * FP32.roundoff
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    inputs = [uniform(FP32, 1, CHANNELS, *size), drawn(FP32, (1, *size, 2), grid)]
    name = f"{mode}-{padding}-{aligned}"
    tolerance = Tolerance(limit, "roundings of positions and samples")
    return probe("GridSample", name, OPSET, FP32, inputs, reference, tolerance, attributes=attributes)


def deformable(groups: int, masked: bool, size: tuple[int, int]) -> Case:
    """A 3x3 deformable convolution from 64 channels to 64."""
    offsets = (1, 2 * 9 * groups, *size)
    weight = weights(FP32, CHANNELS, CHANNELS, 3, 3, low=-1 / 24, high=1 / 24)
    inputs = [
        uniform(FP32, 1, CHANNELS, *size),
        weight,
        drawn(FP32, offsets, lambda rng: FLOW * rng.standard_normal(offsets)),
        weights(FP32, CHANNELS),
        *([uniform(FP32, 1, 9 * groups, *size, low=0.0)] if masked else []),
    ]

    def reference(x: Floats, w: Floats, offset: Floats, b: Floats, mask: Floats | None = None) -> Floats:
        return deform_conv(x, w, offset, b, mask, (1, 1), (1, 1), (1, 1, 1, 1), 1)

    # Positions as in `warp`; errors of the terms of a sum are independent, and grow with its root.
    position = 8 * FP32.roundoff * (max(size) + 8 * FLOW)
    root = math.sqrt(float((weight.array.astype(np.float64) ** 2).sum(axis=(1, 2, 3)).max()))
    limit = 6 * root * (2 * 2 * position + 14 * FP32.roundoff) + 8 * FP32.roundoff
    limit = min(limit, LowerDeformConv.budget.relative)
    attributes = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "offset_group": groups}
    tolerance = Tolerance(limit, "6 deviations of the sum of its terms' errors, or the pass's budget")
    name = f"{groups}-{'mask' if masked else 'plain'}"
    return probe("DeformConv", name, OPSET, FP32, inputs, reference, tolerance, attributes=attributes)


def cases(size: tuple[int, int]) -> list[Case]:
    """What is measured at a size: samplers first, for deformable convolutions become samplers."""
    return [*(warp(*each, size) for each in SAMPLED), *(deformable(*each, size) for each in DEFORMED)]


def lowered(case: Case, form: str, bench: Bench, orders: Sequence[Order]) -> ir.Model | None:
    """The case's model in a form, samplers left in it in the form chosen for them; None if it has none."""
    model = clone(case.model())
    if form == NATIVE:
        return model
    (asked,) = (node for node in model.graph if node.op_type == case.op)
    where = architecture(bench.target)

    def choose(node: ir.Node) -> list[Choice]:
        if node is asked:
            return [Choice(form, "asked for")]
        order, why = order_for(key_of(node, OPSET), bench.backend.name, where, bench.target.kind, orders)
        return [Choice(each, why) for each in order.forms]

    return infer_shapes(model) if lower_each(model, choose).changed else None


def trials(case: Case, bench: Bench, orders: Sequence[Order], rounds: int, folder: Path) -> Iterator[Trial]:
    """Every form of a case: built; where the backend runs here, compared with float64 and timed in turns."""
    feeds = case.feeds(np.random.default_rng(0))
    given = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    refused: dict[str, str] = {}
    sessions: dict[str, Session] = {}
    errors: dict[str, float] = {}
    with ExitStack() as stack:
        expected = None
        for form in FORMS[case.op]:
            model = lowered(case, form, bench, orders)
            if model is None:
                continue
            refused[form] = ""
            work = folder / f"{bench.backend.name}-{form}"
            work.mkdir(parents=True, exist_ok=True)
            try:
                with redirect_stdout(StringIO()):
                    options = BuildOptions(threads=bench.threads)
                    artifact = bench.backend.compile(model, bench.target, options, work)
            except SuperlowerError as error:
                refused[form] = _reason(error)
                continue
            if not bench.runs:
                continue
            sessions[form] = bench.backend.load(artifact, work)
            stack.callback(sessions[form].close)
            if expected is None:
                expected = case.reference({name: widen(array) for name, array in feeds.items()})["out0"]
            errors[form] = float(np.abs(sessions[form].run(given)["out0"] - expected).max())
        times: dict[str, list[float]] = {form: [] for form in sessions}
        for _ in range(rounds):
            for form, session in sessions.items():
                began = bench.clock()
                session.run(given)
                times[form].append(1e3 * (bench.clock() - began))
    for form, reason in refused.items():
        if form not in times:
            yield Trial(form=form, refused=reason)
            continue
        both = zip(times[NATIVE], times[form], strict=True) if NATIVE in times else ()
        ratios = [native / own for native, own in both]
        yield Trial(
            form=form,
            error=_rounded(errors[form]),
            ms=_rounded(median(times[form])),
            ratio=_rounded(median(ratios)) if ratios else None,
        )


def _reason(error: SuperlowerError) -> str:
    """A refusal without what was asked, where its log is and what to do."""
    told = str(error).partition("; log:")[0].partition(": rewrite it")[0]
    return told.partition(": ")[2] or told


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def measure(
    benches: Sequence[Bench], sizes: Sequence[tuple[int, int]], rounds: int, progress: Progress
) -> tuple[list[Order], list[Finding]]:
    """All cases on all benches; what only builds here is built at the first size only."""
    findings: list[Finding] = []
    orders: list[Order] = []
    for bench in benches:
        used = sizes if bench.runs else sizes[:1]
        groups = list(zip(*(cases(size) for size in used), strict=True))
        progress.stage(bench.backend.name, len(groups) * len(used))
        for group in groups:
            own = []
            for case, size in zip(group, used, strict=True):
                with tempfile.TemporaryDirectory(prefix="superlower-") as folder:
                    found = tuple(trials(case, bench, orders, rounds, Path(folder)))
                own.append(
                    Finding(
                        backend=bench.backend.name,
                        target=architecture(bench.target),
                        key=str(case.key()),
                        size=(1, CHANNELS, *size),
                        tolerance=_rounded(case.tolerance.absolute),
                        trials=found,
                    )
                )
                progress.advance(case.name)
            findings += own
            order = order_of(own)
            orders += [order] if order is not None else []
    return orders, findings


def show(findings: Sequence[Finding]) -> None:
    """A table for people."""
    print_table(
        "forms of warps and deformable convolutions",
        ("backend", "setting", "size", "form", "ms", "ratio", "error", "held to"),
        (
            (
                finding.backend,
                title(finding.key),
                f"{finding.size[2]}x{finding.size[3]}",
                trial.form,
                "refused" if trial.refused else "built" if trial.ms is None else trial.ms,
                "" if trial.ratio is None else trial.ratio,
                "" if trial.error is None else trial.error,
                finding.tolerance,
            )
            for finding in findings
            for trial in finding.trials
        ),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["64x64", "144x176"], help="HEIGHTxWIDTH of the images")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5, help="timed (default: %(default)s)")
    busy = "one thread, timed by what it computes: for a machine that does other things meanwhile"
    parser.add_argument("--busy", action="store_true", help=busy)
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="default: superlower's own")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    threads = 1 if given.busy else physical_cores()
    start_with_threads(threads)
    try:
        sizes = [parse_size(text) for text in given.sizes]
        clock = time.process_time if given.busy else time.perf_counter
        about = {**machine(given.backends), "threads": threads, "clock": clock.__name__}
        benches = []
        for name in given.backends:
            sdk, here = backend(name), target("cpu")
            where = here if sdk.serves(here, Precision.FP32) is None else target(BUILT_FOR)
            if (reason := sdk.missing()) is not None:
                console.print(f"left out: {reason}", markup=False)
            else:
                benches.append(Bench(sdk, where, sdk.runnable(where) is None, threads, clock))
        with building_here(), Bars() as progress:
            orders, findings = measure(benches, sizes, given.rounds, progress)
    except SuperlowerError as error:
        return fail(error)
    show(findings)
    result = Lowerings(machine=about, orders=tuple(orders), findings=tuple(findings))
    lowerings.write(result, given.output)
    console.print(f"written: {given.output}; then: python docs/generate_lowerings.py", markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
