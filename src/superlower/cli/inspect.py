"""superlower inspect: what a program folder, ONNX file or bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import MANIFEST_FILE
from superlower.cli.common import JsonFlag, console, parse_size, print_json, print_table
from superlower.errors import BadInputError
from superlower.frontends import onnx_files
from superlower.passes.pipelines import count
from superlower.program import analysis
from superlower.program.model import Program


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect")(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="Program folder, .onnx file or bundle.")],
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help="Predict memory at this HEIGHTxWIDTH; of an .onnx with free sizes, its own."
        ),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Predict memory for so many frames.")] = 30,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, help="And so many calls at a time.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Show a model's equations, what follows from them, and what a bundle has been built for."""
    if not path.exists():
        raise BadInputError(f"no such model or bundle: {path}")
    bundle = Bundle.open(path) if (path / MANIFEST_FILE).is_file() else None
    asked = parse_size(size) if size else None
    if bundle is not None:
        model = bundle.model()
    elif asked and path.is_file():
        model = onnx_files.load(path, height=asked[0], width=asked[1])
    else:
        model = onnx_files.load(path)
    program = model.program
    height, width = asked or (program.frame.height, program.frame.width)
    facts = analysis.analyze(program)
    peak = analysis.peak_bytes(program, frames, height, width, in_flight)
    nodes = {name: count(graph) for name, graph in model.graphs.items()}
    if json:
        print_json(
            {
                "program": program,
                "facts": facts,
                "peak_bytes": {"frames": frames, "size": [height, width], "bytes": peak},
                "nodes": nodes,
                "variants": bundle.manifest.variants if bundle else [],
            }
        )
        return
    frame = program.frame
    made = f"{frame.scale * frame.height}x{frame.scale * frame.width}"
    console.print(f"{program.name}: {frame.height}x{frame.width} to {made}")
    _equations(program)
    print_table(
        "streams",
        ("stream", "shape", "edge", "recurrence", "look-ahead", "state", "MB"),
        (
            (
                name,
                "x".join(map(str, program.sizes(name))),
                program.streams[name].edge,
                stream.direction,
                "whole clip" if stream.look_ahead is None else stream.look_ahead,
                "yes" if stream.state else "",
                f"{stream.nbytes / 1e6:.2f}",
            )
            for name, stream in facts.streams.items()
        ),
    )
    latency = "the whole clip" if facts.latency is None else f"{facts.latency} frames"
    console.print(f"latency: {latency}; batchable over frames: {', '.join(facts.batchable) or 'none'}")
    for a, b, d in facts.independent:
        console.print(f"independent: {a} at t, {b} at t{d:+d}" if d else f"independent: {a} and {b} at t")
    console.print(f"peak of the streams over {frames} frames at {height}x{width}: {peak / 1e6:.1f} MB")
    print_table(
        "graphs", ("graph", "nodes", "operators"), ((n, sum(c.values()), _ops(c)) for n, c in nodes.items())
    )
    if bundle:
        print_table(
            f"variants, checked against {bundle.manifest.golden.reference}",
            ("variant", "runs here", "largest error"),
            (
                (
                    v.name,
                    bundle.why_not(v) or "yes",
                    f"{max(v.measured.max_abs):.2g}" if v.measured else v.unchecked,
                )
                for v in bundle.manifest.variants
            ),
        )


def _equations(program: Program) -> None:
    for equation in program.equations:
        left = ", ".join(f"{stream}[t]" for stream in equation.outputs.values())
        right = ", ".join(f"{name}={read}" for name, read in equation.inputs.items())
        when = "" if equation.when == "true" else f"   when {equation.when}"
        console.print(f"  {left} = {equation.graph}({right}){when}")


def _ops(counts: dict[str, int]) -> str:
    return ", ".join(f"{op} {number}" for op, number in counts.items())
