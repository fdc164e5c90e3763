"""superlower coverage: which node of a model each backend serves on each target, and how."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from superlower.backends import tables
from superlower.backends.base import Support
from superlower.backends.registry import backend, backends
from superlower.cli.common import (
    BackendNames,
    Bars,
    JsonFlag,
    console,
    parse_precisions,
    parse_size,
    parse_targets,
    print_json,
    print_table,
)
from superlower.driver.coverage import Cell, survey
from superlower.driver.probe import Refreshed, refresh, require_written
from superlower.errors import BadInputError, MissingSdkError, UnsupportedOperatorError
from superlower.frontends import onnx_files
from superlower.probes.cases import cases
from superlower.probes.tables import read
from superlower.report import coverage as view
from superlower.report.gather import machine
from superlower.report.html import require_writable, write_page
from superlower.targets.base import TYPES
from superlower.targets.catalog import targets as known_targets


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("coverage")(coverage)


def coverage(
    model: Annotated[Path | None, typer.Argument(help="Program folder or .onnx file.")] = None,
    targets: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Repeatable; see `targets`. Default: all.")
    ] = None,
    backend_names: BackendNames = None,
    precisions: Annotated[
        list[str] | None, typer.Option("--precision", "-p", help="Repeatable, or all. Default: fp32.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="For an .onnx with free sizes.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page, too.")] = None,
    from_tables: Annotated[
        bool, typer.Option("--from-tables", help="Answer from probe tables, though SDKs are here.")
    ] = False,
    refresh_tables: Annotated[
        bool, typer.Option("--refresh-tables", help="Probe the SDKs that are here, and write the tables.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--tables", help="Folder of probe tables, before superlower's own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say how each backend serves every node of MODEL on each target.

    Asks the SDK's own parser or compiler where it is installed, else a table of what probes of it found. A
    node that is computed wrongly is unsupported. Exit code 3 when a node is unsupported by a backend that
    serves the target.
    """
    chosen = [backend(name) for name in dict.fromkeys(backend_names)] if backend_names else backends()
    where = parse_targets(targets) if targets else known_targets()
    wanted = list(TYPES) if precisions == ["all"] else parse_precisions(precisions)
    height, width = parse_size(size) if size else (None, None)
    if model is None and not refresh_tables:
        raise BadInputError("give a program folder or an .onnx file, or --refresh-tables")
    if html is not None:
        require_writable(html)
    name, graphs = (
        onnx_files.load_graphs(model, height=height, width=width) if model is not None else ("", {})
    )
    document: dict[str, object] = {}
    with _tables(folder, forced=from_tables), Bars() as bars:
        if refresh_tables:
            found = refresh(chosen, folder or tables.shipped(), cases(), bars)
            document["tables"] = [_told(table) for table in found]
        elif folder is not None:
            _require_tables(folder)
        cells = survey(graphs, chosen, where, wanted, bars) if model is not None else []
    if model is not None:
        if backend_names:
            _require(cells)
        document |= {"model": name, **_document(cells)}
        if html is not None:
            versions = {} if from_tables else {k: v for sdk in chosen for k, v in sdk.versions().items()}
            page = view.render(cells, model=name, machine=machine(), versions=versions)
            write_page(page, html)
    if json:
        print_json(document)
    else:
        if refresh_tables:
            _show_refreshed(found)
        if model is not None:
            _show(cells)
    _refuse(cells)
    if refresh_tables:
        require_written(found)


@contextmanager
def _tables(folder: Path | None, *, forced: bool) -> Iterator[None]:
    """Where tables are and whether they are to answer, for this process and those it starts."""
    wanted = {tables.FOLDER: str(folder.absolute())} if folder else {}
    wanted |= {tables.FORCED: "1"} if forced else {}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _require_tables(folder: Path) -> None:
    """A folder given for its tables has some, and each can be read."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise BadInputError(f"no probe tables in {folder}: --refresh-tables --tables {folder} writes some")
    for file in files:
        read(file)


def _require(cells: Sequence[Cell]) -> None:
    """A backend asked for by name that could not be asked about anything is an error."""
    for name in dict.fromkeys(cell.backend for cell in cells):
        own = [cell for cell in cells if cell.backend == name]
        reason = next((cell.unasked for cell in own if cell.unasked is not None), None)
        if reason is not None and not any(cell.graphs for cell in own):
            raise MissingSdkError(reason)


def _refuse(cells: Sequence[Cell]) -> None:
    bad = [
        (cell, graph, node)
        for cell in cells
        for graph, nodes in cell.graphs.items()
        for node in nodes
        if node.support is Support.UNSUPPORTED
    ]
    if bad:
        cell, graph, node = bad[0]
        nodes = len({(graph, node.node) for _, graph, node in bad})
        count = "1 node is unsupported," if nodes == 1 else f"{nodes} nodes are unsupported, the first"
        raise UnsupportedOperatorError(
            f"{count} {node.op} '{node.node}' of graph {graph} "
            f"by {cell.backend} on {cell.target}: {node.detail}"
        )


def _document(cells: Sequence[Cell]) -> dict[str, object]:
    """The survey as docs/coverage.md describes it."""
    return {
        "cells": [
            {
                "backend": cell.backend,
                "target": cell.target,
                "precision": cell.precision,
                "verdict": cell.verdict,
                "unserved": cell.unserved,
                "unasked": cell.unasked,
                **{str(support): cell.count(support) for support in Support},
            }
            for cell in cells
        ],
        "nodes": [
            {
                "backend": cell.backend,
                "target": cell.target,
                "precision": cell.precision,
                "graph": graph,
                "node": node.node,
                "op": node.op,
                "support": node.support,
                "detail": node.detail,
                "source": node.source,
            }
            for cell in cells
            for graph, nodes in cell.graphs.items()
            for node in nodes
        ],
        "unserved": [
            (cell.backend, cell.target, cell.precision, cell.unserved or cell.unasked)
            for cell in cells
            if cell.unserved or cell.unasked
        ],
    }


def _show(cells: Sequence[Cell]) -> None:
    names, rows = view.matrix(cells)
    for precision in dict.fromkeys(row.precision for row in rows):
        shown = [row for row in rows if row.precision == precision]
        if any(cell.unserved is None for row in shown for cell in row.cells):
            # Five backends are narrower than ten targets, which a terminal has lines for.
            lines = zip(names, *([_cell(cell) for cell in row.cells] for row in shown), strict=True)
            print_table(f"coverage by target, {precision}", ("", *(row.backend for row in shown)), lines)
    operators, columns = view.by_operator(cells)
    # What is native throughout is said above; a column each of it would leave no room for the rest.
    telling = [column for column in columns if not column.native]
    if columns:
        totals = {op: max(sum(c.counts.get(op, {}).values()) for c in columns) for op in operators}
        print_table(
            "coverage by operator, where not all is native" if telling else "operators, all native",
            ("operator", "nodes", *(_title(column, names) for column in telling)),
            ((op, totals[op], *(_counts(c.counts.get(op, {})) for c in telling)) for op in operators),
        )
    for told in view.alike(view.reasons(cells)):
        first = told[0]
        counts = ", ".join(f"{reason.count} {reason.op}" for reason in told)
        console.print(
            f"{first.backend} {first.precision} {_listed(first.targets, names)}: {counts} {first.support} "
            f"({first.detail}), at {first.named}"
        )
    for near in view.nearest(cells):
        console.print(
            f"{near.backend} {_listed(near.targets, names)}: {near.count} {near.op} answered by the nearest "
            f"probe, {near.probe}"
        )
    for source, uses in view.sources(cells).items():
        console.print(f"from {source}: {', '.join(uses)}")
    several = len({cell.precision for cell in cells}) > 1
    for absence in view.absences(cells):
        verb = "doesn't serve" if absence.asked else "can't be asked about"
        where = _listed(absence.targets, names) + (f" at {', '.join(absence.precisions)}" if several else "")
        console.print(f"{absence.backend} {verb} {where}: {absence.reason}")


def _title(column: view.Column, names: Sequence[str]) -> str:
    return f"{column.backend} {column.precision} {_listed(column.targets, names)}"


def _cell(cell: Cell) -> str:
    return "-" if cell.unserved is not None else cell.verdict


def _listed(targets: Sequence[str], known: Sequence[str]) -> str:
    """Target names in words, short where they are all there are."""
    return "every target" if len(targets) == len(known) > 1 else ", ".join(targets)


def _counts(counts: Mapping[Support, int]) -> str:
    return ", ".join(f"{counts[support]} {support}" for support in Support if counts.get(support))


def _told(found: Refreshed) -> dict[str, object]:
    return {
        "backend": found.backend,
        "target": found.target,
        "path": str(found.path) if found.path else None,
        "reason": found.reason,
        "verdicts": dict(found.verdicts),
    }


def _show_refreshed(found: Sequence[Refreshed]) -> None:
    print_table(
        "probe tables",
        ("backend", "target", "cases", "table"),
        (
            (
                table.backend,
                table.target,
                ", ".join(f"{count} {verdict}" for verdict, count in sorted(table.verdicts.items())),
                table.path or table.reason,
            )
            for table in found
        ),
    )
