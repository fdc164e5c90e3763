"""superlower compile MODELS...: one compile a model, each in a process of its own, and one report of all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import typer

import superlower
from superlower import errors
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Manifest, Variant
from superlower.cli.common import Bars, config_lines, console, print_json, print_table
from superlower.driver import matrix as driver
from superlower.driver.engine_cache import EngineCache
from superlower.driver.matrix import Cell, Outcome, Report, Row
from superlower.errors import BuildFailedError, SuperlowerError
from superlower.report.matrix import write
from superlower.targets.base import Target
from superlower.targets.catalog import target

OWN = frozenset(("model", "output", "at_once", "cache", "html", "json", "dry_run"))
"""Options of `compile` that each model's process is given another value of, or none."""

_START = (
    "import signal; from superlower.backends.worker import die_with; die_with({parent}, signal.SIGTERM); "
    "from superlower.cli.main import main; main()"
)


class _Compiled(msgspec.Struct, kw_only=True):
    """What `compile --json` prints."""

    variants: tuple[dict[str, Any], ...] = ()
    failures: dict[str, str] = {}
    cache: dict[str, int] = {}


@dataclass(frozen=True)
class Asked:
    """A matrix.

    Attributes:
        models: as given.
        output: folder of the bundles.
        targets: to compile for.
        inputs: files and folders besides the models that are read.
        settings: of backends and passes.
        at_once: builds at a time.
        cached: whether engines are taken from the cache.
        keep_going: go on after a model that fails.
        html: page to write; None for none.
        json: whether the report is printed as JSON.
        dry_run: say what would be done.
    """

    models: Sequence[Path]
    output: Path
    targets: Sequence[Target]
    inputs: Sequence[Path]
    settings: Mapping[str, str]
    at_once: int
    cached: bool
    keep_going: bool
    html: Path | None
    json: bool
    dry_run: bool


def compile_all(ctx: typer.Context, asked: Asked) -> None:
    """Compile every model that isn't compiled already, and report.

    Raises:
        SuperlowerError: the first failure in the models' order, with its exit code, after the report.
    """
    named = driver.names(asked.models)
    options = "".join(config_lines(ctx, leave_out=OWN))
    depends = asked.inputs, options, asked.targets, asked.settings
    keys = {name: driver.key_of(model, *depends) for name, model in named.items()}
    before = driver.read_report(asked.output)
    known = before.rows if before is not None else {}
    rows: dict[str, Row] = {}
    for name, model in named.items():
        there = driver.standing(asked.output / name, known.get(name), keys[name])
        rows[name] = there or Row(model=str(model), key=keys[name])
    todo = [name for name, row in rows.items() if not row.kept]
    if asked.dry_run:
        for name, model in named.items():
            what = "would compile" if name in todo else "is as it should be:"
            console.print(f"{what} {model} to {asked.output / name}", soft_wrap=True)
        return
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as bars:
        config = Path(folder) / "options.toml"
        config.write_text(options)
        bars.stage(f"compiling {len(todo)} of {len(named)} models", len(todo))
        at_once = max(1, min(asked.at_once, len(todo)))
        inner = max(1, asked.at_once // at_once)

        def done(name: str, outcome: Outcome, seconds: float) -> None:
            rows[name] = _row(asked.output / name, rows[name], outcome, seconds)
            driver.write_report(asked.output, _report(rows))
            bars.advance(name)
            _tell(name, rows[name])

        commands = {
            name: _command(named[name], asked.output / name, config, inner, asked.cached) for name in todo
        }
        driver.run_all(commands, at_once, keep_going=asked.keep_going, on_done=done)
    report = _report(rows)
    driver.write_report(asked.output, report)
    _show(asked, report)
    for name, row in report.failures.items():
        raise _error(name, row)


def _command(model: Path, output: Path, config: Path, at_once: int, cached: bool) -> list[str]:
    start = _START.format(parent=os.getpid())
    own = ["--output", str(output), "--json", "--jobs", str(at_once)]
    own += ["--cache" if cached else "--no-cache"]
    # -P: what lies in the working folder is no module.
    head = [sys.executable, "-P", "-c", start, "--no-progress", "--config", str(config)]
    return [*head, "compile", *own, "--", str(model)]


def _report(rows: Mapping[str, Row]) -> Report:
    return Report(superlower=superlower.__version__, machine=target("cpu").title, rows=dict(rows))


def _row(folder: Path, row: Row, outcome: Outcome, seconds: float) -> Row:
    """What became of one model."""
    message = outcome.message.removeprefix("superlower: ")
    code = outcome.code
    if code < 0:
        message, code = f"its process was killed by signal {-code}", BuildFailedError.exit_code
    cells: list[Cell] = []
    checksum, found = "", _Compiled()
    try:
        found = msgspec.json.decode(outcome.document, type=_Compiled)
        manifest = Bundle.open(folder).manifest
        checksum = manifest.checksum
        cells += [cell_of(manifest, variant) for variant in manifest.variants]
        cells += [Cell(variant=name, failed=why) for name, why in found.failures.items()]
    except (msgspec.DecodeError, SuperlowerError):
        pass  # Nothing was written: the message says why.
    return msgspec.structs.replace(
        row,
        exit_code=code,
        error=message if code else "",
        cells=tuple(cells),
        checksum=checksum,
        built=found.cache.get("built", 0),
        found=found.cache.get("found", 0),
        seconds=round(seconds, 1),
    )


def counts(cache: EngineCache) -> dict[str, int]:
    """Of engines, as JSON tells them."""
    return {"built": cache.built, "found": cache.hits}


def report_of(
    output: Path, manifest: Manifest, failures: Mapping[str, str], cache: EngineCache | None
) -> Report:
    """The report of one model."""
    cells = [cell_of(manifest, variant) for variant in manifest.variants]
    cells += [Cell(variant=name, failed=why) for name, why in failures.items()]
    row = Row(
        model=manifest.model,
        key="",
        exit_code=1 if failures else 0,
        cells=tuple(cells),
        built=0 if cache is None else cache.built,
        found=0 if cache is None else cache.hits,
    )
    return _report({output.name: row})


def cell_of(manifest: Manifest, variant: Variant) -> Cell:
    """A variant of a bundle, as a matrix tells of it."""
    own = f"variants/{variant.name}/"
    return Cell(
        variant=variant.name,
        backend=" + ".join(variant.backends) if variant.race is not None else variant.backend,
        target=variant.target,
        precision=str(variant.precision),
        max_abs=max(variant.measured.max_abs) if variant.measured is not None else None,
        tolerance=variant.tolerance,
        floor_db=variant.floor_db,
        build_s=round(sum(engine.build_s for engine in variant.engines.values()), 1),
        bytes=sum(file.bytes for name, file in manifest.files.items() if name.startswith(own)),
        note=variant.unchecked,
    )


def _tell(name: str, row: Row) -> None:
    if row.exit_code:
        console.print(f"{name}: {row.error}", style="red", soft_wrap=True)
        return
    console.print(
        f"{name}: {len(row.cells)} variants, {row.built} engines built, {row.found} from the cache, "
        f"{row.seconds:.0f} s"
    )


def _show(asked: Asked, report: Report) -> None:
    if asked.html is not None:
        write(report, asked.html)
    if asked.json:
        print_json(msgspec.to_builtins(report))
    print_table(
        f"{asked.output}: {len(report.rows)} models",
        ("model", "variant", "engines", "largest error", "tolerance", "MB", "build s"),
        (line for name, row in report.rows.items() for line in _lines(name, row)),
    )
    kept = [name for name, row in report.rows.items() if row.kept]
    if kept:
        console.print(f"left as they were, for nothing has changed: {', '.join(kept)}", soft_wrap=True)
    if not_begun := [name for name, row in report.rows.items() if row.exit_code is None]:
        console.print(f"not compiled: {', '.join(not_begun)}; the same command goes on", soft_wrap=True)


def _lines(name: str, row: Row) -> list[tuple[str, ...]]:
    if not row.cells:
        return [(name, "", row.error or "not compiled", "", "", "", "")]
    return [
        (
            name,
            cell.variant,
            cell.failed or cell.backend,
            f"{cell.max_abs:.2g}" if isinstance(cell.max_abs, float) else cell.note,
            ""
            if cell.tolerance is None
            else f"{cell.tolerance:.2g}"
            if cell.floor_db is None
            else f"{cell.floor_db:.1f} dB",
            f"{cell.bytes / 1e6:.1f}",
            f"{cell.build_s:.1f}",
        )
        for cell in row.cells
    ]


def _error(name: str, row: Row) -> SuperlowerError:
    """The error of a model's process, by its exit code."""
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    known = {kind.exit_code: kind for kind in kinds if issubclass(kind, SuperlowerError)}
    return known.get(row.exit_code or 1, SuperlowerError)(f"{name}: {row.error}")
