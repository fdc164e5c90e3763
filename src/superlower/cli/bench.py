"""superlower bench: quality against ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
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
from superlower.driver.export import frontend
from superlower.errors import BadInputError
from superlower.frontends.base import ClipReference, ExportRequest
from superlower.frontends.weights import fetch_weights

bench = typer.Typer(help="Measure a bundle's engines.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(bench, name="bench")


@bench.command("quality")
def quality(
    bundle_path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    truth: Annotated[Path, typer.Option("--gt", help="Ground truth: folder of PNG frames, or video.")],
    degradation: Annotated[
        str, typer.Option("--degrade", help="bi, bd, bd13 or bd9: how the input is made of it.")
    ] = "bi",
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Default: all.")] = None,
    border: Annotated[int, typer.Option("--border", min=0, help="Output pixels left out at each edge.")] = 0,
    backend_names: BackendNames = None,
    weights: Annotated[
        str | None,
        typer.Option("--pytorch", help="Compare with PyTorch eager too, on these weights (as for `export`)."),
    ] = None,
    settings: Settings = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Frames a chunk.")] = None,
    look_ahead: Annotated[
        int | None, typer.Option("--look-ahead", min=0, help="Frames a chunk looks beyond its own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """PSNR and SSIM on luma of BUNDLE's engines: degrade the truth, upscale it, compare.

    Frames are scored one by one and averaged, on BT.601 luma of 8-bit RGB, as the papers do.
    """
    bundle = Bundle.open(bundle_path)
    if backend_names:
        chosen = [bundle.pick(backend_name=name) for name in backend_names]
    else:
        chosen = [v for v in bundle.manifest.variants if bundle.why_not(v) is None] or [bundle.pick()]
    clip = driver.read_truth(truth, bundle.program.frame, frames)
    reference = _reference(bundle, weights, parse_settings(settings)) if weights else None
    with Bars() as bars:
        rows = driver.measure(
            bundle,
            chosen,
            clip,
            degradation,
            border=border,
            reference=reference,
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
                "results": [
                    {
                        "variant": row.variant,
                        "psnr_y": row.quality.mean_psnr,
                        "ssim_y": row.quality.mean_ssim,
                        "psnr_y_frames": row.quality.psnr,
                        "ssim_y_frames": row.quality.ssim,
                        "max_abs_frames": row.max_abs,
                    }
                    for row in rows
                ],
            }
        )
        return
    print_table(
        f"{truth}, {len(clip)} frames, {degradation}",
        ("variant", "PSNR-Y dB", "SSIM-Y", "largest error against PyTorch"),
        (
            (
                row.variant,
                f"{row.quality.mean_psnr:.4f}",
                f"{row.quality.mean_ssim:.4f}",
                f"{max(row.max_abs):.2g}" if row.max_abs else "",
            )
            for row in rows
        ),
    )


def _reference(bundle: Bundle, weights: str, options: dict[str, str]) -> ClipReference:
    architecture = frontend(bundle.manifest.model)
    fetched = fetch_weights(weights, architecture)
    frame = bundle.program.frame
    known = bundle.program.provenance.get("weights_sha256")
    if known and fetched.sha256 and known != fetched.sha256:
        raise BadInputError(
            f"--pytorch {weights} isn't the checkpoint the bundle was exported from (sha256 differs)"
        )
    request = ExportRequest(
        weights=fetched.path, height=frame.height, width=frame.width, options=options, source=fetched.source
    )
    return architecture.reference(request)
