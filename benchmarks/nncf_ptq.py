"""NNCF's post-training quantization beside ours: loss over a clip, and time. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import fail, machine, start_with_threads, write
from numpy.typing import NDArray

from superlower.backends.openvino_deform import shared_core
from superlower.bundle.bundle import VARIANT_FOLDER, Bundle
from superlower.cli.common import Bars, console, print_table
from superlower.driver.calibrate import CALIBRATION_FRAMES, calibration_footage
from superlower.driver.footage import read_footage
from superlower.driver.speed import physical_cores, take_turns
from superlower.errors import BadInputError, SuperlowerError
from superlower.metrics.loss import Judge
from superlower.program.interpret import interpret
from superlower.targets.base import Precision

Array = NDArray[np.generic]
Call = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
OURS, PLAIN, PLACED = "ours", "NNCF, everything", "NNCF, our placement"


def compiled(core: Any, model: Any) -> Any:
    """An engine of an OpenVINO model, in fp32 where nothing else is stated."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": physical_cores(),
    }
    return core.compile_model(model, "CPU", settings)


def caller(engines: Mapping[str, Any], record: dict[str, list[list[Array]]] | None = None) -> Call:
    """Runs graphs on their engines; keeps what each is fed in `record`."""
    requests = {name: engine.create_infer_request() for name, engine in engines.items()}

    def call(graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        given = [feeds[port.any_name] for port in engines[graph].inputs]
        if record is not None:
            record.setdefault(graph, []).append(given)
        results = requests[graph].infer(dict(enumerate(given)), share_outputs=False)
        return {name: results[i] for i, port in enumerate(engines[graph].outputs) for name in port.names}

    return call


def quantized(model: Any, feeds: Sequence[Sequence[Array]], ignored: Sequence[str]) -> Any:
    """NNCF's quantization of a model, calibrated on recorded calls."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    data = nncf.Dataset([dict(enumerate(given)) for given in feeds])
    here = {op.get_friendly_name() for op in model.get_ops()}
    left = [name for name in ignored if name in here]
    return nncf.quantize(
        model,
        data,
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(names=left) if left else None,
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
    )


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="with openvino-cpu-fp32 and openvino-cpu-int8")
    parser.add_argument("truth", type=Path, help="folder of ground-truth PNG frames to score on")
    parser.add_argument("--calibrate", type=Path, required=True, help="the clip that int8 was calibrated on")
    parser.add_argument("--frames", type=int, default=CALIBRATION_FRAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    start_with_threads(physical_cores())
    try:
        return _measure(given)
    except SuperlowerError as error:
        return fail(error)


def _measure(given: argparse.Namespace) -> int:
    bundle = Bundle.open(given.bundle)
    variants = {v.precision: v for v in bundle.manifest.variants if v.backend == "openvino"}
    if not {Precision.FP32, Precision.INT8} <= variants.keys():
        raise BadInputError(f"{given.bundle} has no fp32 and int8 engines of openvino: compile both into it")
    record = variants[Precision.INT8].quantization
    assert record is not None
    core, program = shared_core(), bundle.program

    def models(precision: Precision) -> dict[str, Any]:
        place = bundle.folder / VARIANT_FOLDER / variants[precision].name
        return {
            graph: core.read_model(place / graph / artifact.files["engine"])
            for graph, artifact in variants[precision].engines.items()
        }

    with Bars() as bars:
        bars.stage("recording calls")
        exact = {graph: compiled(core, model) for graph, model in models(Precision.FP32).items()}
        calls: dict[str, list[list[Array]]] = {}
        interpret(program, calibration_footage(given.calibrate, program.frame).frames, caller(exact, calls))
        kept: dict[str, list[str]] = {}
        for line in record.kept:
            graph, _, node = line.partition(": ")
            kept.setdefault(graph, []).append(node)
        engines = {"fp32": exact, OURS: {g: compiled(core, m) for g, m in models(Precision.INT8).items()}}
        seconds = {}
        for name, ignored in ((PLAIN, {}), (PLACED, kept)):
            bars.stage(f"quantizing: {name}")
            began = time.perf_counter()
            made = {
                graph: quantized(model, calls[graph], ignored.get(graph, ()))
                for graph, model in models(Precision.FP32).items()
            }
            engines[name] = {graph: compiled(core, model) for graph, model in made.items()}
            seconds[name] = time.perf_counter() - began
        bars.stage("scoring", len(engines))
        footage = read_footage(given.truth, program.frame, given.frames)
        outputs = {}
        for name, own in engines.items():
            outputs[name] = interpret(program, footage.frames, caller(own))
            bars.advance(name)
        judge = Judge(outputs["fp32"], program.frame, footage.truth)
        clip = footage.frames[:3]

        def lap(own: Mapping[str, Any]) -> float:
            call, began = caller(own), time.perf_counter()
            interpret(program, clip, call)
            return 1000 * (time.perf_counter() - began) / len(clip)

        turns = {name: (lambda own=own: lap(own)) for name, own in engines.items()}  # type: ignore[misc]
        laps = take_turns(turns, rounds=given.rounds, progress=bars)
    rows = {}
    for name in engines:
        loss, curve = judge.losses(outputs[name])
        ratios = [a / b for a, b in zip(laps["fp32"], laps[name], strict=True)]
        rows[name] = {
            "db": loss.db,
            "curve_db": [round(db, 5) for db in curve],
            "psnr_y": loss.after_db,
            "ms": median(laps[name]),
            "times_fp32": median(ratios),
            "quantize_s": seconds.get(name),
        }
    print_table(
        f"{given.truth.name}, {given.frames} frames, calibrated on {given.calibrate.name}",
        ("engines", "loss dB", "worst frame", "ms a frame", "times fp32"),
        (
            (n, f"{r['db']:.4f}", f"{max(r['curve_db']):.4f}", f"{r['ms']:.0f}", f"{r['times_fp32']:.2f}")
            for n, r in rows.items()
        ),
    )
    size = program.frame.height, program.frame.width
    result = {"benchmark": "nncf", "machine": machine(["openvino"]), "clip": given.truth.name, "rows": rows}
    path = write(f"nncf-{given.truth.name}", size, result, given.output)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
