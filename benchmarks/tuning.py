"""What schedules do for TVM on a CPU: naive loops, superlower's defaults and tuned ones beside ONNX Runtime.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import onnx_ir as ir
from common import fail, machine, start_with_threads, write

from superlower.backends.base import Artifact, BuildOptions, Feeds, Session
from superlower.backends.onnxruntime import OnnxRuntime
from superlower.backends.tvm.backend import Tvm, tvm_target
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.building import Job, legal_graph
from superlower.driver.speed import physical_cores, take_turns
from superlower.driver.tune import Limits, tune
from superlower.errors import SuperlowerError
from superlower.frontends.base import ExportRequest
from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.ir import save
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision
from superlower.targets.catalog import target

TARGET = "cpu"


@dataclass(frozen=True)
class Row:
    """A graph's times in ms by round, by contender; and how many tasks its tuned build found."""

    graph: str
    rounds_ms: Mapping[str, Sequence[float]]
    tasks: int
    measured: int
    tuned: int

    def ratio(self, one: str, other: str) -> float:
        """How many times as long one takes as another, as the median of rounds."""
        pairs = zip(self.rounds_ms[one], self.rounds_ms[other], strict=True)
        return median(a / b for a, b in pairs)


def exported(size: tuple[int, int], blocks: int) -> TemporalModel:
    """BasicVSR with seeded weights: times don't depend on their values."""
    height, width = size
    request = ExportRequest(
        weights=Path("random:0"),
        height=height,
        width=width,
        options={"blocks": str(blocks)},
        source="random:0",
    )
    return BasicVsr().export(request)


def only(model: TemporalModel, names: Sequence[str]) -> TemporalModel:
    """The model with some of its graphs, which is no program to run, but has their tasks."""
    return model.with_graphs({name: model.graphs[name] for name in names})


def naive(graph: ir.Model, folder: Path, threads: int) -> Session:
    """An engine of the loops as TVM writes them, without any schedule."""
    from superlower.backends.tvm import backend, engine

    folder.mkdir(parents=True, exist_ok=True)
    save(graph, folder / "graph.onnx")
    # This process has TVM's runtime library by now, which has no compiler.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        child.submit(_build_naive, folder, threads).result()
    (folder / engine.IO).write_bytes(msgspec.json.encode(backend.io_of(graph)))
    return engine.open_session(folder, engine.LIBRARY, engine.IO, cuda=False, threads=threads, runners=1)


def _build_naive(folder: Path, threads: int) -> None:
    os.environ["TVM_USE_RUNTIME_LIB"] = "0"
    from superlower.backends.tvm import build, engine
    from superlower.backends.tvm.processors import Cpu

    where = Cpu(tvm_target(target(TARGET), BuildOptions(threads=threads)))
    module = build.fused(ir.load(folder / "graph.onnx"), where)
    where.compiled(module).export_library(str(folder / engine.LIBRARY))


def search(
    model: TemporalModel,
    database: Path,
    limits: Limits,
    threads: int,
    *,
    seed: int = 0,
    transfer: bool = True,
) -> None:
    """Tune it in fp32 for this machine's processor."""
    where, fp32 = target(TARGET), Precision.FP32
    with Bars() as bars:
        tune(
            model,
            where,
            fp32,
            database,
            limits=limits,
            threads=threads,
            seed=seed,
            transfer=transfer,
            progress=bars,
        )


def gain(args: argparse.Namespace) -> None:
    """Time every graph as built in each way."""
    threads = physical_cores()
    size = parse_size(args.size)
    model = exported(size, args.blocks)
    if args.graph:
        model = only(model, args.graph)
    database = args.db
    if args.minutes:
        search(model, database, Limits(minutes=args.minutes), threads)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for name, graph in model.graphs.items():
            rows.append(_gain(name, graph, Path(place) / name, database, threads, args))
            row = rows[-1]
            console.print(
                f"{name}: " + ", ".join(f"{k} {median(v):.1f} ms" for k, v in row.rounds_ms.items()),
                soft_wrap=True,
            )
    names = list(rows[0].rounds_ms)
    print_table(
        f"BasicVSR ({args.blocks} blocks) at {args.size}, {threads} threads",
        ("graph", *names, "tuned by default", "default by ONNX Runtime", "tuned by ONNX Runtime", "hit"),
        (
            (
                row.graph,
                *(f"{median(row.rounds_ms[name]):.1f}" for name in names),
                f"{row.ratio('default', 'tuned'):.2f}",
                f"{row.ratio('default', 'onnxruntime'):.2f}",
                f"{row.ratio('tuned', 'onnxruntime'):.2f}",
                f"{row.measured} of {row.tasks}",
            )
            for row in rows
        ),
    )
    found = {
        "machine": machine(["tvm", "onnxruntime"]),
        "size": size,
        "blocks": args.blocks,
        "minutes": args.minutes,
        "rows": [asdict(row) for row in rows],
    }
    console.print(f"written: {write('tuning', size, found, args.output)}", soft_wrap=True)


def _gain(
    name: str, graph: ir.Model, folder: Path, database: Path, threads: int, args: argparse.Namespace
) -> Row:
    clean, _ = apply(graph, default_pipeline())
    sessions: dict[str, Session] = {}
    facts: dict[str, str | int | float] = {}
    for label, sdk, settings in (
        ("onnxruntime", OnnxRuntime(), {}),
        ("default", Tvm(), {"tuning": "off"}),
        ("tuned", Tvm(), {"tuning": str(database)}),
    ):
        where = folder / label
        where.mkdir(parents=True)
        legal = legal_graph(Job(sdk, target(TARGET), Precision.FP32), clean).model
        options = BuildOptions(threads=threads, settings=settings)
        artifact: Artifact = sdk.compile(legal, target(TARGET), options, where)
        sessions[label] = sdk.load(artifact, where)
        facts = artifact.facts
        if label == "tuned" and args.naive:
            sessions["naive"] = naive(legal, folder / "naive", threads)
    feeds = _feeds(clean)

    def timed(session: Session) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            session.run(feeds)
            return 1000 * (time.perf_counter() - started)

        return run

    rounds = take_turns({label: timed(one) for label, one in sessions.items()}, rounds=args.rounds)
    for session in sessions.values():
        session.close()
    counts = [int(facts.get(key, 0)) for key in ("tasks", "tasks_measured", "tasks_tuned")]
    return Row(name, rounds, *counts)


def _feeds(graph: ir.Model) -> Feeds:
    rng = np.random.default_rng(0)
    shapes = {value.name: tuple(map(int, value.shape or ())) for value in graph.graph.inputs}
    return {str(name): rng.random(shape, dtype=np.float32) / 8 for name, shape in shapes.items()}


def main() -> int:
    """Tune if asked to, and time."""
    start_with_threads(physical_cores())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--graph", action="append", help="only this one; repeatable")
    parser.add_argument("--minutes", type=float, default=0.0, help="of tuning first; 0 for none")
    parser.add_argument("--db", type=Path, required=True, help="folder of the tuning database")
    parser.add_argument("--naive", action="store_true", help="also time loops without a schedule")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    return run(gain, args)


def run(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Do it with as many threads of TVM's as there are cores; returns the exit code."""
    os.environ.setdefault("TVM_NUM_THREADS", str(physical_cores()))
    try:
        work(args)
    except SuperlowerError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
