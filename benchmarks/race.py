"""`--backend auto` over the zoo: where each graph went, and whole frames beside the best single backend.

The variant that a race chose is timed again, in turns with one of each backend alone, apart from the race
itself. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import msgspec
from common import fail, machine, result_path, start_with_threads, write

from superlower.backends.base import BuildOptions
from superlower.bundle.bundle import Bundle
from superlower.bundle.choices import RaceRecord
from superlower.cli.common import Bars, console, parse_settings, parse_size, print_table
from superlower.cli.race import print_race
from superlower.driver import export as exporting
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.engine_cache import EngineCache
from superlower.driver.many_builds import Builds
from superlower.driver.progress import Progress
from superlower.driver.speed import SpeedRow, back_and_forth, contenders, physical_cores, race
from superlower.errors import SuperlowerError
from superlower.program import files
from superlower.targets.base import Precision
from superlower.targets.catalog import target

MODELS = (
    "espcn",
    "vespcn",
    "egvsr",
    "tecogan",
    "sofvsr",
    "sofvsr-accv",
    "basicvsr",
    "basicvsrpp",
    "iconvsr",
    "rsdn",
    "edvr-m",
    "edvr-improved",
)
BACKENDS = ("onnxruntime", "openvino", "tvm")
FACTOR = 2.0
"""Single backends that the race saw take longer than so many times the chosen one aren't timed again."""


@dataclass(frozen=True)
class Result:
    """One model.

    Attributes:
        model: its name.
        engines: graph -> backend, as chosen.
        race: how.
        rows: the chosen variant, then backends alone, timed again in turns; ratios are to the first.
        best: the fastest backend alone, of `rows`.
        times: how many times as fast as that the chosen variant was, round by round.
    """

    model: str
    engines: dict[str, str]
    race: dict[str, object]
    rows: tuple[SpeedRow, ...]
    best: str
    times: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """In words."""
        if len(set(self.engines.values())) > 1:
            return "mixed, and faster" if min(self.times) > 1 else "mixed"
        return "one backend"

    @property
    def slower(self) -> bool:
        """Whether the chosen variant was slower than the best single backend in every round."""
        return max(self.times) < 1


def measure(name: str, asked: argparse.Namespace, work: Path, progress: Progress) -> Result:
    """Export, race, and time again."""
    size = parse_size(asked.size)
    folder = work / f"{name}-{asked.size}"
    if not (folder / "program.json").is_file():
        options = parse_settings(asked.set)
        made = exporting.export(name, "random:0", *size, options=options, progress=progress)
        exporting.save(made, folder)
    model = files.load_model(folder)
    golden = exporting.golden_for(model, folder, None)
    builds = Builds(cache=EngineCache(work / "engines", 10**11))
    options = BuildOptions(threads=asked.threads)
    jobs = plan_jobs([target("cpu")], [Precision.FP32], asked.backend or BACKENDS)
    raced = compile_bundle(
        model,
        jobs,
        golden,
        work / f"{name}.auto",
        options=options,
        builds=builds,
        racing=True,
        progress=progress,
    ).bundle
    (chosen,) = raced.manifest.variants
    record = chosen.race
    assert record is not None
    print_race(name, record)
    singles = near(record)
    alone = compile_bundle(
        model,
        [job for job in jobs if job.backend.name in singles],
        golden,
        work / f"{name}.alone",
        options=options,
        builds=builds,
        progress=progress,
    ).bundle
    rows = again(raced, alone, asked, progress)
    best = min(rows[1:], key=lambda row: row.ms)
    times = tuple(b / a for a, b in zip(rows[0].rounds_ms, best.rounds_ms, strict=True))
    engines = {graph: engine.backend for graph, engine in chosen.engines.items()}
    return Result(name, engines, msgspec.to_builtins(record), tuple(rows), best.name, times)


def near(record: RaceRecord) -> list[str]:
    """Single backends that come near the fastest, by the race's own times."""
    alone = [one for one in record.programs if len(set(one.backends.values())) == 1]
    times = {one.name: one.ms or one.expected_ms or 0.0 for one in alone}
    return [name for name, ms in times.items() if ms <= FACTOR * min(times.values())]


def again(raced: Bundle, alone: Bundle, asked: argparse.Namespace, progress: Progress) -> list[SpeedRow]:
    """Whole frames of the chosen variant and of single backends, in turns."""
    clip = back_and_forth(raced.golden().frames, asked.frames)
    with (
        contenders(raced, raced.manifest.variants, clip) as chosen,
        contenders(alone, alone.manifest.variants, clip) as others,
    ):
        return race({**chosen, **others}, len(clip), rounds=asked.rounds, progress=progress)


def show(results: Sequence[Result]) -> None:
    """A table for people."""
    print_table(
        "chosen by the race, and timed again beside the best single backend",
        ("model", "engines", "ms a frame", "best alone", "times as fast as that", ""),
        (
            (
                one.model,
                ", ".join(f"{graph}: {name}" for graph, name in one.engines.items()),
                f"{one.rows[0].ms:.1f}",
                f"{one.best.split('-')[0]} {min(row.ms for row in one.rows[1:]):.1f}",
                f"{median(one.times):.3f} ({min(one.times):.3f} to {max(one.times):.3f})",
                "SLOWER" if one.slower else one.verdict,
            )
            for one in results
        ),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="some of these; default: all")
    parser.add_argument("--size", default="64x64", help="HEIGHTxWIDTH of a frame (default: %(default)s)")
    parser.add_argument("--backend", action="append", help=f"repeatable; default: {', '.join(BACKENDS)}")
    parser.add_argument("--set", action="append", help="option of the models, KEY=VALUE; repeatable")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--frames", type=int, default=4, help="of a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--work", type=Path, help="keep programs and engines here, for other runs")
    parser.add_argument("--add", action="store_true", help="keep other models' results that the file has")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; default: by the machine, in results/")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write after each model."""
    given = arguments()
    start_with_threads(given.threads)
    size = parse_size(given.size)
    try:
        about = machine(given.backend or BACKENDS)
        keeping = nullcontext(given.work) if given.work else tempfile.TemporaryDirectory(prefix="superlower-")
        results: list[Result] = []
        with keeping as work, Bars() as bars:
            for name in given.model or MODELS:
                results.append(measure(name, given, Path(work).resolve(), bars))
                found = {one.model: {**asdict(one), "verdict": one.verdict} for one in results}
                path = write("race", size, document(about, given, found), given.output)
        show(results)
    except SuperlowerError as error:
        return fail(error)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 1 if any(one.slower for one in results) else 0


def document(
    about: dict[str, object], given: argparse.Namespace, found: dict[str, dict[str, object]]
) -> dict[str, object]:
    """The JSON file's content; with `--add` beside what it had."""
    size = parse_size(given.size)
    before: dict[str, dict[str, object]] = {}
    path = result_path("race", size, given.output)
    if given.add and path.is_file():
        before = msgspec.json.decode(path.read_bytes()).get("models", {})
    return {
        "benchmark": "race",
        "machine": about,
        "height": size[0],
        "width": size[1],
        "frames": given.frames,
        "rounds": given.rounds,
        "threads": given.threads,
        "models": before | found,
    }


if __name__ == "__main__":
    raise SystemExit(main())
