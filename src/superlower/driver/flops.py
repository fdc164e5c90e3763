"""Floating-point operations of a graph's nodes, counted from their static shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod

import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.ir import infer_shapes, static_shape
from superlower.program.analysis import graph_calls
from superlower.program.model import TemporalModel

Shape = tuple[int, ...]


class Work(StrEnum):
    """What kind of arithmetic: tensor cores do the sums of products, and nothing else."""

    CONV = "conv"
    DEFORM_CONV = "deform_conv"
    MATMUL = "matmul"
    ELEMENTWISE = "elementwise"


@dataclass(frozen=True)
class Convolution:
    """One convolution's arithmetic; one multiply-accumulate is two floating-point operations.

    Attributes:
        node: the node's name.
        macs: multiply-accumulates of a call; neither bias nor padding's zeros are told apart.
    """

    node: str
    macs: int


def convolutions(model: ir.Model) -> list[Convolution]:
    """The Conv, ConvTranspose and DeformConv nodes of a graph, in its order.

    Conv and DeformConv take N Cout Hout Wout outputs of Cin/g kh kw products each (what DeformConv needs to
    sample its input is not in it). ConvTranspose spreads each of its N Cin Hin Win inputs over Cout/g kh kw
    outputs (counting at output size would be stride^2 times too much). Bodies of If and Loop count once.

    Raises:
        BadInputError: a convolution whose sizes aren't static.
    """
    found = list(_convolutions(model.graph))
    if any(None in _operands(node) for node in found):
        # What a rewrite made is untyped until shapes are inferred.
        found = list(_convolutions(infer_shapes(model).graph))
    return [Convolution(node.name or node.op_type, _macs(node)) for node in found]


def graph_macs(model: TemporalModel) -> dict[str, int]:
    """Multiply-accumulates of one call of each graph's convolutions, by graph."""
    return {name: sum(c.macs for c in convolutions(graph)) for name, graph in model.graphs.items()}


def clip_macs(model: TemporalModel, frames: int) -> int:
    """Multiply-accumulates of all convolutions over a clip; calls that its ends don't need aren't counted.

    Every patch of a route takes its last graph: the most there can be.
    """
    of = graph_macs(model)
    return sum(of[graph] * calls for graph, calls in graph_calls(model.program, frames).items())


def node_flops(node: ir.Node) -> dict[Work, int]:
    """Operations of one node, by kind; none for what only moves data.

    Convolutions as `convolutions` counts them, two a product; a product of matrices two for each of its
    K products. Everything else by `PER_OUTPUT`, `PER_INPUT` or one for each output element: a transcendental
    function counts as one. A sample between four pixels takes four products and three sums for each channel;
    coordinates and weights, which serve all channels, aren't counted.

    Raises:
        BadInputError: a convolution or product whose sizes aren't static.
        ValueError: another node whose sizes aren't known.
    """
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    if op in MOVES:
        return {}
    if op in ("Conv", "ConvTranspose"):
        return {Work.CONV: 2 * _macs(node) + _bias(node, 2)}
    if op == "DeformConv":
        weight, places = _operands(node)
        if weight is None or places is None:
            raise _not_static(node)
        channels = _known(node.inputs[0])[1]
        samples = places[0] * channels * prod(weight[2:]) * prod(places[2:])
        masked = len(node.inputs) > 4 and node.inputs[4] is not None
        return {
            Work.DEFORM_CONV: 2 * _macs(node) + _bias(node, 3),
            Work.ELEMENTWISE: samples * (_BILINEAR + masked),
        }
    if op in _PRODUCTS:
        return {Work.MATMUL: _PRODUCTS[op](node)}
    if op in PER_INPUT:
        return {Work.ELEMENTWISE: prod(_known(node.inputs[0]))}
    count = PER_OUTPUT.get(op, 1)
    return {Work.ELEMENTWISE: prod(_known(node.outputs[0])) * (count(node) if callable(count) else count)}


def _mode(counts: Mapping[str, int]) -> Callable[[ir.Node], int]:
    def count(node: ir.Node) -> int:
        mode = node.attributes.get("mode")
        return counts.get(mode.as_string() if mode is not None else "", counts[""])

    return count


def _window(node: ir.Node) -> int:
    return prod(node.attributes["kernel_shape"].as_ints())


_BILINEAR, _BICUBIC = 7, 31
"""Of 4 and of 16 pixels: so many products, and one sum less."""

_MOVES = """
Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather GatherElements GatherND
Identity Pad Range Reshape ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile
Transpose Unsqueeze
"""
MOVES = frozenset(_MOVES.split())
"""Operators without arithmetic on tensors' values."""

PER_OUTPUT: dict[str, int | Callable[[ir.Node], int]] = {
    "GridSample": _mode({"": _BILINEAR, "nearest": 0, "cubic": _BICUBIC, "bicubic": _BICUBIC}),
    "Resize": _mode({"": 0, "nearest": 0, "linear": _BILINEAR, "cubic": _BICUBIC}),
    "AveragePool": _window,
    "MaxPool": _window,
    # Scale and shift.
    "BatchNormalization": 2,
    # Sum; difference, square, sum; scale and shift.
    "InstanceNormalization": 6,
    "LayerNormalization": 6,
    "GroupNormalization": 6,
    # Maximum, difference, exponential, sum, quotient.
    "Softmax": 5,
    "Clip": 2,
    "QuantizeLinear": 2,
    "DequantizeLinear": 2,
}
"""Operations for each output element."""

_REDUCTIONS = """
ArgMax ArgMin GlobalAveragePool GlobalMaxPool ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum
ReduceSumSquare
"""
PER_INPUT = frozenset(_REDUCTIONS.split())
"""Operators of one operation for each input element."""


def _matmul(node: ir.Node) -> int:
    return 2 * prod(_known(node.outputs[0])) * _known(node.inputs[0])[-1]


def _gemm(node: ir.Node) -> int:
    rows, columns = _known(node.inputs[0])
    transposed = node.attributes.get("transA")
    inner = rows if transposed is not None and transposed.as_int() else columns
    return 2 * prod(_known(node.outputs[0])) * inner + _bias(node, 2)


def _einsum(node: ir.Node) -> int:
    """Two for each combination of all letters: what a product of two operands takes, summed in one go."""
    terms = node.attributes["equation"].as_string().replace(" ", "").partition("->")[0].split(",")
    if "..." in "".join(terms):
        return 2 * prod(_known(node.outputs[0])) * max(prod(_known(v)) for v in node.inputs)
    sizes = {
        letter: size
        for term, value in zip(terms, node.inputs, strict=True)
        for letter, size in zip(term, _known(value), strict=True)
    }
    return 2 * (len(terms) - 1) * prod(sizes.values())


_PRODUCTS: dict[str, Callable[[ir.Node], int]] = {"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum}


def _bias(node: ir.Node, position: int) -> int:
    """One sum for each output, where the node has a bias."""
    given = len(node.inputs) > position and node.inputs[position] is not None
    return prod(_known(node.outputs[0])) if given else 0


def _convolutions(graph: ir.Graph) -> Iterable[ir.Node]:
    return (
        node
        for node in graph.all_nodes()
        if node.op_type in ("Conv", "ConvTranspose", "DeformConv") and not node.domain
    )


def _operands(node: ir.Node) -> tuple[Shape | None, Shape | None]:
    """Static shapes of the weight, and of what each weight is applied at: output, or input if transposed."""
    places = node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]
    return static_shape(node.inputs[1]), static_shape(places)


def _macs(node: ir.Node) -> int:
    weight, places = _operands(node)
    if weight is None or places is None:
        raise _not_static(node)
    return prod(weight) * places[0] * prod(places[2:])


def _not_static(node: ir.Node) -> BadInputError:
    return BadInputError(
        f"the sizes of {node.op_type} '{node.name}' aren't static: export the graph at one frame size"
    )


def _known(value: ir.Value | None) -> Shape:
    shape = static_shape(value)
    if shape is None:
        raise ValueError("no static shape")
    return shape
