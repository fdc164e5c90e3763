"""superlower plan: the tile and chunk with which a video is upscaled within a limit of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import MANIFEST_FILE
from superlower.cli.common import (
    JsonFlag,
    console,
    parse_bytes,
    parse_size,
    print_json,
    print_table,
)
from superlower.driver.memory import RUNTIMES, legalized
from superlower.driver.memory_plan import Plan, Request, plan_memory
from superlower.errors import BadInputError, unknown_name
from superlower.frontends import onnx_files


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan")(plan)


def plan(
    model: Annotated[Path, typer.Argument(help="Program folder of any size, .onnx file, or bundle.")],
    size: Annotated[str, typer.Option("--size", help="Of the video, HEIGHTxWIDTH.")],
    max_memory: Annotated[str, typer.Option("--max-memory", help="Of the whole process, as 4GB.")],
    backends: Annotated[
        list[str] | None,
        typer.Option("--backend", "-b", help=f"Default: each of {', '.join(RUNTIMES)}; repeatable."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Of the video; default: many.")
    ] = None,
    tile_overlap: Annotated[
        int | None, typer.Option("--tile-overlap", min=0, help="Pixels that tiles see beyond their own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Choose the tile and chunk of least work with which `upscale` stays within a limit, in fp32 on a CPU.

    Nothing is built: `export --size TILE` and `compile` do that.
    """
    height, width = parse_size(size)
    limit = parse_bytes(max_memory)
    for name in backends or ():
        if name not in RUNTIMES:
            raise unknown_name("backend whose memory is predicted", name, RUNTIMES)
    if not model.exists():
        raise BadInputError(f"no such model or bundle: {model}")
    bundle = (model / MANIFEST_FILE).is_file()
    loaded = Bundle.open(model).model() if bundle else onnx_files.load(model)
    found = {
        name: plan_memory(
            Request(legalized(loaded, name), name, (height, width), limit, frames, tile_overlap)
        )
        for name in backends or RUNTIMES
    }
    if json:
        print_json({"size": [height, width], "max_memory": limit, "plans": found})
        return
    print_table(
        f"{loaded.program.name} at {height}x{width} within {limit / 1e9:.3g} GB",
        ("backend", "tile", "tiles", "overlap", "chunk", "look-ahead", "work", "peak MB"),
        (
            (
                name,
                f"{one.tile[0]}x{one.tile[1]}",
                f"{one.rows}x{one.columns}",
                "" if one.cut.tile_overlap is None else str(one.cut.tile_overlap),
                "whole clip" if one.cut.chunk is None else str(one.cut.chunk),
                str(one.cut.look_ahead or ""),
                f"{one.work:.2f}",
                f"{one.peak.total / 1e6:.0f}",
            )
            for name, one in found.items()
        ),
    )
    for name, one in found.items():
        console.print(f"{name}: {describe(one)}", markup=False)


def describe(plan: Plan) -> str:
    """A plan's memory, part by part."""
    peak = plan.peak
    return (
        f"runtime {peak.process / 1e6:.0f} MB, engines {peak.engines / 1e6:.0f}, streams "
        f"{peak.streams / 1e6:.0f}, video {peak.video / 1e6:.0f}"
        + (f" with rc-lookahead={plan.cut.encoder_ahead}" if plan.cut.encoder_ahead is not None else "")
    )
