"""What the verbs share: the console, progress bars, JSON on stdout, and how options are read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from superlower import jsontext
from superlower.errors import BadInputError, unknown_name
from superlower.folders import replacing_file
from superlower.program.model import Program
from superlower.program.routes import Routing
from superlower.targets.base import TYPES, Precision, Target
from superlower.targets.catalog import target

console = Console(stderr=True, highlight=False, markup=False)
"""Text for people goes to stderr; stdout is for data. No markup: paths and messages hold brackets."""

if not console.is_terminal and "COLUMNS" not in os.environ:
    # A file or pipe has no width that anything must be cut to.
    console.width = 240

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
OutputPath = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes.")]
TargetNames = Annotated[
    list[str], typer.Option("--target", "-t", help="Accelerator to compile for; repeatable. See `targets`.")
]
BackendNames = Annotated[
    list[str] | None,
    typer.Option("--backend", "-b", help="Compiler to use; repeatable. Default: all that are installed."),
]
RacedBackendNames = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        "-b",
        help="Compiler to use; repeatable. Default: all that are installed. auto: they race, and the fastest "
        "is taken, graph by graph.",
    ),
]
PrecisionNames = Annotated[
    list[str] | None,
    typer.Option("--precision", "-p", help="fp32, fp16, bf16 or int8; repeatable. Default: fp32."),
]
CompilePrecisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", "-p", help="fp32, fp16, bf16, int8 or mixed (searched); repeatable. Default: fp32."
    ),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE; repeatable.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything made up.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def _positive(param: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not (isfinite(value) and value > 0):
        raise BadInputError(f"{param.opts[0]} {value:g}: write a finite number above 0")
    return value


def _count(param: typer.CallbackParam, value: int) -> int:
    if value < 0:
        raise BadInputError(f"{param.opts[0]} {value}: write 0 or a number above")
    return value


Atol = Annotated[
    float | None,
    typer.Option("--atol", callback=_positive, help="Tolerance instead of the precision's own."),
]
BudgetDb = Annotated[
    float,
    typer.Option(
        "--budget-db", callback=_positive, help="Luma PSNR that int8 or mixed may cost over the clip, in dB."
    ),
]
BudgetFlicker = Annotated[
    float,
    typer.Option(
        "--budget-flicker",
        callback=_positive,
        help="Levels of 255 by which mixed may let frame-to-frame flicker grow.",
    ),
]
BudgetTof = Annotated[
    float,
    typer.Option(
        "--budget-tof", callback=_positive, help="Pixels by which mixed may let tOF grow (needs OpenCV)."
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", callback=_count, help="CPU threads of an engine; 0: all cores.")
]
Timeout = Annotated[float, typer.Option("--timeout", callback=_positive, help="Seconds a build may take.")]


class State:
    """Switches of the whole command line."""

    progress = True


class Bars:
    """Progress as bars on a terminal, as lines elsewhere."""

    def __init__(self) -> None:
        self._shown = State.progress
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title, self._total, self._done = "", 0, 0

    def __enter__(self) -> Bars:
        if self._shown and console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            if kind is None:
                self._finish()
            self._bar.stop()

    def stage(self, title: str, total: int | None = None) -> None:
        """See `driver.progress.Progress`."""
        self._finish()
        self._title, self._total, self._done = title, total or 0, 0
        if self._bar is not None:
            self._task = self._bar.add_task(title, total=total, rate="")
        elif self._shown:
            console.print(title + (f" ({total})" if total else ""))

    def advance(self, note: str = "") -> None:
        """See `driver.progress.Progress`."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            task = self._bar.tasks[self._bar.task_ids.index(self._task)]
            rate = f"{task.speed:.2f}/s" if task.speed else ""
            self._bar.update(self._task, advance=1, rate=rate, description=f"{self._title} {note}".strip())
        elif self._shown and self._total and self._done % max(self._total // 4, 1) == 0:
            console.print(f"  {self._title}: {self._done} of {self._total}")

    def _finish(self) -> None:
        if self._bar is not None and self._task is not None:
            task = self._bar.tasks[self._bar.task_ids.index(self._task)]
            self._bar.update(
                self._task, description=self._title, total=task.total or 1, completed=task.total or 1
            )
            self._bar.stop_task(self._task)
            self._task = None


def print_json(value: object) -> None:
    """One JSON document on stdout; a number that is none is a string there, as `jsontext` says."""
    sys.stdout.buffer.write(msgspec.json.format(jsontext.encode(value, plain), indent=2) + b"\n")
    sys.stdout.flush()


def plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table for people, on stderr."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def print_equations(program: Program) -> None:
    """A program's equations for people, on stderr."""
    for equation in program.equations:
        left = ", ".join(f"{stream}[t]" for stream in equation.outputs.values())
        right = ", ".join(f"{name}={read}" for name, read in equation.inputs.items())
        when = "" if equation.when == "true" else f"   when {equation.when}"
        graph = equation.graph if equation.route is None else " | ".join(equation.route.graphs)
        console.print(f"  {left} = {graph}({right}){when}")
        if equation.route is not None:
            _route(Routing(program, equation))


def _route(routing: Routing) -> None:
    route, equation = routing.route, routing.equation
    high, wide = route.patch
    batch = f", {route.batch} a call" if route.batch > 1 else ""
    rest = ", ".join(f"{name}={read}" for name, read in route.otherwise.items())
    console.print(
        f"    chosen by {route.choice} for each of {routing.rows}x{routing.columns} patches of {high}x{wide} "
        f"(windows of {routing.window[0]}x{routing.window[1]}{batch}); otherwise {rest}"
    )
    if equation.graph:
        console.print(f"    {equation.graph} makes the whole frame where windows would have as many pixels")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "HxW".

    Raises:
        BadInputError: anything else.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.strip().lower())
    if match is None:
        raise BadInputError(f"--size {text}: write HEIGHTxWIDTH in pixels, as 180x320")
    return int(match[1]), int(match[2])


def parse_bytes(text: str) -> int:
    """Bytes from "512MB", "4GB" or a number.

    Raises:
        BadInputError: anything else.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(|k|m|g)(?:i?b)?", text.strip().lower())
    if match is None:
        raise BadInputError(f"'{text}' is no amount of memory: write 512MB or 4GB")
    return int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2]])


def parse_settings(texts: Iterable[str] | None) -> dict[str, str]:
    """KEY=VALUE options as a dictionary.

    Raises:
        BadInputError: one without "=".
    """
    settings = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInputError(f"--set {text}: write KEY=VALUE")
        settings[key] = value
    return settings


def parse_precisions(names: Iterable[str] | None, known: Sequence[Precision] = TYPES) -> list[Precision]:
    """Precisions by name, each once; fp32 for none.

    Args:
        known: those that may be asked for.

    Raises:
        BadInputError: an unknown one.
    """
    found = []
    for name in dict.fromkeys(names or ["fp32"]):
        if name not in known:
            raise unknown_name("precision", name, list(known))
        found.append(Precision(name))
    return found


def parse_targets(names: Iterable[str]) -> list[Target]:
    """Targets by name, each once."""
    return [target(name) for name in dict.fromkeys(names)]


def config_lines(ctx: typer.Context, leave_out: Container[str] = ("config",)) -> list[str]:
    """The options in force as `--config` reads them, a line each."""
    found = ((name, _toml(value)) for name, value in sorted(ctx.params.items()) if name not in leave_out)
    return [f"{name} = {text}\n" for name, text in found if text is not None]


def save_config(ctx: typer.Context, output: Path) -> None:
    """Write the options in force beside the output, as `--config` reads them."""
    lines = ["# Options in force; run again with --config on this file.\n", *config_lines(ctx)]
    output = output.absolute()
    beside = output.with_name(f"{output.name}.config.toml")
    with replacing_file(beside) as aside:
        aside.write_text("".join(lines))


def _toml(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        items = [_toml(item) for item in value]
        return f"[{', '.join(item for item in items if item is not None)}]" if items else None
    return None if value is None else msgspec.json.encode(str(value)).decode()


def counted(nodes: Mapping[str, int]) -> int:
    """Nodes in all."""
    return sum(nodes.values())
