"""How far in space an output looks: the receptive field of graphs, and of a program over all its frames."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import onnx_ir as ir

from superlower.ir import constant_value, infer_shapes, static_shape
from superlower.program.model import TemporalModel

Reach = Fraction | None
"""Pixels of the low-resolution frame that decide an element lie at most so far from it; None: anywhere."""

_NEAR = """
Abs Add BatchNormalization Cast CastLike Ceil Clip Concat DequantizeLinear Div Dropout Elu Erf Exp Floor
HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mul Neg PRelu Pow QuantizeLinear Reciprocal Relu Round
Selu Sigmoid Sign Softplus Split Sqrt Sub Sum Tanh Where
"""
_POINTWISE = frozenset(_NEAR.split())
"""Operators that stay within a pixel: what they make at one place they make of the same place."""

_KERNELS = frozenset({"Conv", "ConvTranspose", "AveragePool", "MaxPool"})
_RESIZE_TAPS = {"nearest": 1, "linear": 1, "cubic": 2}


def reach(model: TemporalModel) -> int | None:
    """Pixels around a low-resolution pixel that its output depends on, over all frames; None: no bound known.

    There is none where a state is handed on from frame to frame through a graph that looks around, nor where
    something samples at places that data decide (warps, deformable convolutions), nor past an operator that
    isn't known to stay near.
    """
    streams: dict[str, Reach] = {model.program.input: Fraction(0)}
    # A recurrent stream would grow for ever: as many rounds as there are equations settle any other.
    for _ in range(len(model.program.equations) + 1):
        before = dict(streams)
        for equation in model.program.equations:
            if equation.route is not None:
                return None
            given = {
                name: streams[read.stream] for name, read in equation.reads.items() if read.stream in streams
            }
            made = graph_reach(model.graphs[equation.graph], given, model.program.frame.padded)
            for name, stream in equation.outputs.items():
                streams[stream] = _widest([made[name], streams.get(stream, Fraction(0))])
        if streams == before:
            found = streams[model.program.output]
            return None if found is None else ceil(found)
    return None


def graph_reach(model: ir.Model, given: dict[str, Reach], frame: tuple[int, int]) -> dict[str, Reach]:
    """By output: how far it looks, if each input looks as far as given.

    Args:
        given: by input; an input that isn't named looks nowhere.
        frame: padded low-resolution height and width, of which `Reach` counts the pixels.
    """
    graph = model.graph
    if any(value.shape is None for node in graph for value in node.outputs):
        graph = infer_shapes(model).graph
    found: dict[ir.Value, Reach] = {value: given.get(value.name or "", Fraction(0)) for value in graph.inputs}
    for node in graph:
        made = _node_reach(node, found, frame)
        found |= dict.fromkeys(node.outputs, made)
    return {value.name or "": found.get(value, Fraction(0)) for value in graph.outputs}


def _node_reach(node: ir.Node, found: dict[ir.Value, Reach], frame: tuple[int, int]) -> Reach:
    inputs = [value for value in node.inputs if value is not None and value in found]
    if not inputs or all(constant_value(value) is not None for value in inputs):
        return Fraction(0)
    before = _widest([found[value] for value in inputs])
    if before is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _POINTWISE:
        return before if _stays(node, inputs) else None
    pixel, made = _pixel(node.inputs[0], frame), _pixel(node.outputs[0], frame)
    if pixel is None or made is None:
        return None
    # A low-resolution pixel lies anywhere within its element of a coarser tensor.
    one = Fraction(1)
    within = abs(max(pixel, one) - max(made, one))
    if node.op_type in ("DepthToSpace", "SpaceToDepth"):
        return before + within
    if node.op_type in _KERNELS:
        return before + pixel * _half_width(node) + within
    if node.op_type == "Resize" and "mode" in node.attributes:
        return before + pixel * _RESIZE_TAPS[node.attributes["mode"].as_string()] + within
    return None


def _stays(node: ir.Node, inputs: list[ir.Value]) -> bool:
    """Whether a join, split or broadcast leaves the axes of the frame alone."""
    if node.op_type in ("Concat", "Split"):
        axis = node.attributes.get("axis")
        rank = len(inputs[0].shape or ())
        return axis is not None and rank == 4 and axis.as_int() % rank < 2
    return True


def _half_width(node: ir.Node) -> int:
    """Elements of its input to either side that one of its outputs sees; never fewer than there are."""
    shape = node.attributes.get("kernel_shape")
    kernel = shape.as_ints() if shape is not None else (static_shape(node.inputs[1]) or (0, 0))[2:]
    spread = node.attributes.get("dilations")
    dilations = spread.as_ints() if spread is not None else [1] * len(kernel)
    pads = node.attributes["pads"].as_ints() if "pads" in node.attributes else [0] * 2 * len(kernel)
    extents = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    if node.op_type == "ConvTranspose":
        return max(extents, default=0)
    # Left of its place a kernel sees as many as were padded there, right the rest of its extent.
    sides = [(pads[i], extent - pads[i]) for i, extent in enumerate(extents)]
    return max((max(abs(a), abs(b)) for a, b in sides), default=0)


def _pixel(value: ir.Value | None, frame: tuple[int, int]) -> Fraction | None:
    """Side of one of a value's elements in low-resolution pixels."""
    shape = static_shape(value)
    if shape is None or len(shape) != 4 or 0 in shape:
        return None
    return max(Fraction(frame[0], shape[2]), Fraction(frame[1], shape[3]))


def _widest(reaches: list[Reach]) -> Reach:
    known = [each for each in reaches if each is not None]
    return max(known, default=Fraction(0)) if len(known) == len(reaches) else None
