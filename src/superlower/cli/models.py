"""superlower models: the architectures, what each is and costs, and published costs beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from superlower import plugins
from superlower.cli.common import (
    Bars,
    JsonFlag,
    Settings,
    console,
    parse_settings,
    parse_size,
    print_equations,
    print_json,
    print_table,
)
from superlower.driver.export import frontend
from superlower.driver.published import Compared, compare
from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.figures import CLIP, HEIGHT, WIDTH, Figures, Planned, measure, stored_of
from superlower.program.analysis import directions, peak_bytes

_SIZE = (HEIGHT, WIDTH)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("models")(models)


def models(
    name: Annotated[str | None, typer.Argument(help="Show this one in detail.")] = None,
    flops: Annotated[
        bool, typer.Option("--flops", help="Published costs beside ours, counted as they were.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option("--size", help=f"Costs at this low-resolution HEIGHTxWIDTH. Default: {HEIGHT}x{WIDTH}."),
    ] = None,
    settings: Settings = None,
    json: JsonFlag = False,
) -> None:
    """List the architectures: parameters, operations a frame, look-ahead, states, published checkpoints.

    The list needs no SDK. Costs at another size, with other options and for --flops are counted on the
    networks, which needs PyTorch. A multiply-accumulate is two operations; convolutions are counted.
    """
    height, width = parse_size(size) if size else _SIZE
    options = parse_settings(settings)
    if options and name is None:
        raise BadInputError("--set is for one model: name it (superlower models NAME --set KEY=VALUE)")
    if flops and (name or size):
        raise BadInputError("--flops compares at the sizes that were published: leave NAME and --size out")
    if flops:
        with Bars() as bars:
            rows = compare(progress=bars)
        _published(rows, json)
    elif name:
        architecture = frontend(name)
        _detail(architecture, _figures(architecture, options, height, width), json)
    else:
        found = [frontend(known) for known in plugins.table("frontend")]
        if (height, width) == _SIZE:
            costs = {a.name: _figures(a, {}, height, width) for a in found}
        else:
            with Bars() as bars:
                bars.stage("counting", len(found))
                costs = {}
                for architecture in found:
                    costs[architecture.name] = _figures(architecture, {}, height, width)
                    bars.advance(architecture.name)
        _list(found, costs, (height, width), json)


def _figures(
    architecture: ZooFrontend, options: Mapping[str, str], height: int, width: int
) -> Figures | None:
    """Stored figures, or counted ones for what isn't stored; None for a third party's that can't say."""
    known = stored_of(architecture.name, options) if (height, width) == _SIZE else None
    if known is not None or (not isinstance(architecture, Planned) and not options):
        return known
    return measure(architecture, options, height, width)


def _list(
    found: list[ZooFrontend], costs: Mapping[str, Figures | None], size: tuple[int, int], json: bool
) -> None:
    if json:
        print_json([_about(a, costs[a.name]) for a in found])
        return
    print_table(
        f"models; GFLOPs a frame at {size[0]}x{size[1]}",
        ("name", "title", "scale", "parameters", "GFLOPs", "look-ahead", "states", "checkpoints"),
        (
            (
                a.name,
                a.title,
                a.scale,
                *_cells(costs[a.name]),
                ", ".join(f"{c.name} ({c.license})" for c in a.checkpoints) or "none known",
            )
            for a in found
        ),
    )
    console.print(
        f"Where the whole clip is needed, GFLOPs are means over {CLIP} frames. --flops: published costs."
    )


def _cells(cost: Figures | None) -> tuple[str, ...]:
    if cost is None:
        return ("", "", "", "")
    return (
        f"{cost.parameters:,}",
        f"{_gflops(cost):,.1f}",
        "whole clip" if cost.look_ahead is None else str(cost.look_ahead),
        ", ".join(cost.states),
    )


def _gflops(cost: Figures) -> float:
    return 2 * cost.macs_a_frame / 1e9


def _about(architecture: ZooFrontend, cost: Figures | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": architecture.name,
        "title": architecture.title,
        "paper": architecture.paper,
        "scale": architecture.scale,
        "missing": architecture.missing(),
        "checkpoints": architecture.checkpoints,
    }
    if cost is None:
        return found
    frame = cost.program.frame
    return found | {
        "options": cost.options,
        "parameters": cost.parameters,
        "height": frame.height,
        "width": frame.width,
        "gflops_a_frame": _gflops(cost),
        "look_ahead": "whole clip" if cost.look_ahead is None else cost.look_ahead,
        "states": cost.states,
    }


def _peak(cost: Figures) -> int:
    return peak_bytes(cost.program, CLIP, cost.program.frame.height, cost.program.frame.width)


def _detail(architecture: ZooFrontend, cost: Figures | None, json: bool) -> None:
    if json:
        found = _about(architecture, cost)
        if cost is not None:
            found["gmacs_a_call"] = _calls(cost)
            found["program"] = cost.program
            found["peak_bytes"] = {"frames": CLIP, "bytes": _peak(cost)}
        print_json(found)
        return
    console.print(f"{architecture.name}: {architecture.title} x{architecture.scale}, {architecture.paper}")
    for kind in type(architecture).__mro__[:-1]:  # options stand where several architectures share them
        console.print(" ".join((kind.__doc__ or "").split()))
    if (reason := architecture.missing()) is not None:
        console.print(reason)
    if architecture.checkpoints:
        print_table(
            "checkpoints",
            ("name", "trained on", "licence", "location"),
            ((c.name, c.trained_on, c.license, c.location) for c in architecture.checkpoints),
        )
    if cost is not None:
        _cost(cost)


def _calls(cost: Figures) -> dict[str, float]:
    return {graph: count / 1e9 for graph, count in cost.macs.items()}


def _cost(cost: Figures) -> None:
    program = cost.program
    frame = program.frame
    chosen = "".join(f", {key}={value}" for key, value in cost.options.items())
    print_equations(program)
    running = directions(program)
    print_table(
        f"streams at {frame.height}x{frame.width}{chosen}",
        ("stream", "shape", "edge", "recurrence", "state", "MB"),
        (
            (
                name,
                "x".join(map(str, program.sizes(name))),
                stream.edge,
                running[name],
                "yes" if name in cost.states else "",
                f"{stream.nbytes(*frame.padded) / 1e6:.2f}",
            )
            for name, stream in program.streams.items()
        ),
    )
    print_table("a call", ("graph", "GMACs"), ((g, f"{gmacs:.3f}") for g, gmacs in _calls(cost).items()))
    ahead = "the whole clip" if cost.look_ahead is None else f"{cost.look_ahead} frames"
    gflops = f"{_gflops(cost):,.1f} GFLOPs ({cost.macs_a_frame / 1e9:,.1f} GMACs) a frame"
    console.print(f"{cost.parameters:,} parameters; {gflops}; look-ahead: {ahead}")
    console.print(f"peak of the streams over {CLIP} frames: {_peak(cost) / 1e6:.1f} MB")


def _published(rows: list[Compared], json: bool) -> None:
    if json:
        print_json([msgspec.to_builtins(row) | {"difference": row.difference} for row in rows])
        return
    print_table(
        "published costs a frame, and ours counted by the same rule",
        ("network", "size", "published", "ours", "difference", "rule", "source", "note"),
        (
            (
                row.what,
                f"{row.height}x{row.width}",
                _value(row, row.published),
                _value(row, row.computed),
                f"{row.difference:+.2%}",
                row.rule,
                row.source,
                row.note,
            )
            for row in rows
        ),
    )


def _value(row: Compared, value: float) -> str:
    return f"{value:.2%}" if row.unit == "share" else f"{value:.2f} {row.unit}"
