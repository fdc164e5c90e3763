"""What schedules do for TVM on a CPU: naive loops, superlower's defaults and tuned ones beside ONNX Runtime.

And what a task saves by starting from another size's schedules. See benchmarks/README.md.
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
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from common import fail, machine, start_with_threads, write

from superlower.backends.base import Artifact, BuildOptions, Feeds, Session
from superlower.backends.onnxruntime import OnnxRuntime
from superlower.backends.tvm.backend import Tvm, tvm_target
from superlower.backends.tvm.tuning.ranking import Record
from superlower.backends.tvm.tuning.search import trials_to
from superlower.backends.tvm.tuning.store import Store
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
NEAR = 0.95
"""Of the best speed: what transfer is told by."""
AGAIN_WITHIN, LONGER = 1.12, 3
"""Of the best time: schedules that are timed once more, and in how many times the rounds."""


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


def gain(args: argparse.Namespace) -> None:
    """Time every graph as built in each way."""
    threads = physical_cores()
    size = parse_size(args.size)
    model = exported(size, args.blocks)
    if args.graph:
        model = only(model, args.graph)
    database = args.db
    if args.minutes:
        with Bars() as bars:
            tune(
                model,
                target(TARGET),
                Precision.FP32,
                database,
                limits=Limits(minutes=args.minutes),
                threads=threads,
                progress=bars,
            )
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


def transfer(args: argparse.Namespace) -> None:
    """Tune a graph's tasks at one size, then at another, from there and cold; count the measurements.

    Then every schedule that either run at the other size came to is timed again, all of them in turns with
    the default one: single measurements of a run differ by more than the few percent in question. Those near
    the best are timed so a second time, in more rounds, which is what counts.
    """
    threads = physical_cores()
    here, there = args.sizes
    with tempfile.TemporaryDirectory() as place:
        warm, cold = Path(place) / "warm", Path(place) / "cold"
        for size, database, helped in ((here, warm, True), (there, cold, False), (there, warm, True)):
            model = only(exported(parse_size(size), args.blocks), [args.graph])
            console.print(f"{args.graph} at {size}, {'from what is known' if helped else 'cold'}")
            with Bars() as bars:
                tune(
                    model,
                    target(TARGET),
                    Precision.FP32,
                    database,
                    limits=Limits(trials=args.trials),
                    threads=threads,
                    transfer=helped,
                    progress=bars,
                )
        records = {"cold": Store(cold).read().records, "warm": Store(warm).read().records}
        names = {record.task: record.name for record in records["cold"]}
        tried = {task: {run: _tried(found, task) for run, found in records.items()} for task in names}
        searched = {task: runs for task, runs in tried.items() if all(runs.values())}
        clean, _ = apply(model.graphs[args.graph], default_pipeline())
        save(legal_graph(Job(Tvm(), target(TARGET), Precision.FP32), clean).model, Path(place) / "graph.onnx")
        console.print(f"timing the schedules of {len(searched)} tasks again, in turns")
        # This process has TVM's runtime library by now, which has no compiler.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            asked = {task: [*runs["cold"], *runs["warm"]] for task, runs in searched.items()}
            stood = child.submit(_beside_default, Path(place), asked, threads, args.rounds).result()
    rows = []
    for task, runs in searched.items():
        ratios = stood[task]
        best = min(1.0, *ratios.values())
        curves = {name: _curve([ratios.get(one, float("inf")) for one in run]) for name, run in runs.items()}
        reached = {name: trials_to(curve, best / NEAR) for name, curve in curves.items()}
        rows.append({"task": names[task], "best": best, "to_95": reached, "curves": curves})
    print_table(
        f"{args.graph} at {there} after {here}: measurements until search came to 95 % of the best known",
        ("task", "best by its default", "default within 95 %", "cold", "from the other size"),
        (
            (
                row["task"],
                f"{1 / row['best']:.2f}",
                "yes" if row["best"] >= NEAR else "no",
                *(
                    f"over {len(row['curves'][k])}" if (n := row["to_95"][k]) is None else n
                    for k in ("cold", "warm")
                ),
            )
            for row in rows
        ),
    )
    found = {
        "machine": machine(["tvm"]),
        "sizes": args.sizes,
        "trials": args.trials,
        "rounds": args.rounds,
        "rows": rows,
    }
    path = write(f"tuning-transfer-{args.graph}", parse_size(there), found, args.output)
    console.print(f"written: {path}", soft_wrap=True)


def _tried(records: Sequence[Record], task: str) -> list[str]:
    """The schedules of a task in the order a search measured them; "" for one that failed."""
    mine = [record for record in records if record.task == task and record.searched]
    return [record.trace if record.seconds else "" for record in mine]


def _curve(ratios: Sequence[float]) -> list[float]:
    """The best after each."""
    best, found = float("inf"), []
    for ratio in ratios:
        best = min(best, ratio)
        found.append(best)
    return found


def _beside_default(
    folder: Path, asked: Mapping[str, Sequence[str]], threads: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Task -> schedule's trace -> its time by the default schedule's, the median of rounds in turns."""
    os.environ |= {"TVM_USE_RUNTIME_LIB": "0", "TVM_NUM_THREADS": str(threads), "TVM_BIND_THREADS": "0"}
    import tvm

    from superlower.backends.tvm.build import fused
    from superlower.backends.tvm.processors import Cpu
    from superlower.backends.tvm.tuning.apply import replayed
    from superlower.backends.tvm.tuning.tasks import tasks_of

    where = Cpu(tvm_target(target(TARGET), BuildOptions(threads=threads)))
    rng = np.random.default_rng(0)
    found = {}
    for task in tasks_of(fused(ir.load(folder / "graph.onnx"), where), 1):
        if task.key not in asked:
            continue
        text = tvm.ir.save_json(task.function)
        timed = {}
        for trace in ["", *dict.fromkeys(trace for trace in asked[task.key] if trace)]:
            function = tvm.ir.load_json(text)
            function = replayed(function, trace) if trace else function
            module = where.scheduled(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
            timed[trace] = where.compiled(module.module)
        given = [
            tvm.runtime.tensor(rng.uniform(-1, 1, shape).astype(kind), tvm.cpu())
            for kind, shape in task.arguments
        ]
        turns = {trace: _once(tvm, made, given) for trace, made in timed.items()}
        found[task.key] = ratios = _by_default(turns, rounds)
        # The best of many is among them by luck, too: those near it once more, and longer.
        near = {trace for trace, ratio in ratios.items() if ratio < AGAIN_WITHIN * min(ratios.values())}
        ratios |= _by_default({k: turn for k, turn in turns.items() if not k or k in near}, LONGER * rounds)
    return found


def _by_default(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    times = take_turns(turns, rounds=rounds)
    return {
        trace: median(a / b for a, b in zip(each, times[""], strict=True))
        for trace, each in times.items()
        if trace
    }


def _once(tvm: Any, made: Any, given: Sequence[Any]) -> Callable[[], float]:
    """Times a compiled function in ms: the least of three, as other loads only add."""
    evaluator = made.jit().time_evaluator("main", tvm.cpu(), number=1, repeat=3)
    return lambda: 1000 * min(evaluator(*given).results)


def main() -> int:
    """Run the benchmark that is asked for."""
    start_with_threads(physical_cores())
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("gain", help="naive, default and tuned schedules beside ONNX Runtime")
    one.add_argument("--size", default="64x64")
    one.add_argument("--graph", action="append", help="only this one; repeatable")
    one.add_argument("--minutes", type=float, default=0.0, help="of tuning first; 0 for none")
    one.add_argument("--db", type=Path, required=True, help="folder of the tuning database")
    one.add_argument("--naive", action="store_true", help="also time loops without a schedule")
    one.add_argument("--rounds", type=int, default=7)
    one.set_defaults(run=gain)
    two = verbs.add_parser("transfer", help="trials with and without another size's schedules")
    two.add_argument("--sizes", nargs=2, default=("144x176", "180x320"))
    two.add_argument("--graph", default="backward")
    two.add_argument("--trials", type=int, default=64)
    two.add_argument("--rounds", type=int, default=7, help="of timing every schedule again")
    two.set_defaults(run=transfer)
    for each in (one, two):
        each.add_argument("--blocks", type=int, default=30)
        each.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("TVM_NUM_THREADS", str(physical_cores()))
    try:
        args.run(args)
    except SuperlowerError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
