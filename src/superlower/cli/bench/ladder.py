"""superlower bench ladder: what each step to a faster network brings and costs."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from superlower import plugins
from superlower.bundle.bundle import Bundle
from superlower.cli.bench.common import Files, surroundings, versions
from superlower.cli.common import (
    Bars,
    BudgetDb,
    JsonFlag,
    Seed,
    Settings,
    console,
    parse_settings,
    parse_size,
    print_json,
    print_table,
)
from superlower.driver.entrants import Checkpoint
from superlower.driver.export import frontend
from superlower.driver.ladder import Step, climb
from superlower.driver.ladder_build import Asked
from superlower.driver.ladder_plan import PYTORCH_BACKEND, Ladder, read, stored
from superlower.driver.quality import DEGRADATIONS
from superlower.driver.quantization import BUDGET_DB
from superlower.driver.windows import clip_path
from superlower.errors import BadInputError, unknown_name
from superlower.report.ladder_pages import Page, cells, columns, published_table
from superlower.report.speed_pages import peak_lines


def ladder(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An architecture; see `models`.")],
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="Checkpoint, as for `export`; random:0 for seeded.")
    ] = None,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH of a low-resolution frame.")] = "144x176",
    pruned: Annotated[
        str | None, typer.Option("--pruned", help="Checkpoint that `prune` made, for the pruned rungs.")
    ] = None,
    truth: Annotated[
        list[str] | None,
        typer.Option(
            "--truth",
            help="Clip at the output's size, or a sample by name, to score on; repeatable.",
        ),
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option("--calibrate", help="Clip that int8 is calibrated on; best another one.")
    ] = None,
    budget: BudgetDb = BUDGET_DB,
    degradation: Annotated[
        str,
        typer.Option("--degradation", help="How clips are shrunk: bi, bd, bd13 or bd9."),
    ] = "bi",
    settings: Settings = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundle", help="Bundle of MODEL to take engines from before any is built; repeatable."
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", min=2, help="Of the clip that each timed run upscales.")
    ] = 4,
    scored: Annotated[
        int | None, typer.Option("--scored", min=1, help="Frames of each --truth to score. Default: all.")
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, help="Timed runs of each, in turns; 0: build and score alone.")
    ] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Time whole clips alone: no memory and no share of the peak.")
    ] = False,
    rungs: Annotated[
        Path | None, typer.Option("--rungs", help="TOML file with another ladder than superlower's own.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Rungs whose names hold this text, besides the first; repeatable."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for the result as JSON, Markdown and a plot, and for bundles and scores, which a "
            "further run takes up again.",
        ),
    ] = None,
    seed: Seed = 0,
    json: JsonFlag = False,
) -> None:
    """Each step to a faster MODEL, all in one run: its cost, time, memory, dB lost, and how many times as
    fast as PyTorch eager in fp32 it is, beside the published ladder.

    A rung that can't be had says why in its row.
    """
    if degradation not in DEGRADATIONS:
        raise unknown_name("degradation", degradation, DEGRADATIONS)
    wanted_ladder = _only(read(rungs) if rungs else stored(), only)
    height, width = parse_size(size)
    architecture = frontend(model)
    location = weights or (architecture.checkpoints[0].name if architecture.checkpoints else "random:0")
    options = parse_settings(settings)
    progress = Bars()
    wanted = Asked(
        model=model,
        whole=Checkpoint(weights=location, options=options),
        height=height,
        width=width,
        pruned=Checkpoint(weights=pruned) if pruned else None,
        truth=tuple(str(clip_path(name, progress)) for name in truth or ()),
        calibrate=str(clip_path(calibrate, progress)) if calibrate else None,
        budget_db=budget,
        degradation=degradation,
        seed=seed,
    )
    files = Files.of("ladder", folder, None, None)
    about = surroundings()
    with ExitStack() as stack:
        made = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="superlower-ladder-")))
        stack.enter_context(progress)
        found = climb(
            wanted,
            wanted_ladder,
            made / "bundles",
            clip_frames=frames,
            scored_frames=scored,
            rounds=rounds,
            progress=progress,
            given=[Bundle.open(path) for path in bundles or ()],
            quick=quick,
        )
    sdks = sorted({r.backend for r in wanted_ladder.rung} & set(plugins.table("backend")))
    packages = versions(sdks, torch=any(r.backend == PYTORCH_BACKEND for r in wanted_ladder.rung))
    title = f"{model} {size}, {frames} frames, {rounds} rounds in turns, {about['machine']}"
    result = {
        "model": model,
        "weights": location,
        "pruned": pruned,
        "truth": [Path(clip).name for clip in wanted.truth],
        "calibrated_on": Path(wanted.calibrate).name if wanted.calibrate else None,
        "budget_db": budget,
        **about,
        "versions": packages,
        "height": height,
        "width": width,
        "frames": frames,
        "rounds": rounds,
        "results": [_plain(step) for step in found.steps],
        "peaks": found.peaks,
        "published": wanted_ladder.published,
    }
    page = Page(
        title,
        found,
        wanted_ladder.published,
        str(about["system"]),
        packages,
        float(about["load_average"]),
    )
    files.write(result, page.markdown(), page.plot())
    if json:
        print_json(result)
        return
    print_table(title, columns(found.steps), cells(found.steps))
    if wanted_ladder.published is not None:
        print_table(f"published: {wanted_ladder.published.name}", *published_table(wanted_ladder.published))
    for line in peak_lines(found.peaks):
        console.print(line, markup=False)


def _only(wanted: Ladder, texts: list[str] | None) -> Ladder:
    if not texts:
        return wanted
    kept = tuple(
        rung for i, rung in enumerate(wanted.rung) if i == 0 or any(text in rung.name for text in texts)
    )
    if len(kept) == 1:
        names = ", ".join(rung.name for rung in wanted.rung[1:])
        raise BadInputError(f"--only {texts[0]}: no rung has that in its name; there are {names}")
    return msgspec.structs.replace(wanted, rung=kept)


def _plain(step: Step) -> dict[str, object]:
    """A row of the JSON."""
    placed = step.placed
    return {
        "rung": msgspec.to_builtins(step.rung),
        "why": step.why or None,
        "parameters": step.parameters,
        "gflop": step.gflop,
        "speed": asdict(placed.speed) if placed and placed.speed else None,
        "fresh": msgspec.to_builtins(placed.fresh) if placed and placed.fresh else None,
        "whole_gflops_s": placed.gflops_s if placed else None,
        "of_peak": placed.of_peak if placed else None,
        "scores": msgspec.to_builtins(dict(step.scores)),
        "change_db": dict(step.change_db),
        "change_ssim": dict(step.change_ssim),
        "own_db": step.own_db,
        "published_stage": step.stage.name if step.stage else None,
        "published_ratio": step.published_ratio,
    }
