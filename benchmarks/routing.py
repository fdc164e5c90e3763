"""What routing costs and saves: windows by batch, and a routed frame by the share of patches that run.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir
from common import fail, machine, start_with_threads, write
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.progress import Progress
from superlower.driver.speed import take_turns
from superlower.errors import SuperlowerError
from superlower.program.model import CHOICE, Equation, Frame, Program, Route, Stream, otherwise
from superlower.program.routes import Routing
from superlower.runtime.routed import Router
from superlower.targets.catalog import target

BACKENDS = ("onnxruntime", "openvino")
CHANNELS, BLOCKS = 64, 5
BATCHES = (1, 4, 8)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One contender.

    Attributes:
        backend: that built the engines.
        case: what ran.
        pixels: that its graphs computed, of the frame's.
        ms: median milliseconds of processor time.
        ratios: its time by that of the graph on the whole frame, round by round.
    """

    backend: str
    case: str
    pixels: float
    ms: float
    ratios: tuple[float, ...]


def trunk(batch: int, height: int, width: int) -> ir.Model:
    """Residual blocks: x to y, float32 [batch, 64, height, width]; pixels see 10 others to each side."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for i in range(BLOCKS):
        for k in "ab":
            array = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 40
            weights.append(numpy_helper.from_array(array.astype(np.float32), f"w{i}{k}"))
        nodes += [
            helper.make_node("Conv", [x, f"w{i}a"], [f"a{i}"], f"a{i}", **same),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"], f"r{i}"),
            helper.make_node("Conv", [f"r{i}", f"w{i}b"], [f"b{i}"], f"b{i}", **same),
            helper.make_node("Add", [x, f"b{i}"], [x := "y" if i == BLOCKS - 1 else f"x{i}"], f"x{i}"),
        ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, CHANNELS, height, width]) for n in "xy"
    ]
    graph = helper.make_graph(nodes, "trunk", values[:1], values[1:], weights)
    return ir.from_proto(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)]))


def routing(size: tuple[int, int], patch: tuple[int, int], halo: int, batch: int, whole: bool) -> Routing:
    """A route of the trunk over a frame of 64 channels."""
    plane = Stream(shape=(1, CHANNELS, "H", "W"))
    program = Program(
        name="routing",
        frame=Frame(height=size[0], width=size[1], channels=CHANNELS, scale=1),
        streams={
            "frame": plane,
            "output": plane,
            "run": Stream(shape=(1, 1, f"H/{patch[0]}", f"W/{patch[1]}"), dtype="int32"),
        },
        equations=(),
    )
    route = Route(
        choice="run[t]", graphs=("window",), patch=patch, halo=halo, batch=batch, otherwise={"y": "frame[t]"}
    )
    equation = Equation(
        name="trunk",
        graph="whole" if whole else "",
        inputs={"x": "frame[t]"},
        outputs={"y": "output"},
        route=route,
    )
    return Routing(program, equation)


def measure(
    sdk_name: str,
    size: tuple[int, int],
    patch: tuple[int, int],
    halo: int,
    rounds: int,
    folder: Path,
    progress: Progress,
) -> list[Row]:
    """Time the whole frame, all patches by batches of windows, and shares of the patches, in turns."""
    sdk, cpu = backend(sdk_name), target("cpu")
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, *size)).astype(np.float32)
    with ExitStack() as stack:

        def load(name: str, batch: int, height: int, width: int) -> Session:
            place = folder / name
            place.mkdir(parents=True)
            options = BuildOptions(threads=1)
            session = sdk.load(sdk.compile(trunk(batch, height, width), cpu, options, place), place)
            stack.callback(session.close)
            return session

        whole = load("whole", 1, *size)
        window = routing(size, patch, halo, 1, False).window
        windows = {batch: load(f"window-{batch}", batch, *window) for batch in BATCHES}
        order = np.random.default_rng(2).permutation(size[0] * size[1] // (patch[0] * patch[1]))
        pixels: dict[str, float] = {"whole frame": 1.0}
        runs: dict[str, Callable[[], float]] = {"whole frame": _cpu(lambda: whole.run({"x": x}))}

        def add(case: str, batch: int, share: float, by_whole: bool) -> None:
            route = routing(size, patch, halo, batch, by_whole)
            choice = np.zeros((1, 1, route.rows, route.columns), np.int32)
            choice.ravel()[order[: round(share * order.size)]] = 1
            router = Router(route, {"window": windows[batch], "whole": whole}, 1)
            values = {"x": x, CHOICE: choice, otherwise("y"): x}
            calls = route.calls(choice)
            area = batch * route.window[0] * route.window[1] / (size[0] * size[1])
            pixels[case] = calls["window"] * area + calls["whole"]
            runs[case] = _cpu(lambda: router.start(values).result())

        for batch in BATCHES:
            add(f"all patches, {batch} a call", batch, 1.0, False)
        for share in SHARES:
            add(f"{share:.0%} of the patches", 1, share, True)
        laps = take_turns(runs, rounds=rounds, progress=progress)
    first = laps["whole frame"]
    return [
        Row(
            sdk_name,
            case,
            pixels[case],
            1000 * median(times),
            tuple(own / base for own, base in zip(times, first, strict=True)),
        )
        for case, times in laps.items()
    ]


def _cpu(call: Callable[[], object]) -> Callable[[], float]:
    """Processor seconds of all threads of a call: what other processes do doesn't count."""

    def timed() -> float:
        started = time.process_time()
        call()
        return time.process_time() - started

    return timed


def show(rows: Sequence[Row], title: str) -> None:
    """The table."""
    print_table(
        title,
        ("backend", "case", "pixels", "ms", "of the whole frame's time"),
        (
            (
                row.backend,
                row.case,
                f"{row.pixels:.2f}",
                f"{row.ms:.0f}",
                f"{median(row.ratios):.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})",
            )
            for row in rows
        ),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="180x320", help="height x width of the frame")
    parser.add_argument("--patch", default="30x40", help="height x width of a patch")
    parser.add_argument("--halo", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeatable; all if left out")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    asked = arguments()
    size, patch = parse_size(asked.size), parse_size(asked.patch)
    names = asked.backend or [n for n in BACKENDS if backend(n).missing() is None]
    rows = []
    try:
        with Bars() as bars, tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            for name in names:
                rows += measure(name, size, patch, asked.halo, asked.rounds, Path(folder) / name, bars)
        title = f"{BLOCKS} blocks at {asked.size}, patches of {asked.patch}, halo {asked.halo}"
        show(rows, title)
        result = {
            "machine": {**machine(names), "threads": 1},
            "patch": patch,
            "halo": asked.halo,
            "rows": [asdict(row) for row in rows],
        }
        path = write("routing", size, result, asked.output)
    except SuperlowerError as error:
        return fail(error)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    start_with_threads(1)
    raise SystemExit(main())
