"""superlower passes: what passes there are, or what they do to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.golden import moving_texture
from superlower.cli.common import Bars, JsonFlag, Seed, console, parse_size, print_json, print_table
from superlower.driver.compile import record_of
from superlower.driver.reference import validation_feeds
from superlower.frontends import onnx_files
from superlower.passes.pipelines import apply, default_pipeline, known_passes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("passes")(passes)


def passes(
    explain: Annotated[
        Path | None,
        typer.Option("--explain", help="Program folder or .onnx: run the default passes, print node counts."),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="For an .onnx with free sizes.")] = None,
    seed: Seed = 0,
    json: JsonFlag = False,
) -> None:
    """List the passes with their error budgets, or explain what they do to a model."""
    if explain is None:
        _list(json)
        return
    height, width = parse_size(size) if size else (None, None)
    model = onnx_files.load(explain, height=height, width=width)
    records = []
    with Bars() as bars:
        bars.stage("capturing inputs for validation")
        feeds = validation_feeds(model, moving_texture(model.program.frame, 3, seed), seed)
        pipeline = default_pipeline()
        bars.stage("passes", len(pipeline) * len(model.graphs))
        for name, graph in model.graphs.items():
            _, reports = apply(graph, pipeline, feeds[name], on_pass=lambda report: bars.advance(report.name))
            records += [record_of(name, report) for report in reports]
    if json:
        print_json(records)
        return
    print_table(
        f"passes on {explain}",
        ("graph", "pass", "nodes", "rewritten", "refused", "moved outputs by", "budget"),
        (
            (
                r.graph,
                r.name,
                f"{sum(r.nodes_before.values())} -> {sum(r.nodes_after.values())}",
                len(r.rewritten),
                len(r.refused),
                f"{r.measured:.2g}",
                f"{r.budget:.2g}",
            )
            for r in records
        ),
    )
    for r in records:
        changed = {
            op: (r.nodes_before.get(op, 0), r.nodes_after.get(op, 0))
            for op in sorted({*r.nodes_before, *r.nodes_after})
            if r.nodes_before.get(op, 0) != r.nodes_after.get(op, 0)
        }
        if changed:
            counts = ", ".join(f"{op} {before} -> {after}" for op, (before, after) in changed.items())
            console.print(f"{r.graph} {r.name}: {counts}")
        for site in r.refused:
            console.print(f"{r.graph} {r.name} refused {site}")


def _list(json: bool) -> None:
    entries = known_passes()
    if json:
        print_json(entries)
        return
    print_table(
        "passes",
        ("name", "what it does", "budget", "options"),
        (
            (
                entry.name + (f" ({entry.missing})" if entry.missing else ""),
                entry.summary,
                f"{entry.budget.relative:.2g}" if entry.budget.relative else "exact",
                ", ".join(f"{name}={value}" for name, value in entry.options.items()),
            )
            for entry in entries
        ),
    )
