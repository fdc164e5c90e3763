"""Multiply-accumulates of convolutions, counted from a graph's static shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.ir import infer_shapes
from superlower.program.model import TemporalModel
from superlower.program.schedule import schedule


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
    """The Conv and ConvTranspose nodes of a graph, in its order.

    Conv takes N Cout Hout Wout outputs of Cin/g kh kw products each. ConvTranspose spreads each of its
    N Cin Hin Win inputs over Cout/g kh kw outputs (counting at output size would be stride^2 times too much).
    Bodies of If and Loop count once.

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
    """Multiply-accumulates of all convolutions over a clip; calls that its ends don't need aren't counted."""
    of = graph_macs(model)
    return sum(of[step.graph] for step in schedule(model.program, frames).steps)


def _convolutions(graph: ir.Graph) -> Iterable[ir.Node]:
    return (
        node for node in graph.all_nodes() if node.op_type in ("Conv", "ConvTranspose") and not node.domain
    )


def _operands(node: ir.Node) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Static shapes of the weight, and of what each weight is applied at: output, or input if transposed."""
    return _shape(node.inputs[1]), _shape(node.outputs[0] if node.op_type == "Conv" else node.inputs[0])


def _macs(node: ir.Node) -> int:
    weight, places = _operands(node)
    if weight is None or places is None:
        raise BadInputError(
            f"the sizes of {node.op_type} '{node.name}' aren't static: export the graph at one frame size"
        )
    return prod(weight) * places[0] * prod(places[2:])


def _shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    sizes = tuple(size for size in value.shape if isinstance(size, int))
    return sizes if len(sizes) == len(value.shape) else None
