"""superlower inspect: what a program folder, ONNX file, bundle or engine holds, and what it must cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import typer

from superlower import ir as graphs
from superlower.backends.tvm.cubin import DeviceCode
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import MANIFEST_FILE
from superlower.cli.common import JsonFlag, console, parse_size, print_equations, print_json, print_table
from superlower.driver.flops import Work
from superlower.driver.inspect_engine import SUFFIXES, EngineView, LayerView, inspect_engine
from superlower.driver.inspect_model import ModelCost, lone_cost, model_cost
from superlower.driver.memory import RUNTIMES, legalized, predict
from superlower.errors import BadInputError
from superlower.frontends import onnx_files
from superlower.frontends.contract import shape_text
from superlower.passes.pipelines import count
from superlower.program import analysis
from superlower.program.model import TemporalModel
from superlower.targets.base import TYPES, Precision
from superlower.targets.catalog import targets


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect")(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="Program folder, .onnx file, bundle, or an engine's file.")],
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help="Predict memory at this HEIGHTxWIDTH; of an .onnx with free sizes, its own."
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", min=1, help="Predict memory and calls for so many frames.")
    ] = 30,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, help="And so many calls at a time.")] = 1,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every node with its cost.")] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every fused layer and every GPU function of engines.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show a model's equations, what follows from them, what it must cost, and what engines hold."""
    if not path.exists():
        raise BadInputError(f"no such model or bundle: {path}")
    if path.is_file() and path.suffix in SUFFIXES:
        engines = {"": inspect_engine(path)}
        if json:
            print_json({"engine": engine_json(engines[""])})
        else:
            _engines(engines, layers)
        return
    bundle = Bundle.open(path) if (path / MANIFEST_FILE).is_file() else None
    asked = parse_size(size) if size else None
    if bundle is not None:
        model = bundle.model()
    elif path.is_file() and (graph := _no_program(path)) is not None:
        _lone(path, graph, nodes, json)
        return
    elif asked and path.is_file():
        model = onnx_files.load(path, height=asked[0], width=asked[1])
    else:
        model = onnx_files.load(path)
    cost = model_cost(model, frames)
    engines = _bundled(bundle) if bundle else {}
    height, width = asked or (model.program.frame.height, model.program.frame.width)
    peak = analysis.peak_bytes(model.program, frames, height, width, in_flight)
    if json:
        print_json(
            {
                "program": model.program,
                "facts": analysis.analyze(model.program),
                "peak_bytes": {"frames": frames, "size": [height, width], "bytes": peak},
                "nodes": {name: count(graph) for name, graph in model.graphs.items()},
                **cost_json(cost, frames, nodes),
                "variants": bundle.manifest.variants if bundle else [],
                "engines": {name: engine_json(view) for name, view in engines.items()},
            }
        )
        return
    _program(model)
    console.print(f"peak of the streams over {frames} frames at {height}x{width}: {peak / 1e6:.1f} MB")
    _memory(model, frames, (height, width), in_flight)
    print_table(
        "graphs",
        ("graph", "nodes", "operators"),
        ((name, len(graph.graph), _ops(count(graph))) for name, graph in model.graphs.items()),
    )
    routed = any(equation.route is not None for equation in model.program.equations)
    most = ", every patch at the last graph of its route" if routed else ""
    _cost(cost, f"; calls for a frame, over {frames}{most}", nodes)
    if bundle and routed:
        _routed(bundle, model, cost)
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
        for v in bundle.manifest.variants:
            if v.race is not None:
                console.print(f"{v.name} is {v.race.reason}", markup=False, soft_wrap=True)
        _engines(engines, layers)


def _memory(model: TemporalModel, frames: int, size: tuple[int, int], in_flight: int) -> None:
    try:
        peaks = {
            name: predict(legalized(model, name), name, frames, size, in_flight=in_flight)
            for name in RUNTIMES
        }
    except BadInputError as error:
        console.print(f"no prediction of the process's memory: {error}", markup=False)
        return
    print_table(
        f"predicted peak of the process over {frames} frames at {size[0]}x{size[1]}, on a CPU in fp32, MB",
        ("backend", "runtime", "engines", "streams", "in all"),
        (
            (name, *(f"{part / 1e6:.0f}" for part in (p.process, p.engines, p.streams, p.total)))
            for name, p in peaks.items()
        ),
    )


def _no_program(path: Path) -> ir.Model | None:
    """The graph of an ONNX file that isn't a frame's upscaler by itself: one of a program's, or an engine."""
    graph = graphs.load(path)
    inputs, outputs = graphs.io_shapes(graph)
    shapes = [*inputs.values(), *outputs.values()]
    return graph if len(inputs) != 1 or len(outputs) != 1 or any(len(s) != 4 for s in shapes) else None


def _lone(path: Path, graph: ir.Model, nodes: bool, json: bool) -> None:
    inputs, outputs = graphs.io_shapes(graph)
    cost = lone_cost(path.stem, graph)
    if json:
        print_json(
            {
                "graph": {"inputs": inputs, "outputs": outputs},
                "nodes": {path.stem: count(graph)},
                **cost_json(cost, 1, nodes),
            }
        )
        return
    for role, shapes in (("input", inputs), ("output", outputs)):
        for name, shape in shapes.items():
            console.print(f"{role} {name}: {shape_text(shape)}")
    print_table("graph", ("nodes", "operators"), [(len(graph.graph), _ops(count(graph)))])
    _cost(cost, "", nodes)


def _program(model: TemporalModel) -> None:
    program = model.program
    facts = analysis.analyze(program)
    frame = program.frame
    made = f"{frame.scale * frame.height}x{frame.scale * frame.width}"
    console.print(f"{program.name}: {frame.height}x{frame.width} to {made}")
    print_equations(program)
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
    free: dict[str, list[str]] = {}
    for a, b, d in facts.independent:
        free.setdefault(a, []).append(f"{b} at t{d:+d}" if d else f"{b} at t")
    for a, others in free.items():
        console.print(f"independent of {a} at t: {', '.join(others)}")


def _routed(bundle: Bundle, model: TemporalModel, most: ModelCost) -> None:
    golden = bundle.golden()
    cost = model_cost(model, len(golden.frames), golden.choices)
    for stream, elements in golden.choices.items():
        console.print(f"{stream}: {np.mean([e != 0 for e in elements]):.1%} of the golden clip's patches run")
    console.print(f"{cost.total / 1e9:.2f} GFLOPs a frame of that clip, {most.total / 1e9:.2f} at the most")


def _ops(counts: dict[str, int]) -> str:
    return ", ".join(f"{op} {number}" for op, number in counts.items())


_SHORT = {
    Work.CONV: "conv",
    Work.DEFORM_CONV: "deform",
    Work.MATMUL: "matmul",
    Work.ELEMENTWISE: "other",
}


def _cost(cost: ModelCost, calls: str, nodes: bool) -> None:
    kinds = [kind for kind in Work if cost.flops[kind] or kind is Work.ELEMENTWISE]
    rows = [
        (
            name,
            f"{cost.calls[name]:.3g}",
            *(f"{one.flops[kind] / 1e9:.2f}" for kind in kinds),
            *(f"{amount.nbytes() / 1e6:.1f}" for amount in (one.weights, one.moved, one.least)),
            f"{one.intensity():.0f}",
        )
        for name, one in cost.graphs.items()
    ]
    frame = (
        "a frame",
        "",
        *(f"{cost.flops[kind] / 1e9:.2f}" for kind in kinds),
        "",
        f"{cost.moved_bytes() / 1e6:.1f}",
        f"{cost.least_bytes() / 1e6:.1f}",
        f"{cost.total / max(1.0, cost.least_bytes()):.0f}",
    )
    print_table(
        f"cost of one call{calls}: GFLOPs by kind, MB in fp32",
        ("graph", "calls", *(_SHORT[kind] for kind in kinds), "weights", "unfused", "least", "FLOPs/B"),
        [*rows, frame],
    )
    for name, one in cost.graphs.items():
        if one.uncounted:
            console.print(f"not counted in {name}, of unknown sizes: {', '.join(one.uncounted)}")
    if nodes:
        print_table(
            "nodes",
            ("graph", "node", "operator", "MFLOPs", "MB"),
            (
                (name, node.node, node.op, f"{node.total / 1e6:.2f}", f"{node.moved.nbytes() / 1e6:.2f}")
                for name, one in cost.graphs.items()
                for node in one.nodes
            ),
        )
    _rooflines(cost)


def _rooflines(cost: ModelCost) -> None:
    every = targets()
    bounds = {(bound.target, bound.precision): bound for bound in cost.bounds(every)}
    known = [target for target in every if any(name == target.name for name, _ in bounds)]

    def cell(target: str, precision: Precision) -> str:
        bound = bounds.get((target, precision))
        return "" if bound is None else f"{bound.seconds * 1e3:.3g}{'' if bound.limit == 'compute' else ' m'}"

    print_table(
        "least ms a frame at peak rates (m: at peak bandwidth)",
        ("target", *TYPES),
        ((target.name, *(cell(target.name, precision) for precision in TYPES)) for target in known),
    )
    unknown = [target.name for target in every if target not in known]
    if unknown:
        console.print(f"without peaks in the catalogue: {', '.join(unknown)}")


def _bundled(bundle: Bundle) -> dict[str, EngineView]:
    """VARIANT/GRAPH -> its engine, of those whose formats are known."""
    found = {}
    for variant in bundle.manifest.variants:
        for graph, artifact in variant.engines.items():
            file = bundle.folder / "variants" / variant.name / graph / artifact.files.get("engine", "")
            if file.suffix in (*SUFFIXES, ".onnx"):
                found[f"{variant.name}/{graph}"] = inspect_engine(file)
    return found


def _engines(engines: dict[str, EngineView], every: bool) -> None:
    for name, view in engines.items():
        console.print(f"{name or view.file}: {view.kind}, {view.nbytes / 1e6:.1f} MB")
        for role, tensors in (("input", view.inputs), ("output", view.outputs)):
            for tensor, text in (tensors or {}).items() if not name else ():
                console.print(f"  {role} {tensor}{': ' if text else ''}{text}")
        for code in view.device_code:
            console.print(f"  {code.kind} {code.arch} {_kernels(code)}")
        if view.layers:
            kinds = ", ".join(f"{kind} {number}" for kind, (number, _) in view.types.items())
            console.print(f"  {len(view.layers)} layers: {kinds}")
            for layer in view.heaviest() if view.fused or not name else ():
                console.print(f"    {layer.nbytes / 1e6:8.2f} MB  {_short(layer)}")
        if view.note:
            console.print(f"  {view.note}")
    if not every:
        return
    for name, view in engines.items():
        if view.layers:
            print_table(
                f"layers of {name or view.file}",
                ("layer", "type", "writes", "MB"),
                ((_short(x), x.type, x.dtype, f"{x.nbytes / 1e6:.2f}") for x in view.layers),
            )
        for code in view.device_code:
            if code.kernels:
                print_table(
                    f"{code.arch} of {name or view.file}",
                    ("function", "registers", "shared bytes", "code bytes"),
                    ((k.name, k.registers, k.shared_bytes, k.code_bytes) for k in code.kernels),
                )


def _kernels(code: DeviceCode) -> str:
    size = f"{code.nbytes / 1e6:.2f} MB"
    if not code.kernels:
        return size
    registers = max(kernel.registers for kernel in code.kernels)
    shared = max(kernel.shared_bytes for kernel in code.kernels) / 1024
    return f"{len(code.kernels)} kernels, {size}; up to {registers} registers, {shared:.1f} KB shared"


def _short(layer: LayerView) -> str:
    """A layer as people can read it: TensorRT's names are of several hundred characters."""
    text = " + ".join(layer.nodes) or layer.name
    return text if len(text) <= 60 else f"{text[:28]} … {text[-29:]}"


def cost_json(cost: ModelCost, frames: int, nodes: bool) -> dict[str, Any]:
    """A model's cost as `--json` has it: operations, bytes in fp32, seconds."""
    return {
        "costs": {
            name: {
                "calls_per_frame": cost.calls[name],
                "flops": one.flops,
                "weight_bytes": one.weights.nbytes(),
                "unfused_bytes": one.moved.nbytes(),
                "least_bytes": one.least.nbytes(),
                "flops_per_byte": one.intensity(),
                "uncounted": one.uncounted,
                "nodes": [
                    {"node": n.node, "op": n.op, "flops": n.total, "bytes": n.moved.nbytes()}
                    for n in one.nodes
                    if nodes
                ],
            }
            for name, one in cost.graphs.items()
        },
        "per_frame": {
            "frames": frames,
            "flops": cost.flops,
            "unfused_bytes": cost.moved_bytes(),
            "least_bytes": cost.least_bytes(),
        },
        "roofline": [
            {
                "target": bound.target,
                "precision": bound.precision,
                "seconds": bound.seconds,
                "limit": bound.limit,
                "graphs": {n: {"seconds": b.seconds, "limit": b.limit} for n, b in bound.graphs.items()},
            }
            for bound in cost.bounds(targets())
        ],
    }


def engine_json(view: EngineView) -> dict[str, Any]:
    """An engine as `--json` has it."""
    return {
        "file": view.file,
        "kind": view.kind,
        "bytes": view.nbytes,
        "inputs": view.inputs,
        "outputs": view.outputs,
        "layers": view.layers,
        "device_code": view.device_code,
        "note": view.note,
    }
