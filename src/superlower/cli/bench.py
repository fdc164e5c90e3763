"""superlower bench: quality against ground truth, and speed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.cli.common import (
    BackendNames,
    Bars,
    JsonFlag,
    Settings,
    console,
    parse_settings,
    print_json,
    print_table,
)
from superlower.driver import quality as driver
from superlower.driver.export import frontend
from superlower.driver.flops import graph_macs
from superlower.driver.speed import PYTORCH, SpeedRow, back_and_forth, contenders, race
from superlower.errors import BadInputError
from superlower.frontends.base import ClipReference, ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.metrics.scorers import DEFAULT, METRICS, scorers
from superlower.targets.catalog import target

PyTorchWeights = Annotated[
    str | None,
    typer.Option("--pytorch", help="Compare with PyTorch eager too, on these weights (as for `export`)."),
]

_KEYS = {"psnr": "psnr_y", "ssim": "ssim_y"}
"""Where a metric is called otherwise in JSON: what it is taken on is part of the name."""

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
    chosen = _chosen(bundle, backend_names)
    clip = driver.read_truth(truth, bundle.program.frame, frames)
    reference = _reference(bundle, weights, parse_settings(settings)) if weights else None
    with Bars() as bars:
        rows = driver.measure(
            bundle,
            chosen,
            clip,
            degradation,
            metrics=asked,
            border=border,
            ends=ends,
            rounded=rounded,
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


@bench.command("speed")
def speed(
    bundle_path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    backend_names: BackendNames = None,
    weights: PyTorchWeights = None,
    settings: Settings = None,
    frames: Annotated[int, typer.Option("--frames", min=2, help="Of the clip each run upscales.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed runs of each, in turns.")] = 5,
    json: JsonFlag = False,
) -> None:
    """Time a frame of BUNDLE's engines, and of PyTorch if asked: in turns, after one round to warm up.

    The clip is the bundle's golden one. Ratios are taken within a round, against the first contender.
    """
    bundle = Bundle.open(bundle_path)
    chosen = _chosen(bundle, backend_names)
    reference = _reference(bundle, weights, parse_settings(settings)) if weights else None
    clip = back_and_forth(bundle.golden().frames, frames)
    with Bars() as bars, contenders(bundle, chosen, clip, reference) as ready:
        rows = race(ready, len(clip), rounds=rounds, progress=bars)
    machine = target("cpu").title
    names = {name for variant in chosen for name in variant.backends}
    versions = {k: v for name in sorted(names) for k, v in backend(name).versions().items()}
    if reference is not None:
        versions["torch"] = importlib.metadata.version("torch")
    rates = _rates(bundle, rows)
    if json:
        print_json(
            {
                "bundle": bundle_path,
                "machine": machine,
                "versions": versions,
                "height": bundle.program.frame.height,
                "width": bundle.program.frame.width,
                "frames": len(clip),
                "rounds": rounds,
                "results": rows,
                "gflops_s": rates,
            }
        )
    else:
        _print_speed(bundle, rows, rates, machine, len(clip))


def _print_speed(
    bundle: Bundle,
    rows: list[SpeedRow],
    rates: Mapping[str, Mapping[str, float]],
    machine: str,
    frames: int,
) -> None:
    size = f"{bundle.program.frame.height}x{bundle.program.frame.width}"
    print_table(
        f"{bundle.program.name} {size}, {frames} frames, {len(rows[0].rounds_ms)} rounds in turns, {machine}",
        ("variant", "threads", "ms a frame (range)", f"times as fast as {rows[0].name} (range)"),
        (
            (
                row.name,
                row.threads or "",
                f"{row.ms:.1f} ({min(row.rounds_ms):.1f} to {max(row.rounds_ms):.1f})",
                f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})",
            )
            for row in rows
        ),
    )
    for row in rows:
        if row.equations:
            print_table(
                f"equations of {row.name}",
                ("equation", "calls a clip", "ms a call", "share", "GFLOP/s"),
                (
                    (
                        name,
                        time.calls,
                        f"{time.ms:.1f}",
                        f"{time.share:.1%}",
                        _whole(rates[row.name].get(name)),
                    )
                    for name, time in row.equations.items()
                ),
            )
        for name, shares in row.chosen.items():
            console.print(f"{name} of {row.name} ran for {1 - shares[0]:.1%} of the patches", markup=False)
    console.print("Figures are medians; GFLOP/s are the convolutions' operations over the whole call.")
    if rows[0].name == PYTORCH:
        others = {row.threads for row in rows[1:]} - {None}
        alike = "as the engines have" if others <= {rows[0].threads} else "the engines differ"
        console.print(f"PyTorch was set to {rows[0].threads} threads: {alike}.")


def _whole(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0f}"


def _rates(bundle: Bundle, rows: list[SpeedRow]) -> dict[str, dict[str, float]]:
    """GFLOP/s of each variant's equations: their convolutions' operations over their calls' whole time.

    None for equations with a route, whose calls differ.
    """
    macs = graph_macs(bundle.model())
    graphs = {e.name: e.graph for e in bundle.program.equations if e.route is None}
    return {
        row.name: {
            name: 2 * macs[graphs[name]] / time.ms / 1e6
            for name, time in row.equations.items()
            if name in graphs
        }
        for row in rows
        if row.equations
    }


def _chosen(bundle: Bundle, names: list[str] | None) -> list[Variant]:
    """The variants that run here, of the backends named or of all.

    Raises:
        BadInputError: a backend that the bundle has no variant of.
        MissingSdkError: one of which none runs here.
    """
    for name in names or ():
        bundle.pick(backend_name=name)
    running = [v for v in bundle.manifest.variants if bundle.why_not(v) is None]
    return [v for v in running if not names or v.backend in names] or [bundle.pick()]


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
