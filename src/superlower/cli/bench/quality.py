"""superlower bench quality: how near engines come to ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
from superlower.cli.bench.common import PyTorchWeights, chosen
from superlower.cli.common import (
    BackendNames,
    Bars,
    JsonFlag,
    Settings,
    parse_settings,
    print_json,
    print_table,
)
from superlower.driver import quality as driver
from superlower.driver.entrants import Checkpoint, reference
from superlower.metrics.scorers import DEFAULT, METRICS, scorers

_KEYS = {"psnr": "psnr_y", "ssim": "ssim_y"}
"""Where a metric is called otherwise in JSON: what it is taken on is part of the name."""


def quality(
    bundle_path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    truth: Annotated[Path, typer.Option("--gt", help="Ground truth: folder of PNG frames, or video.")],
    degradation: Annotated[
        str, typer.Option("--degrade", help="bi, bd, bd13 or bd9: how the input is made of it.")
    ] = "bi",
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Default: all.")] = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Some of psnr, ssim, lpips, tof, tlp and flicker, with commas.")
    ] = ",".join(DEFAULT),
    border: Annotated[int, typer.Option("--border", min=0, help="Output pixels left out at each edge.")] = 0,
    ends: Annotated[
        int, typer.Option("--ends", min=0, help="Frames left out of the scores at either end.")
    ] = 0,
    rounded: Annotated[bool, typer.Option("--rounded", help="Score luma in whole levels.")] = False,
    backend_names: BackendNames = None,
    weights: PyTorchWeights = None,
    settings: Settings = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Frames a chunk.")] = None,
    look_ahead: Annotated[
        int | None, typer.Option("--look-ahead", min=0, help="Frames a chunk looks beyond its own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """How near BUNDLE's engines come to ground truth: degrade the truth, upscale it, compare.

    Frames are scored one by one and averaged, as the papers do; PSNR and SSIM on BT.601 luma of 8-bit RGB.
    """
    asked = [name.strip() for name in metrics.split(",") if name.strip()]
    scorers(asked)  # refused before a clip is read
    bundle = Bundle.open(bundle_path)
    variants = chosen(bundle, backend_names)
    clip = driver.read_truth(truth, bundle.program.frame, frames)
    checkpoint = Checkpoint(weights=weights, options=parse_settings(settings)) if weights else None
    original = reference(bundle, checkpoint) if checkpoint else None
    with Bars() as bars:
        rows = driver.measure(
            bundle,
            variants,
            clip,
            degradation,
            metrics=asked,
            border=border,
            ends=ends,
            rounded=rounded,
            reference=original,
            chunk=chunk,
            look_ahead=look_ahead,
            progress=bars,
        )
    if json:
        print_json(
            {
                "bundle": bundle_path,
                "truth": truth,
                "degradation": degradation,
                "frames": len(clip),
                "border": border,
                "ends": ends,
                "rounded": rounded,
                "results": [
                    {
                        "variant": row.variant,
                        **{_KEYS.get(name, name): row.quality.mean(name) for name in row.quality.scores},
                        **{f"{_KEYS.get(n, n)}_frames": found for n, found in row.quality.scores.items()},
                        "max_abs_frames": row.max_abs,
                    }
                    for row in rows
                ],
            }
        )
        return
    shown = list(rows[0].quality.scores)
    print_table(
        f"{truth}, {len(clip)} frames, {degradation}",
        ("variant", *(METRICS[name].title for name in shown), "largest error against PyTorch"),
        (
            (
                row.variant,
                *(f"{row.quality.mean(name):.4f}" for name in shown),
                f"{max(row.max_abs):.2g}" if row.max_abs else "",
            )
            for row in rows
        ),
    )
