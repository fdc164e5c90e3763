"""What a tuning task saves by starting from the schedules of another size, beside a cold start.

A graph of BasicVSR is tuned at one size; then at another, from there and cold, by several seeds. Then every
schedule that any run at the other size came to is timed again, all of a task in turns with its default:
single measurements of a run differ by more than the few percent in question. Those near the best are timed
so a second time, in more rounds, which is what counts. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir
from common import machine, start_with_threads, write
from tuning import TARGET, exported, only, run, search

from superlower.backends.base import BuildOptions
from superlower.backends.tvm.backend import Tvm, tvm_target
from superlower.backends.tvm.tuning.ranking import Record
from superlower.backends.tvm.tuning.search import trials_to
from superlower.backends.tvm.tuning.store import Store
from superlower.cli.common import console, parse_size, print_table
from superlower.driver.building import Job, legal_graph
from superlower.driver.speed import physical_cores, take_turns
from superlower.driver.tune import Limits
from superlower.ir import save
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision
from superlower.targets.catalog import target

NEAR = 0.95
"""Of the best speed: what transfer is told by."""
AGAIN_WITHIN, LONGER = 1.12, 3
"""Of the best time: schedules that are timed once more, and in how many times the rounds."""


def transfer(args: argparse.Namespace) -> None:
    """The runs, the table and the file."""
    threads = physical_cores()
    here, there = args.sizes
    seeds = range(args.seeds)

    def tuned(size: str, database: Path, trials: int, seed: int, helped: bool) -> TemporalModel:
        model = only(exported(parse_size(size), args.blocks), [args.graph])
        console.print(f"{args.graph} at {size}, {'from what is known' if helped else 'cold'}, seed {seed}")
        search(model, database, Limits(trials=trials), threads, seed=seed, transfer=helped)
        return model

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tuned(here, folder / "before", args.before, 0, helped=True)
        runs = [(kind, seed) for seed in seeds for kind in ("cold", "warm")]
        records: dict[tuple[str, int], Sequence[Record]] = {}
        for kind, seed in runs:
            database = folder / f"{kind}-{seed}"
            if kind == "warm":
                shutil.copytree(folder / "before", database)
            model = tuned(there, database, args.trials, seed, helped=kind == "warm")
            records[kind, seed] = Store(database).read().records
        names = {record.task: record.name for record in records["cold", 0]}
        tried = {task: {run: _tried(found, task) for run, found in records.items()} for task in names}
        searched = {task: each for task, each in tried.items() if all(each.values())}
        clean, _ = apply(model.graphs[args.graph], default_pipeline())
        save(legal_graph(Job(Tvm(), target(TARGET), Precision.FP32), clean).model, folder / "graph.onnx")
        console.print(f"timing the schedules of {len(searched)} tasks again, in turns")
        # This process has TVM's runtime library by now, which has no compiler.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            asked = {task: [one for run in each.values() for one in run] for task, each in searched.items()}
            stood = child.submit(_beside_default, folder, asked, threads, args.rounds).result()
    rows = [_transferred(names[task], each, stood[task]) for task, each in searched.items()]
    print_table(
        f"{args.graph} at {there} after {here}: measurements until search came to 95 % of the best known, "
        "by seed",
        ("task", "best by its default", "default within 95 %", "cold", "from the other size", "a third"),
        (
            (
                row.task,
                f"{1 / row.best:.2f}",
                "yes" if row.best >= NEAR else "no",
                row.told("cold"),
                row.told("warm"),
                "yes" if row.a_third else "no",
            )
            for row in rows
        ),
    )
    together = {kind: sum(median(row.counts(kind)) for row in rows) for kind in ("cold", "warm")}
    console.print(
        f"all tasks, by medians over seeds: {together['cold']:g} measurements at least cold, "
        f"{together['warm']:g} from the other size"
    )
    found = {
        "machine": machine(["tvm"]),
        "together": together,
        "sizes": args.sizes,
        "trials": args.trials,
        "trials_before": args.before,
        "rounds": args.rounds,
        "rows": [asdict(row) | {"a_third": row.a_third} for row in rows],
    }
    path = write(f"tuning-transfer-{args.graph}", parse_size(there), found, args.output)
    console.print(f"written: {path}", soft_wrap=True)


@dataclass(frozen=True)
class Transferred:
    """A task searched cold and from another size's schedules ("warm"), a run for each seed.

    Attributes:
        task: its name.
        best: time of the best schedule any run came to, by the default's.
        curves: by kind of run and seed, the best after each measurement, by the default's time.
        to_95: measurements until 95 % of the best's speed; None where a run ended before.
    """

    task: str
    best: float
    curves: Mapping[str, Sequence[Sequence[float]]]
    to_95: Mapping[str, Sequence[int | None]]

    def counts(self, kind: str) -> list[int]:
        """By seed; for a run that ended before, one more than it made: the least there can be."""
        each = zip(self.to_95[kind], self.curves[kind], strict=True)
        return [len(curve) + 1 if count is None else count for count, curve in each]

    @property
    def a_third(self) -> bool:
        """Whether it takes at most a third of a cold start's measurements, by medians over seeds."""
        return 3 * median(self.counts("warm")) <= median(self.counts("cold"))

    def told(self, kind: str) -> str:
        """In words."""
        each = zip(self.to_95[kind], self.curves[kind], strict=True)
        return ", ".join(f"over {len(curve)}" if count is None else str(count) for count, curve in each)


def _transferred(
    name: str, runs: Mapping[tuple[str, int], Sequence[str]], ratios: Mapping[str, float]
) -> Transferred:
    best = min(1.0, *ratios.values())
    curves: dict[str, list[list[float]]] = {}
    for (kind, _), traces in runs.items():
        curves.setdefault(kind, []).append(_curve([ratios.get(one, float("inf")) for one in traces]))
    reached = {kind: [trials_to(one, best / NEAR) for one in each] for kind, each in curves.items()}
    return Transferred(name, best, curves, reached)


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
    """Tune, time again, write."""
    start_with_threads(physical_cores())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs=2, default=("144x176", "180x320"))
    parser.add_argument("--graph", default="backward")
    parser.add_argument("--before", type=int, default=128, help="measurements at the first size")
    parser.add_argument("--trials", type=int, default=48, help="at the second size, of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="of timing every schedule again")
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    return run(transfer, args)


if __name__ == "__main__":
    sys.exit(main())
