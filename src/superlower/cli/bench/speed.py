"""superlower bench speed: engines side by side with PyTorch and with SDKs as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.cli.bench.common import (
    Files,
    Folder,
    MarkdownFile,
    PlotFile,
    PyTorchWeights,
    chosen,
    surroundings,
    versions,
)
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
from superlower.driver.entrants import Checkpoint, Entrant, Kind, asked
from superlower.driver.flops import clip_macs, graph_macs
from superlower.driver.side_by_side import Entry, Peak, Placed, place, precision_of
from superlower.driver.speed import PYTORCH, SpeedRow, back_and_forth, like_engines
from superlower.errors import BadInputError, unknown_name
from superlower.program.files import write_model
from superlower.report import speed_pages

RIVALS = {
    Kind.EAGER: PYTORCH,
    Kind.COMPILE: "torch.compile fp32",
    Kind.ONNXRUNTIME: "ONNX Runtime, as exported",
    Kind.OPENVINO: "OpenVINO, as exported",
}
"""Whom engines are compared with, and what they are called."""

PLAIN = frozenset((Kind.ONNXRUNTIME, Kind.OPENVINO))
"""Those that run the graphs as exported; each is named as the backend of its SDK."""

ALL = "all"


def speed(
    bundle_path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    backend_names: BackendNames = None,
    weights: PyTorchWeights = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="With --pytorch, whom to compare with: eager, compile (torch.compile), onnxruntime and "
            "openvino (the graphs as exported, without our passes), or all; repeatable. Default: eager.",
        ),
    ] = None,
    settings: Settings = None,
    frames: Annotated[int, typer.Option("--frames", min=2, help="Of the clip each run upscales.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed runs of each, in turns.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Time whole clips alone: no first frame, memory or peak.")
    ] = False,
    folder: Folder = None,
    markdown: MarkdownFile = None,
    plot: PlotFile = None,
    json: JsonFlag = False,
) -> None:
    """Time a frame of BUNDLE's engines, and of PyTorch if asked: in turns, after one round to warm up.

    The clip is the bundle's golden one. Ratios are taken within a round, against the first contender. Each is
    also run once in a fresh process, for the time to its first frame and its memory.
    """
    rivals = _rivals(against, weights)
    files = Files.of("speed", folder, markdown, plot)
    bundle = Bundle.open(bundle_path)
    variants = chosen(bundle, backend_names)
    checkpoint = Checkpoint(weights=weights, options=parse_settings(settings)) if weights else None
    clip = back_and_forth(bundle.golden().frames, frames)
    gflop = 2e-9 * clip_macs(bundle.model(), frames)
    about = surroundings()
    with tempfile.TemporaryDirectory(prefix="superlower-speed-") as made, Bars() as progress:
        entrants = _entrants(bundle, variants, rivals, checkpoint, Path(made), progress)
        entries = [Entry(e, precision_of(e, bundle), bundle, clip, gflop) for e in entrants]
        placed, peaks = place(entries, rounds=rounds, quick=quick, progress=progress)
    table = [one.speed for one in placed if one.speed is not None]
    rates = _rates(bundle, table)
    sdks = sorted({name for v in variants for name in v.backends} | {k.value for k in rivals if k in PLAIN})
    size = bundle.program.frame
    packages = versions(sdks, torch=checkpoint is not None)
    result = {
        "bundle": bundle_path,
        **about,
        "versions": packages,
        "height": size.height,
        "width": size.width,
        "frames": len(clip),
        "rounds": rounds,
        "gflop": gflop / len(clip),
        "results": [_plain(one) for one in placed if one.speed is not None],
        "absent": [{"name": one.name, "why": one.why} for one in placed if one.why],
        "peaks": peaks,
        "gflops_s": rates,
    }
    title = (
        f"{bundle.program.name} {size.height}x{size.width}, {len(clip)} frames, {rounds} rounds in turns, "
        f"{about['machine']}"
    )
    page = speed_pages.Page(
        title,
        placed,
        peaks,
        gflop / len(clip),
        str(about["system"]),
        packages,
        float(about["load_average"]),
    )
    files.write(result, page.markdown(), page.plot())
    if json:
        print_json(result)
    else:
        _print(title, placed, peaks, table, rates)


def _rivals(names: Sequence[str] | None, weights: str | None) -> list[Kind]:
    if names and weights is None:
        raise BadInputError("--against compares with the network itself: say which weights by --pytorch")
    if weights is None:
        return []
    asked_for = [part.strip() for name in names or ["eager"] for part in name.split(",") if part.strip()]
    for name in asked_for:
        if name not in (*RIVALS, ALL):
            raise unknown_name("contender", name, [*RIVALS, ALL])
    return [kind for kind in RIVALS if ALL in asked_for or kind.value in asked_for]


def _entrants(
    bundle: Bundle,
    variants: Sequence[Variant],
    rivals: Sequence[Kind],
    checkpoint: Checkpoint | None,
    made: Path,
    progress: Bars,
) -> list[Entrant]:
    where, threads = str(bundle.folder.resolve()), like_engines(variants)
    found = []
    if PLAIN & set(rivals):
        assert checkpoint is not None
        progress.stage("exporting to ONNX")
        architecture, request = asked(bundle, checkpoint)
        write_model(architecture.export(request), made)
    for kind in rivals:
        found.append(
            Entrant(
                name=RIVALS[kind],
                kind=kind,
                bundle=where,
                checkpoint=checkpoint,
                exported=str(made),
                threads=threads,
            )
        )
    return found + [Entrant(name=v.name, kind=Kind.VARIANT, bundle=where, variant=v.name) for v in variants]


def _plain(one: Placed) -> dict[str, object]:
    """A row of the JSON: the times in turns, and what else was measured."""
    assert one.speed is not None
    return {
        **asdict(one.speed),
        "precision": one.precision,
        "whole_gflops_s": one.gflops_s,
        "of_peak": one.of_peak,
        "fresh": None if one.fresh is None else msgspec.to_builtins(one.fresh),
    }


def _print(
    title: str,
    placed: Sequence[Placed],
    peaks: Sequence[Peak],
    table: Sequence[SpeedRow],
    rates: Mapping[str, Mapping[str, float]],
) -> None:
    print_table(title, speed_pages.columns(placed), speed_pages.cells(placed))
    for row in table:
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
    for line in speed_pages.peak_lines(peaks):
        console.print(line, markup=False)
    console.print("Figures are medians; GFLOP/s are the convolutions' operations over the whole call.")
    if table[0].name == PYTORCH:
        others = {row.threads for row in table[1:]} - {None}
        alike = "as the engines have" if others <= {table[0].threads} else "the engines differ"
        console.print(f"PyTorch was set to {table[0].threads} threads: {alike}.")


def _whole(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0f}"


def _rates(bundle: Bundle, rows: Sequence[SpeedRow]) -> dict[str, dict[str, float]]:
    """GFLOP/s of each contender's equations: their convolutions' operations over their calls' whole time.

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
