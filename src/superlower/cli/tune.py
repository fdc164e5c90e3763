"""superlower tune: schedules for a target, found by measuring them, and the database that keeps them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from superlower.backends.tvm.tuning import store
from superlower.backends.tvm.tuning.journal import Event, TaskLine
from superlower.backends.tvm.tuning.ranking import fastest
from superlower.backends.tvm.tuning.request import Result
from superlower.backends.tvm.tuning.store import Measurements, Store
from superlower.cli.common import (
    Bars,
    DryRun,
    JsonFlag,
    Seed,
    Threads,
    console,
    parse_precisions,
    parse_size,
    print_json,
    print_table,
)
from superlower.driver import tune as driver
from superlower.driver.tune import Farm, Limits
from superlower.errors import BadInputError
from superlower.frontends import onnx_files
from superlower.targets.catalog import target as target_named

KEEP = 8
"""Schedules of a task that --prune leaves."""
SHOWN, NAME = 12, 30
"""Tasks in a table, and letters of a name; --json has them all."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("tune")(tune)


def tune(
    model: Annotated[
        Path | None, typer.Argument(help="Program folder (from `export`) or .onnx file to tune.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Accelerator to tune for. See `targets`.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Schedules to measure at most.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Minutes to take at most, all told.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--db", help="Folder of the database. Default: the one that compile uses."),
    ] = None,
    precision: Annotated[str, typer.Option("--precision", "-p", help="fp32 or fp16.")] = "fp32",
    size: Annotated[str | None, typer.Option("--size", help="For an .onnx with free sizes.")] = None,
    no_transfer: Annotated[
        bool, typer.Option("--no-transfer", help="Don't start from schedules of like tasks.")
    ] = False,
    tracker: Annotated[
        str | None,
        typer.Option("--tracker", help="HOST:PORT of a farm's tracker, to measure on its devices."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="What the farm's devices are registered as.")
    ] = None,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Of the farm, to use at a time.")] = 4,
    threads: Threads = 0,
    stats: Annotated[
        bool, typer.Option("--stats", help="Tell what the database holds, of MODEL's tasks if given.")
    ] = False,
    export: Annotated[Path | None, typer.Option("--export", help="Write the measurements to a file.")] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", help="Add the measurements of a file or another database.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop all but the fastest schedules of each task.")
    ] = False,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many --prune and --export leave.")] = KEEP,
    seed: Seed = 0,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Search schedules for MODEL's fused functions on --target, and keep every measurement.

    Stopped at any point, it goes on from there when called again; `compile` uses what was found. Without
    MODEL: --stats, --export, --import and --prune the database.
    """
    folder = database or store.default_folder()
    if folder is None:
        raise BadInputError(f"{store.FOLDER}=off switches the database off: give one by --db")
    verbs = [
        name
        for name, on in (("stats", stats), ("export", export), ("import", import_), ("prune", prune))
        if on
    ]
    if len(verbs) > 1:
        raise BadInputError(f"--{verbs[0]} and --{verbs[1]} are two commands: give one at a time")
    if model is None:
        if not verbs:
            raise BadInputError("nothing to tune: give MODEL, or one of --stats, --export, --import, --prune")
        _database(Store(folder), export, import_, prune, keep, json)
        return
    if verbs not in ([], ["stats"]):
        raise BadInputError(f"--{verbs[0]} is of the whole database: leave MODEL out")
    if target is None:
        raise BadInputError("say what to tune for: --target. See `superlower targets`")
    if trials is not None and minutes is not None:
        raise BadInputError("say how long: either --trials or --minutes")
    if minutes is not None and not minutes > 0:
        raise BadInputError(f"--minutes {minutes:g}: write a number above 0")
    farm = _farm(tracker, key, devices)
    (wanted,) = parse_precisions([precision])
    height, width = parse_size(size) if size else (None, None)
    loaded = onnx_files.load(model, height=height, width=width)
    look = stats or dry_run
    with Bars() as bars:
        result = driver.tune(
            loaded,
            target_named(target),
            wanted,
            folder,
            limits=Limits(trials, minutes),
            threads=threads,
            seed=seed,
            transfer=not no_transfer,
            farm=farm,
            dry=look,
            progress=bars,
            on_event=_tell,
        )
    if json:
        print_json({"database": folder, "result": result})
    _print(result, folder, tuned=not look)


def _farm(tracker: str | None, key: str | None, devices: int) -> Farm | None:
    if tracker is None and key is None:
        return None
    if tracker is None or key is None:
        raise BadInputError("a farm is --tracker HOST:PORT and --key NAME: give both")
    return Farm(*parse_address(tracker, "--tracker"), key, devices)


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Host and port from "HOST:PORT".

    Raises:
        BadInputError: anything else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInputError(f"{option} {text}: write HOST:PORT, as 127.0.0.1:9190")
    return host, int(port)


def _tell(event: Event) -> None:
    if (task := event.task) is None or not task.best_s or not task.default_s:
        return
    left = "" if event.left_s is None else f", {event.left_s / 60:.1f} min left"
    console.print(
        f"{task.name} ({task.share:.0%} of a frame): {task.best_s * 1e3:.3g} ms after {task.trials}, "
        f"{task.default_s / task.best_s:.2f} times as fast as its default{left}",
        soft_wrap=True,
    )


def _print(result: Result, folder: Path, *, tuned: bool) -> None:
    print_table(
        f"{folder}: {len(result.tasks)} tasks",
        ("task", "share", "default", "best ms", "times", "trials", "state"),
        (_row(task) for task in result.tasks[:SHOWN]),
    )
    if len(result.tasks) > SHOWN:
        console.print(f"and {len(result.tasks) - SHOWN} tasks more, the smallest")
    both = [task for task in result.tasks if task.default_s and task.best_s]
    before = sum(task.calls * (task.default_s or 0.0) for task in both)
    after = sum(task.calls * (task.best_s or 0.0) for task in both)
    if after:
        console.print(
            f"a frame's tasks: {before * 1e3:.1f} -> {after * 1e3:.1f} ms, {before / after:.2f} times"
        )
    console.print(f"{result.hits} of {len(result.tasks)} tasks ({result.hits / len(result.tasks):.0%}) hit")
    if tuned:
        console.print(f"{result.measured} measured in this run")
    _skipped(result.skipped)


def _row(task: TaskLine) -> tuple[object, ...]:
    def ms(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds * 1e3:.3g}"

    times = f"{task.default_s / task.best_s:.2f}" if task.default_s and task.best_s else ""
    state = f"{task.state}, {task.failed} failed" if task.failed else task.state
    name = task.name if len(task.name) <= NAME else f"{task.name[: NAME - 1]}…"
    return name, f"{task.share:.1%}", ms(task.default_s), ms(task.best_s), times, task.trials, state


def _skipped(lines: int) -> None:
    if lines:
        console.print(f"{lines} lines of the database are no measurements: skipped", style="yellow")


def _database(
    database: Store, export: Path | None, import_: Path | None, prune: bool, keep: int, json: bool
) -> None:
    if import_ is not None:
        added, known, skipped = database.merge(import_)
        if json:
            print_json({"added": added, "known": known, "skipped": skipped})
        console.print(f"{added} measurements added, {known} were here, {skipped} lines skipped")
        return
    if prune:
        before, after = database.prune(keep)
        if json:
            print_json({"before": before, "after": after})
        console.print(f"{before} measurements before, {after} now")
        return
    found = database.read()
    if export is not None:
        written = store.export(fastest(found.records, keep), export)
        if json:
            print_json({"written": written, "skipped": found.skipped})
        console.print(f"{written} of {len(found.records)} measurements written to {export}")
        return
    _stats(found, database.folder, json)


def _stats(found: Measurements, folder: Path, json: bool) -> None:
    groups = Counter((r.target, r.tvm, r.device, r.threads) for r in found.records)
    rows = []
    for (where, tvm, device, threads), count in groups.most_common():
        mine = [
            r
            for r in found.records
            if (r.target, r.tvm, r.device, r.threads) == (where, tvm, device, threads)
        ]
        rows.append(
            {
                "target": where,
                "tvm": tvm,
                "device": device,
                "threads": threads,
                "tasks": len({r.task for r in mine}),
                "measurements": count,
                "failed": sum(not r.seconds for r in mine),
                "searched": len({r.task for r in mine if r.trace and r.seconds}),
            }
        )
    if json:
        print_json({"database": folder, "groups": rows, "skipped": found.skipped})
        return
    print_table(
        str(folder),
        ("target", "TVM", "device", "threads", "tasks", "searched", "measurements", "failed"),
        (
            [
                row[c]
                for c in ("target", "tvm", "device", "threads", "tasks", "searched", "measurements", "failed")
            ]
            for row in rows
        ),
    )
    _skipped(found.skipped)
