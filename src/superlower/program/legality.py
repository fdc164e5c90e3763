"""What makes a program legal, and a clear error for each way it may not be."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm

import onnx_ir as ir

from superlower.errors import BadInputError, unknown_name
from superlower.ir import io_shapes
from superlower.program import when
from superlower.program.model import Equation, Program, TemporalModel
from superlower.program.routes import Routing
from superlower.program.unroll import Element, Unrolled

LONGEST_HORIZON = 400
"""Programs that take more frames than this to show all they do are refused: they can't be verified."""


def period(program: Program) -> int:
    """Frames after which the program's predicates repeat, away from a clip's ends."""
    return lcm(*(m for e in program.equations for m in when.moduli(e.when)), 1)


def horizon(program: Program) -> int:
    """A clip length at which every behaviour of the program's reads and predicates has shown.

    A chain of reads that runs through each equation once reaches as far as their largest offsets together,
    and predicates are periodic between bounded ends: twice the period, the largest constants and that reach
    cover a start, a whole period and an end that don't touch.

    Raises:
        BadInputError: longer than `LONGEST_HORIZON`.
    """
    reach = sum(max((abs(r.offset) for r in e.reads.values()), default=0) for e in program.equations)
    bound = max((abs(c) for e in program.equations for c in when.constants(e.when)), default=0)
    frames = 2 * period(program) + 2 * max(reach, bound) + 3
    if frames > LONGEST_HORIZON:
        raise BadInputError(
            f"the program takes {frames} frames to show all it does, by its offsets and the constants and "
            f"periods of its when predicates; at most {LONGEST_HORIZON} can be verified: use smaller ones"
        )
    return frames


def verify(program: Program) -> None:
    """Check everything the equations alone can show.

    Raises:
        BadInputError: unknown or unwritten stream, two writers, cyclic read, unreachable output, dead
            equation.
    """
    _check_names(program)
    used: set[str] = set()
    for frames in range(1, horizon(program) + 1):
        unrolled = Unrolled(program, frames)
        for stream in program.streams:
            for t in range(frames):
                unrolled.writer(Element(stream, t))
        wanted = [Element(program.output, t) for t in range(frames)]
        for element in wanted:
            if unrolled.writer(element) is None:
                raise BadInputError(
                    f"unreachable output: no equation writes {element} in a clip of {frames} frames; "
                    f"its equations' when predicates must cover every t"
                )
        used |= {call.equation for call in unrolled.order(wanted)}
    dead = [e.name for e in program.equations if e.name not in used]
    if dead:
        raise BadInputError(f"equation {dead[0]} never reaches the output {program.output}: remove it")


def _check_names(program: Program) -> None:
    names = [e.name for e in program.equations]
    for name in names:
        if names.count(name) > 1:
            raise BadInputError(f"two equations are called {name}: names are unique")
    for role, stream in (("input", program.input), ("output", program.output)):
        if stream not in program.streams:
            raise unknown_name(f"{role} stream", stream, program.streams)
    if program.frame.pixels is not None:
        finite = program.streams.get(program.frame.pixels.finite)
        if finite is None:
            raise unknown_name("stream (of pixels.finite)", program.frame.pixels.finite, program.streams)
        if finite.shape != (1, 1, 1, 1) or finite.dtype != "float32":
            raise BadInputError(
                f"stream {program.frame.pixels.finite} (of pixels.finite) is {finite.dtype} "
                f"{list(finite.shape)}, not float32 [1, 1, 1, 1]"
            )
    for stream, declared in program.streams.items():
        declared.sizes(*program.frame.padded)
        written = any(stream in e.outputs.values() for e in program.equations)
        if stream == program.input and written:
            raise BadInputError(f"the input stream {stream} is written by an equation")
        if stream != program.input and not written:
            raise BadInputError(f"no equation writes stream {stream}: remove it or write it")
    for equation in program.equations:
        when.parse(equation.when)
        if len(set(equation.outputs.values())) != len(equation.outputs):
            raise BadInputError(f"equation {equation.name} writes one stream twice")
        for read in equation.reads.values():
            if read.stream not in program.streams:
                raise unknown_name(f"stream (read by equation {equation.name})", read.stream, program.streams)
        for stream in equation.outputs.values():
            if stream not in program.streams:
                raise unknown_name(f"stream (written by equation {equation.name})", stream, program.streams)
        if equation.route is not None:
            Routing(program, equation)
        elif not equation.graph:
            raise BadInputError(f"equation {equation.name} calls no graph: name one, or give it a route")


def verify_graphs(model: TemporalModel) -> None:
    """Check that every graph called is there and has the names, shapes and types its equations give it.

    Raises:
        BadInputError: missing graph, missing or extra graph input or output, shape or type clash.
    """
    program = model.program
    contract = program.frame
    height, width = contract.padded
    scale = contract.scale
    taken: tuple[int, ...] = (1, contract.channels, height, width)
    made: tuple[int, ...] = (1, contract.channels, scale * height, scale * width)
    if contract.pixels is not None:
        taken = (1, contract.height, contract.width, contract.channels)
        made = (1, scale * contract.height, scale * contract.width, contract.channels)
    for stream, sizes in ((program.input, taken), (program.output, made)):
        if program.sizes(stream) != sizes:
            raise BadInputError(
                f"shape clash: stream {stream} is {_x(program.sizes(stream))}, "
                f"the frame contract says {_x(sizes)}"
            )
        if contract.pixels is not None and program.streams[stream].dtype != "uint8":
            raise BadInputError(
                f"type clash: stream {stream} is {program.streams[stream].dtype}, pixels are uint8"
            )
    for equation in program.equations:
        reads = {name: equation.reads[name].stream for name in equation.inputs}
        for name, (takes, makes) in called_sizes(program, equation).items():
            graph = model.graphs.get(name)
            if graph is None:
                raise BadInputError(f"missing graph: equation {equation.name} calls '{name}'")
            inputs, outputs = io_shapes(graph)
            _match(program, equation, name, "input", reads, takes, inputs, graph)
            _match(program, equation, name, "output", equation.outputs, makes, outputs, graph)


Sizes = dict[str, tuple[int, ...]]


def called_sizes(program: Program, equation: Equation) -> dict[str, tuple[Sizes, Sizes]]:
    """Graph -> shapes of its inputs and of its outputs by name, as an equation calls it.

    A routed equation calls its route's graphs on windows.
    """
    reads = equation.reads
    found = {}
    if equation.graph:
        found[equation.graph] = (
            {name: program.sizes(reads[name].stream) for name in equation.inputs},
            {name: program.sizes(stream) for name, stream in equation.outputs.items()},
        )
    if equation.route is not None:
        routing = Routing(program, equation)
        found |= dict.fromkeys(equation.route.graphs, (routing.input_sizes, routing.output_sizes))
    return found


def _match(
    program: Program,
    equation: Equation,
    graph: str,
    role: str,
    given: Mapping[str, str],
    wanted: Sizes,
    found: Mapping[str, tuple[int, ...]],
    model: ir.Model,
) -> None:
    for name in given:
        if name not in found:
            raise BadInputError(
                f"equation {equation.name} names {role} '{name}', which graph {graph} doesn't have "
                f"({', '.join(found)})"
            )
    missing = [name for name in found if name not in given]
    if missing and role == "input":
        raise BadInputError(
            f"equation {equation.name} gives graph {graph} no value for its input '{missing[0]}'"
        )
    values = {v.name: v for v in (*model.graph.inputs, *model.graph.outputs)}
    for name, stream in given.items():
        if found[name] != wanted[name]:
            what = "stream" if graph == equation.graph else "a window of stream"
            raise BadInputError(
                f"shape clash: {role} '{name}' of graph {graph} is {_x(found[name])}, "
                f"{what} {stream} of equation {equation.name} is {_x(wanted[name])}"
            )
        dtype = values[name].dtype
        if dtype is not None and dtype.numpy().name != program.streams[stream].dtype:
            raise BadInputError(
                f"type clash: {role} '{name}' of graph {graph} is {dtype.numpy().name}, "
                f"stream {stream} of equation {equation.name} is {program.streams[stream].dtype}"
            )


def _x(sizes: tuple[int, ...]) -> str:
    return "x".join("?" if s < 0 else str(s) for s in sizes)
