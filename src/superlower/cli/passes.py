"""superlower passes: what passes there are, or what they do to a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from superlower import plugins
from superlower.bundle.golden import moving_texture
from superlower.bundle.manifest import PassRecord
from superlower.cli.common import (
    Bars,
    JsonFlag,
    Seed,
    console,
    parse_settings,
    parse_size,
    print_json,
    print_table,
)
from superlower.cli.pass_options import check_owners, chosen_pass, quality_lines
from superlower.driver.records import record_of
from superlower.driver.reference import validation_feeds
from superlower.driver.rewriting import measure
from superlower.frontends import onnx_files
from superlower.passes.base import Budget, QualityBudget
from superlower.passes.pipelines import apply, default_pipeline, known_passes
from superlower.rewrites.base import ProgramPass

CLIP = 8
"""Frames that program passes are validated and timed on."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("passes")(passes)


def passes(
    explain: Annotated[
        Path | None,
        typer.Option("--explain", help="Program folder or .onnx: run the default passes, print node counts."),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="For an .onnx with free sizes.")] = None,
    programs: Annotated[
        list[str] | None,
        typer.Option(
            "--pass", help="With --explain: a program pass (hoist-frames) to run first, timed; repeatable."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="PASS.OPTION=VALUE of a --pass; repeatable."),
    ] = None,
    seed: Seed = 0,
    json: JsonFlag = False,
) -> None:
    """List the passes with their error budgets, or explain what they do to a model."""
    if explain is None:
        _list(json)
        return
    height, width = parse_size(size) if size else (None, None)
    model = onnx_files.load(explain, height=height, width=width)
    given = parse_settings(settings)
    check_owners(given, programs or (), "--pass")
    rewrites = [_program_pass(name, given) for name in programs or ()]
    records = []
    gain = None
    with Bars() as bars:
        if rewrites:
            clip = moving_texture(model.program.frame, CLIP, seed)
            gain = measure(model, rewrites, clip, progress=bars)
            records += [record_of(model.program.name, report) for report in gain.reports]
            model = gain.model
        bars.stage("capturing inputs for validation")
        feeds = validation_feeds(model, moving_texture(model.program.frame, 3, seed), seed)
        pipeline = default_pipeline()
        bars.stage("passes", len(pipeline) * len(model.graphs))
        for name, graph in model.graphs.items():
            _, reports = apply(graph, pipeline, feeds[name], on_pass=lambda report: bars.advance(report.name))
            records += [record_of(name, report) for report in reports]
    if json:
        print_json(
            records if gain is None else {"passes": records, "before": gain.before, "after": gain.after}
        )
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
                f"{r.quality.db:.3f} dB" if r.quality else f"{r.measured:.2g}",
                f"{r.quality.budget_db:g} dB" if r.quality else f"{r.budget or 0:.2g}",
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
    if gain is not None:
        for record in records[: len(gain.reports)]:
            console.print(f"{record.graph} {record.name}:{_options(record)}", markup=False)
            for site in record.rewritten:
                console.print(f"{record.graph} {record.name}: {site}", markup=False)
        for line in quality_lines(records):
            console.print(line, markup=False, soft_wrap=True)
        console.print(
            f"a frame: {gain.before.flops / 1e9:.4g} -> {gain.after.flops / 1e9:.4g} GFLOP, "
            f"{gain.before.ms:.4g} -> {gain.after.ms:.4g} ms in ONNX Runtime ({gain.ratio:.2f} times as fast)"
        )


def _program_pass(name: str, settings: Mapping[str, str]) -> ProgramPass:
    plugins.load("program pass", name)  # A graph pass isn't one.
    return cast(ProgramPass, chosen_pass(name, settings))


def _options(record: PassRecord) -> str:
    return "".join(f" {name}={value}" for name, value in record.options.items())


def _budget(budget: Budget | QualityBudget) -> str:
    if isinstance(budget, QualityBudget):
        return f"{budget.db:g} dB"
    return f"{budget.relative:.2g}" if budget.relative else "exact"


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
                _budget(entry.budget),
                ", ".join(f"{name}={value}" for name, value in entry.options.items()),
            )
            for entry in entries
        ),
    )
