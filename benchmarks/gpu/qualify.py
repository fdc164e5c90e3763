"""The GPU run: engines built, held to PyTorch, timed beside it, tuned; one JSON and one Markdown table.

    python benchmarks/gpu/qualify.py                 # on a machine with an NVIDIA GPU; ten minutes at most
    python benchmarks/gpu/qualify.py --dry-run       # anywhere: builds for sm_90, and stops at the driver

Each step runs in a process of its own, with a time limit; the JSON is written after each. A second run with
the same --work takes up what was exported and built. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plan
import steps
from plan import DONE, Record, Step
from table import markdown

import superlower
from superlower.errors import BadInputError, MissingSdkError, SuperlowerError

MODELS = ("basicvsr", "egvsr", "basicvsrpp")
LIMIT_S = 600.0
DEVICE = "device"
NO_DEVICE = MissingSdkError.exit_code


def steps_of(models: Sequence[str], backends: Sequence[str], tune: bool) -> list[Step]:
    """Everything in order: a model at a time, so that it is the last model that time is short for."""
    found: list[Step] = []
    for model in models:
        found.append(Step(f"prepare {model}", f"prepare {model}", 10, 240, kept=True))
        needs, checked = (f"prepare {model}",), []
        for name in backends:
            found.append(Step(f"build {model} {name}", f"build {model} {name}", 15, 400, needs, kept=True))
            found.append(
                Step(f"check {model} {name}", f"check {model} {name}", 10, 120, (f"build {model} {name}",))
            )
            checked.append(f"check {model} {name}")
        for one in checked[:1]:
            found.append(Step(f"speed {model}", f"speed {model}", 15, 120, (one,)))
            found.append(Step(f"torch.compile {model}", f"compiled {model}", 40, 150, (one,)))
    if tune:
        for model in models[:1]:
            found.append(Step(f"tune {model}", f"tune {model}", 60, 240, (f"speed {model}",)))
            again = f"build {model} tvm tuned"
            found.append(Step(again, f"tuned {model}", 30, 240, (f"tune {model}",)))
            found.append(Step(f"speed {model} tuned", f"speed {model}", 15, 120, (again,)))
    return found


def dry_steps(models: Sequence[str], backends: Sequence[str]) -> list[Step]:
    """Everything that needs no GPU, then the driver."""
    found: list[Step] = []
    for model in models:
        found.append(Step(f"prepare {model}", f"prepare {model}", 10, 1800, kept=True))
        found += [
            Step(f"build {model} {n}", f"build {model} {n}", 15, 1800, (f"prepare {model}",), kept=True)
            for n in backends
        ]
    return [*found, Step(DEVICE, DEVICE)]


def do(argument: str, given: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """One step, in this process."""
    what, _, rest = argument.partition(" ")
    model, _, backend = rest.partition(" ")
    size, work = (settings["size"][0], settings["size"][1]), given.work
    if what == DEVICE:
        return steps.find_device()
    where = steps.by_name(settings["target"])
    weights = settings["weights"].get(model, "random:0")
    if what == "prepare":
        return steps.prepare(model, size, weights, work)
    if what == "build":
        if backend == "tensorrt":  # It builds on the GPU.
            return steps.build(model, backend, where, work, settings["build_s"])
        with steps.without_devices():
            return steps.build(model, backend, where, work, settings["build_s"])
    if what == "tuned":
        with steps.without_devices():
            return steps.build(model, "tvm", where, work, settings["build_s"])
    if what == "check":
        return steps.check(model, backend, work)
    if what in ("speed", "compiled"):
        names = [n for n in settings["backends"] if (work / model / n / "bundle.json").is_file()]
        return steps.speed(model, names, size, weights, work, what == "compiled", settings["rounds"])
    if what == "tune":
        return steps.tune(model, where, work, settings["tune_s"])
    raise BadInputError(f"no such step: {argument}")


def verdict(records: Sequence[Record]) -> int:
    """Exit code: of the first step that failed; 4 if an engine left its tolerance."""
    for record in records:
        if record.status == plan.FAILED and not record.name.startswith(("torch.compile", "tune")):
            return record.exit_code or 1
        if record.name.startswith("check "):
            checks = record.result.values()
            if any(isinstance(one, dict) and one.get("passed") is False for one in checks):
                return 4
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("gpu-run"), help="folder (default: %(default)s)")
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable; default: all three")
    parser.add_argument("--size", default="180x320", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--weights", action="append", default=[], help="MODEL=FILE; default: seeded ones")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds in all (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=5, help="timed (default: %(default)s)")
    parser.add_argument("--no-tune", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="build without a GPU, and stop at its driver")
    parser.add_argument("--target", default="h100", help="of a dry run (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="JSON; default: WORK/qualify.json, .md beside it")
    parser.add_argument("--do", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(given: argparse.Namespace, where: str, backends: Sequence[str]) -> dict[str, Any]:
    """What every step's process must know."""
    height, _, width = given.size.partition("x")
    weights = dict(one.split("=", 1) for one in given.weights)
    return {
        "size": [int(height), int(width)],
        "weights": weights,
        "target": where,
        "backends": list(backends),
        "rounds": given.rounds,
        "build_s": 1800.0 if given.dry_run else 390.0,
        "tune_s": 180.0,
    }


def orchestrate(given: argparse.Namespace) -> int:
    """All steps, the files, and the exit code."""
    began = time.time()
    output = given.output or given.work / "qualify.json"
    device: dict[str, Any] = {}
    if not given.dry_run:
        device = steps.find_device()
    where = given.target if given.dry_run else device["target"]
    reasons = steps.contending(steps.by_name(where), here=not given.dry_run)
    backends = sorted((n for n, why in reasons.items() if why is None), key=lambda n: (n != "tvm", n))
    given.work.mkdir(parents=True, exist_ok=True)
    before = plan.read_records(given.work / "qualify.json")
    settings = settings_of(given, where, backends)
    kept = json.loads((given.work / "settings.json").read_text()) if before else None
    if kept is not None and any(kept.get(key) != settings[key] for key in ("size", "weights", "target")):
        before = []  # What was built is of other things.
    plan.write(given.work / "settings.json", settings)
    models = given.model or list(MODELS)
    todo = dry_steps(models, backends) if given.dry_run else steps_of(models, backends, not given.no_tune)

    def document(records: Sequence[Record], finished: bool) -> dict[str, Any]:
        return {
            "benchmark": "gpu",
            "superlower": superlower.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": device,
            "target": where,
            "left out": {name: why for name, why in reasons.items() if why is not None},
            "settings": settings,
            "limit_s": given.limit,
            "seconds": time.time() - began,
            "finished": finished,
            "steps": plan.builtins(records),
        }

    def checkpoint(records: Sequence[Record]) -> None:
        last = records[-1]
        print(f"{last.name}: {last.status} ({last.seconds:.0f} s) {last.error}".rstrip(), file=sys.stderr)
        whole = document(records, len(records) == len(todo))
        plan.write(output, whole)
        if output != given.work / "qualify.json":
            plan.write(given.work / "qualify.json", whole)
        output.with_suffix(".md").write_text(markdown(whole))

    limit = 10**6 if given.dry_run else given.limit
    run = plan.child(Path(__file__).resolve(), given.work.resolve())
    records = plan.run_steps(todo, limit, run, checkpoint, before=before)
    print(f"written: {output} and {output.with_suffix('.md').name}", file=sys.stderr)
    if given.dry_run and records[-1].name == DEVICE and records[-1].status != DONE:
        builds = [record for record in records if record.name.startswith("build")]
        made = sum(record.status == DONE for record in builds)
        why = f"{made} of {len(builds)} builds for {where} are in {given.work}, take it along"
        print(f"qualify: {records[-1].error}; {why}", file=sys.stderr)
        return NO_DEVICE
    return verdict(records)


def main() -> int:
    """Orchestrate, or do one step as its child."""
    given = arguments()
    try:
        if given.do is None:
            return orchestrate(given)
        settings = json.loads((given.work / "settings.json").read_text())
        plan.write(given.result, do(given.do, given, settings))
    except SuperlowerError as error:
        print(f"qualify: {error}" if given.do is None else str(error), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
