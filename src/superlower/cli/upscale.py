"""superlower upscale: video through a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
from superlower.cli.common import (
    Bars,
    DryRun,
    JsonFlag,
    Settings,
    console,
    parse_bytes,
    parse_settings,
    print_json,
)
from superlower.driver import upscale as driver
from superlower.driver.chunking import Chunking
from superlower.errors import BadInputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("upscale")(upscale)


def _quality(value: int) -> int:
    # What any encoder knows; the one that is chosen may know less.
    if not 0 <= value <= 63:
        raise BadInputError(f"--crf {value}: write 0 (best) to 63")
    return value


def upscale(
    bundle_path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    source: Annotated[Path, typer.Option("-i", "--input", help="Video file, or folder of PNG frames.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Video file, or folder for PNG frames.")],
    backend_name: Annotated[
        str | None, typer.Option("--backend", "-b", help="Backend; default: the bundle's first that fits.")
    ] = None,
    variant_name: Annotated[str | None, typer.Option("--variant", help="Variant by its name.")] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Stop after so many.")] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            help="Of the whole process, decoding and encoding included, where its engines' memory is "
            "predicted (ONNX Runtime, OpenVINO, CPU), else of the clip's states: it is cut in chunks beyond. "
            "Default: 4GB of states.",
        ),
    ] = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Frames a chunk.")] = None,
    look_ahead: Annotated[
        int | None, typer.Option("--look-ahead", min=0, help="Frames a chunk looks beyond its own.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option("--in-flight", min=1, help="Calls at the same time. Default: as the plan has it, or 1."),
    ] = None,
    planned: Annotated[
        bool, typer.Option("--plan/--no-plan", help="Whether to follow the bundle's plan.")
    ] = True,
    codec: Annotated[str, typer.Option("--codec", help="Video encoder.")] = "libx264",
    crf: Annotated[
        int, typer.Option("--crf", callback=_quality, help="Encoder's quality, 0 to 63; lower is better.")
    ] = 16,
    pixel_format: Annotated[str | None, typer.Option("--pixel-format", help="As yuv420p.")] = None,
    settings: Settings = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Go on past damage in the source.")
    ] = False,
    tile_overlap: Annotated[
        int | None,
        typer.Option(
            "--tile-overlap",
            min=0,
            help="Pixels that tiles of a video larger than the bundle's frame see beyond their own.",
        ),
    ] = None,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Upscale a video with BUNDLE's engines; sound, subtitles and frame times are kept."""
    bundle = Bundle.open(bundle_path)
    variant = bundle.pick(variant_name, backend_name)
    memory, encoder_options = parse_bytes(max_memory) if max_memory else None, parse_settings(settings)
    if dry_run:
        plan = driver.plan(
            bundle,
            variant,
            source,
            output,
            memory=memory,
            chunk=chunk,
            look_ahead=look_ahead,
            limit=frames,
            in_flight=in_flight,
            planned=planned,
            codec=codec,
            crf=crf,
            pixel_format=pixel_format,
            codec_options=encoder_options,
            overwrite=overwrite,
            allow_damaged=allow_damaged,
            tile_overlap=tile_overlap,
        )
        if json:
            print_json({"output": output, "variant": variant.name, "chunking": plan})
        console.print(f"would upscale {source} with {variant.name}: {_describe(plan)}")
        return
    with Bars() as bars:
        done = driver.upscale(
            bundle,
            variant,
            source,
            output,
            memory=memory,
            chunk=chunk,
            look_ahead=look_ahead,
            limit=frames,
            in_flight=in_flight,
            planned=planned,
            codec=codec,
            crf=crf,
            pixel_format=pixel_format,
            codec_options=encoder_options,
            overwrite=overwrite,
            allow_damaged=allow_damaged,
            tile_overlap=tile_overlap,
            progress=bars,
        )
    if json:
        print_json({"output": output, "variant": variant.name, "result": done})
    console.print(
        f"{output}: {done.frames} frames by {variant.name} in {done.seconds:.1f} s "
        f"({done.frames / done.seconds:.2f} a second); {_describe(done.chunking)}, "
        f"{done.peak_bytes / 1e6:.0f} MB measured",
    )
    for equation, share in done.ran.items():
        console.print(f"{equation} ran for {share:.1%} of the patches", markup=False)


def _describe(plan: Chunking) -> str:
    cut = "the whole clip in one go" if plan.chunk is None else f"chunks of {plan.chunk} frames"
    ahead = f", looking {plan.look_ahead} ahead" if plan.look_ahead else ""
    tiled = ""
    if plan.tile_pixels is not None:
        tiled = (
            f" in {plan.tiles} tiles, {plan.tile_overlap} pixels beyond each: {plan.tile_pixels:.1f} times "
            f"the frame's pixels"
        )
    whole = f", the process {plan.process_bytes / 1e6:.0f}" if plan.process_bytes is not None else ""
    encoder = f", rc-lookahead={plan.encoder_ahead}" if plan.encoder_ahead is not None else ""
    return f"{cut}{ahead}{tiled}, states at most {plan.predicted_bytes / 1e6:.0f} MB{whole}{encoder}"
