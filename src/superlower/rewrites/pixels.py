"""A program over pictures: pixels in and out, converted by its graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.media.tensors import levels
from superlower.program import legality
from superlower.program.model import Edge, Equation, Frame, Pixels, Program, Read, Stream, TemporalModel
from superlower.rewrites._names import unused

Array = NDArray[np.generic]


def over_pixels(model: TemporalModel) -> TemporalModel:
    """The model over uint8 pictures, `model` itself being left as it is.

    ::

        output[t] = net(frame[t])
        ->  picture[t], finite[t] = net'(pixels[t])
            with net' = levels(crop(net(pad(table[pixels]))))

    Every graph that reads a frame looks its values up in a table of 256 and turns them to planes; every graph
    that makes the output crops, clamps, scales, rounds half to even and casts it. That is `to_tensor` and
    `from_tensor` of `superlower.media.tensors`, operator by operator: where the graphs' own arithmetic is the
    same, the pictures are equal bit for bit. A rounded NaN looks like any level, so the sum of what was
    rounded comes with it, which is finite only where all of it is.

    Raises:
        BadInputError: colour other than RGB, frames that routes read or that are zeros beyond the clip where
            black isn't 0, a graph input that is fed frames and other streams.
    """
    program, contract = model.program, model.program.frame
    _refuse(program)
    graphs = {name: graph.clone() for name, graph in model.graphs.items()}
    taken = set(program.streams)
    source, picture, finite = (unused(name, taken) for name in ("pixels", "picture", "finite"))
    for graph, given in _readers(program).items():
        for name in given:
            _look_up(graphs[graph], name, contract)
    kept = any(r.stream == program.output for e in program.equations for r in e.reads.values())
    made: dict[str, tuple[str, str, str]] = {}
    equations = []
    for equation in program.equations:
        inputs = dict(_renamed(equation, n, program.input, source) for n in equation.inputs)
        outputs = dict(equation.outputs)
        for name in [n for n, stream in equation.outputs.items() if stream == program.output]:
            if equation.graph not in made:
                made[equation.graph] = (name, *_round(graphs[equation.graph], name, contract, kept))
            known, rounded, total = made[equation.graph]
            if known != name:
                raise BadInputError(f"graph '{equation.graph}' makes the picture in two ways")
            if not kept:
                del outputs[name]
            outputs |= {rounded: picture, total: finite}
        equations.append(msgspec.structs.replace(equation, inputs=inputs, outputs=outputs))
    streams = dict(program.streams)
    edge = streams.pop(program.input).edge
    if not kept:
        del streams[program.output]
    sides = contract.height, contract.width
    larger = tuple(contract.scale * side for side in sides)
    streams[source] = Stream(shape=(1, *sides, contract.channels), dtype="uint8", edge=edge)
    streams[picture] = Stream(shape=(1, *larger, contract.channels), dtype="uint8")
    streams[finite] = Stream(shape=(1, 1, 1, 1))
    fused = TemporalModel(
        msgspec.structs.replace(
            program,
            frame=msgspec.structs.replace(contract, pixels=Pixels(finite=finite)),
            input=source,
            output=picture,
            streams=streams,
            equations=tuple(equations),
        ),
        graphs,
    )
    legality.verify(fused.program)
    legality.verify_graphs(fused)
    return fused


def _refuse(program: Program) -> None:
    frame = program.frame
    if frame.pixels is not None:
        raise BadInputError(f"{program.name} is over pixels already")
    if frame.color != "rgb":
        raise BadInputError(
            f"{program.name} makes {frame.color} alone: its pictures take chroma from the source"
        )
    if any(
        stream.dtype != "float32"
        for stream in (program.streams[program.input], program.streams[program.output])
    ):
        raise BadInputError(f"frames of {program.name} aren't float32")
    shifted = False
    for equation in program.equations:
        for read in equation.reads.values():
            shifted |= read.stream == program.input and read.offset != 0
        if equation.route is not None and any(
            s in (program.input, program.output)
            for s in (*(r.stream for r in equation.reads.values()), *equation.outputs.values())
        ):
            raise BadInputError(f"equation {equation.name} reads or makes windows of frames, by a route")
    if shifted and program.streams[program.input].edge is Edge.ZEROS and frame.range[0] != 0:
        raise BadInputError(f"frames beyond the clip are zeros to {program.name}, and black isn't 0 there")


def _readers(program: Program) -> Mapping[str, Sequence[str]]:
    """Graph -> its inputs that are frames."""
    fed: dict[str, dict[str, set[bool]]] = {}
    for equation in program.equations:
        for name in equation.inputs:
            uses = fed.setdefault(equation.graph, {}).setdefault(name, set())
            uses.add(equation.reads[name].stream == program.input)
    for graph, inputs in fed.items():
        for name, uses in inputs.items():
            if len(uses) > 1:
                raise BadInputError(f"input '{name}' of graph '{graph}' is fed frames and other streams")
    return {graph: [name for name, uses in inputs.items() if True in uses] for graph, inputs in fed.items()}


def _renamed(equation: Equation, name: str, before: str, after: str) -> tuple[str, str]:
    read = equation.reads[name]
    if read.stream != before:
        return name, equation.inputs[name]
    return _input_name(name), str(Read(after, read.offset))


def _input_name(name: str) -> str:
    """The planes keep the input's name, by which calibration knows their range."""
    return f"{name}_pixels"


class _Nodes:
    """Nodes at one place of a graph; each call gives the value of a new one."""

    def __init__(self, graph: ir.Graph, stem: str) -> None:
        self.graph, self.stem = graph, stem
        self.made: list[ir.Node] = []

    def op(
        self, op_type: str, *inputs: ir.Value, shape: Sequence[int], dtype: ir.DataType, **given: int
    ) -> ir.Value:
        name = f"{self.stem}/{op_type}_{len(self.made)}"
        node = ir.node(op_type, inputs, given, name=name)
        self.made.append(node)
        (value,) = node.outputs
        value.name, value.shape, value.type = f"{name}_out", ir.Shape(shape), ir.TensorType(dtype)
        return value

    def transposed(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        node = ir.node(
            "Transpose", [value], {"perm": list(order)}, name=f"{self.stem}/Transpose_{len(self.made)}"
        )
        self.made.append(node)
        (made,) = node.outputs
        assert value.shape is not None
        made.name, made.type = f"{node.name}_out", value.type
        made.shape = ir.Shape([value.shape[axis] for axis in order])
        return made

    def constant(self, array: Sequence[int] | Array | float, dtype: type = np.int64) -> ir.Value:
        data: Array = np.asarray(array, dtype)
        name = f"{self.stem}/constant_{sum(n.startswith(self.stem) for n in self.graph.initializers)}"
        value = ir.Value(
            name=name, shape=ir.Shape(data.shape), type=ir.TensorType(ir.DataType.from_numpy(data.dtype))
        )
        value.const_value = ir.tensor(data, name=name)
        self.graph.initializers[name] = value
        return value


def _look_up(model: ir.Model, name: str, frame: Frame) -> None:
    """Make the input one of pixels, looked up and turned to padded planes."""
    graph = model.graph
    planes = next(v for v in graph.inputs if v.name == name)
    assert planes.shape is not None
    height, width, channels = frame.height, frame.width, frame.channels
    pixels = ir.Value(
        name=_input_name(name),
        shape=ir.Shape([1, height, width, channels]),
        type=ir.TensorType(ir.DataType.UINT8),
    )
    nodes = _Nodes(graph, f"{name}/pixels")
    shape = [1, height, width, channels]
    # TensorRT takes uint8 into a cast to float alone.
    level = nodes.op("Cast", pixels, shape=shape, dtype=ir.DataType.FLOAT, to=ir.DataType.FLOAT.value)
    index = nodes.op("Cast", level, shape=shape, dtype=ir.DataType.INT32, to=ir.DataType.INT32.value)
    table = nodes.constant(levels(255, *frame.range), np.float32)
    value = nodes.op("Gather", table, index, shape=shape, dtype=ir.DataType.FLOAT, axis=0)
    value = nodes.transposed(value, (0, 3, 1, 2))
    if frame.padded != (height, width):
        margins = nodes.constant([0, 0, 0, 0, 0, 0, frame.padded[0] - height, frame.padded[1] - width])
        mode = {Edge.ZEROS: "constant", Edge.REPLICATE: "edge", Edge.REFLECT: "reflect"}[frame.padding]
        node = ir.node("Pad", [value, margins], {"mode": mode}, name=f"{name}/pixels/Pad")
        nodes.made.append(node)
        value = node.outputs[0]
        value.name, value.shape, value.type = f"{node.name}_out", planes.shape, planes.type
    graph.inputs[graph.inputs.index(planes)] = pixels
    planes.name, value.name = f"{name}/fed", name
    ir.convenience.replace_all_uses_with(planes, value)
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes.made)
    else:
        graph.insert_before(first, nodes.made)


def _round(model: ir.Model, name: str, frame: Frame, kept: bool) -> tuple[str, str]:
    """Give the output as levels, and its sum; names of both. With `kept` the output itself stays."""
    graph = model.graph
    planes = next(v for v in graph.outputs if v.name == name)
    nodes = _Nodes(graph, f"{name}/levels")
    real = ir.DataType.FLOAT
    sides = [frame.scale * side for side in (frame.height, frame.width)]
    shape = [1, frame.channels, *sides]
    value = planes
    if frame.padded != (frame.height, frame.width):
        begin, end, axes = nodes.constant([0, 0]), nodes.constant(sides), nodes.constant([2, 3])
        value = nodes.op("Slice", value, begin, end, axes, shape=shape, dtype=real)
    total = nodes.op(
        "ReduceSum", value, nodes.constant([1, 2, 3]), shape=[1, 1, 1, 1], dtype=real, keepdims=1
    )
    black, white = frame.range
    if black != 0:
        value = nodes.op("Sub", value, nodes.constant(black, np.float32), shape=shape, dtype=real)
    if white - black != 1:
        value = nodes.op("Div", value, nodes.constant(white - black, np.float32), shape=shape, dtype=real)
    ends = nodes.constant(0, np.float32), nodes.constant(1, np.float32)
    value = nodes.op("Clip", value, *ends, shape=shape, dtype=real)
    value = nodes.op("Mul", value, nodes.constant(255, np.float32), shape=shape, dtype=real)
    value = nodes.op("Round", value, shape=shape, dtype=real)
    value = nodes.op("Cast", value, shape=shape, dtype=ir.DataType.UINT8, to=ir.DataType.UINT8.value)
    value = nodes.transposed(value, (0, 2, 3, 1))
    graph.extend(nodes.made)
    outputs = [v for v in graph.outputs if kept or v is not planes]
    value.name, total.name = f"{name}_levels", f"{name}_sum"
    graph.outputs.clear()
    graph.outputs.extend([*outputs, value, total])
    return value.name, total.name
