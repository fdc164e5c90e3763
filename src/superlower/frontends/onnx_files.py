"""Models that are ONNX already: a folder with program.json, or one file that upscales frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from superlower.errors import BadInputError
from superlower.frontends.contract import frame_contract, shape_text, stream_sizes
from superlower.frontends.opset import convert_opset
from superlower.ir import infer_shapes, io_shapes
from superlower.ir import load as load_onnx
from superlower.program import files
from superlower.program.model import Edge, Equation, Program, Stream, TemporalModel

_HINT = "for a model with states or neighbouring frames, write a program.json (docs/program-json.md)"


def load(path: Path, *, height: int | None = None, width: int | None = None) -> TemporalModel:
    """A program folder as it is, or a lone .onnx as a one-equation program.

    A lone file takes one float32 frame, [1, 3, H, W] RGB or [1, 1, H, W] luma in 0..1, and makes one of as
    many channels, larger by a whole factor. Batch, height and width may be dynamic: they are made static.

    Args:
        path: a folder with program.json and graphs/, or an ONNX file.
        height, width: low-resolution pixels, needed where the file leaves them dynamic.

    Raises:
        BadInputError: not valid ONNX, another signature than above, an opset that can't be converted, or
            sizes that are missing or not those of the file.
    """
    if path.is_dir():
        model = files.load_model(path)
        _check_size(str(path), (model.program.frame.height, model.program.frame.width), height, width)
        return model
    return _lone(path, height, width)


def load_graphs(
    path: Path, *, height: int | None = None, width: int | None = None
) -> tuple[str, Mapping[str, ir.Model]]:
    """A model's name and graphs, to be asked about and not to be run.

    Other than `load`, a lone .onnx of static sizes may take and make anything: states, features, half floats.

    Raises:
        BadInputError: as `load` does of a folder, or of a file with dynamic sizes.
    """
    if path.is_file() and height is None and width is None:
        graph = _read(path)
        if all(value.shape is not None and value.shape.is_static() for value in graph.graph.inputs):
            return path.stem, {"upscale": infer_shapes(graph)}
    model = load(path, height=height, width=width)
    return model.program.name, model.graphs


def _lone(path: Path, height: int | None, width: int | None) -> TemporalModel:
    graph = _read(path)
    frame_in, frame_out = _signature(graph, path)
    graph = _make_static(graph, frame_in, path, height, width)
    inputs, outputs = io_shapes(graph)
    given, made = inputs[frame_in], outputs[frame_out]
    if min(made, default=0) < 1:
        raise BadInputError(
            f"{path}: output '{frame_out}' stays {shape_text(made)} for a {shape_text(given)} frame: "
            f"its size can't be known before it runs; export the model with static shapes"
        )
    frame = frame_contract(given, made, name=str(path))
    program = Program(
        name=path.stem,
        frame=frame,
        streams={
            "frame": Stream(shape=stream_sizes(given, frame), edge=Edge.REPLICATE),
            "output": Stream(shape=stream_sizes(made, frame)),
        },
        equations=(
            Equation(
                name="upscale",
                graph="upscale",
                inputs={frame_in: "frame[t]"},
                outputs={frame_out: "output"},
            ),
        ),
        provenance={
            "architecture": "onnx",
            "weights": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
    )
    return TemporalModel(program, {"upscale": graph})


def _read(path: Path) -> ir.Model:
    """The file's graph at our opset, the bodies of its own functions in place of their calls.

    OpenVINO 2026.4 and TVM 0.27 know no functions.
    """
    model = load_onnx(path)
    if model.functions:
        common.InlinePass()(model)
        model.functions.clear()
        common.RemoveUnusedOpsetsPass()(model)
        model = infer_shapes(model)
    return convert_opset(model, str(path))


def _signature(model: ir.Model, path: Path) -> tuple[str, str]:
    """Names of the one input and the one output, both float32 of four dimensions."""
    initializers = model.graph.initializers
    inputs = [v for v in model.graph.inputs if v.name not in initializers]
    for role, values in (("inputs", inputs), ("outputs", list(model.graph.outputs))):
        if len(values) != 1:
            names = ", ".join(str(v.name) for v in values) or "none"
            raise BadInputError(f"{path} has {len(values)} {role} ({names}), not one: {_HINT}")
    for role, value in (("input", inputs[0]), ("output", model.graph.outputs[0])):
        if value.dtype != ir.DataType.FLOAT:
            kind = "an unknown type" if value.dtype is None else value.dtype.numpy().name
            raise BadInputError(f"{path}: {role} '{value.name}' is {kind}, not float32: add a Cast inside")
        if value.shape is None or len(value.shape) != 4:
            dims = "of unknown shape" if value.shape is None else f"{len(value.shape)}-dimensional"
            if role == "input" or value.shape is not None:
                raise BadInputError(f"{path}: {role} '{value.name}' is {dims}, not [1, C, H, W]: {_HINT}")
    return str(inputs[0].name), str(model.graph.outputs[0].name)


def _make_static(model: ir.Model, name: str, path: Path, height: int | None, width: int | None) -> ir.Model:
    value = next(v for v in model.graph.inputs if v.name == name)
    batch, channels, own_height, own_width = io_shapes(model)[0][name]
    _check_size(str(path), (own_height, own_width), height, width)
    if channels < 0:
        raise BadInputError(f"{path}: the number of channels of input '{name}' is dynamic: export it static")
    sides = (own_height if own_height > 0 else height, own_width if own_width > 0 else width)
    if None in sides:
        raise BadInputError(
            f"{path} takes frames of any size: say which height and width with --size 180x320"
        )
    value.shape = ir.Shape([1 if batch < 0 else batch, channels, *(int(side or 0) for side in sides)])
    if min(own_height, own_width, batch) > 0:
        return infer_shapes(model)
    _forget_shapes(model)

    from onnxscript import optimizer

    # Shape arithmetic has become constant: folded, it lets shapes through that inference alone leaves open.
    optimizer.fold_constants(model)
    return infer_shapes(model)


def _forget_shapes(model: ir.Model) -> None:
    """Shapes found for the dynamic frame would otherwise stand in the way of the static ones."""
    for node in model.graph:
        for value in node.outputs:
            value.shape = None


def _check_size(name: str, own: tuple[int, int], height: int | None, width: int | None) -> None:
    """Sizes asked for must be those of the model, where it has any."""
    for side, has, asked in (("height", own[0], height), ("width", own[1], width)):
        if asked is not None and has > 0 and asked != has:
            raise BadInputError(f"{name} is built for a {side} of {has} pixels, not {asked}: export it anew")
