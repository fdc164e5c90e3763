"""When tensors inside a graph are alive, and so what a call of it needs beside its inputs and outputs."""

from __future__ import annotations

from math import ceil, prod

import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.ir import infer_shapes, static_shape

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators whose output is their first input's memory under another shape."""

_ELEMENTWISE = """
Abs Add Ceil Clip Div Elu Exp Floor HardSigmoid HardSwish LeakyRelu Log Max Min Mul Neg PRelu Pow Reciprocal
Relu Round Selu Sigmoid Sign Sqrt Sub Sum Tanh Where
"""
_IN_PLACE = frozenset(_ELEMENTWISE.split())
"""Elementwise operators, which runtimes write over an input of the output's size that dies there."""


def activation_bytes(model: ir.Model) -> int:
    """Largest sum of a graph's intermediate tensors alive at once, in bytes, in the graph's order.

    Inputs, outputs and weights aren't counted. Views take no memory; an elementwise operator writes over an
    input that nothing reads later.

    Raises:
        BadInputError: a value whose size isn't static.
    """
    graph = model.graph
    if any(_sized(value) is None for node in graph for value in node.outputs if value.name):
        graph = infer_shapes(model).graph
    buffer: dict[ir.Value, ir.Value] = {}
    own: dict[ir.Value, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[ir.Value, int] = {}
    nodes = list(graph)
    for node in nodes:
        made = _made(node)
        if made is None:
            continue
        viewed = node.inputs[0] if node.op_type in _VIEWS and node.inputs else None
        for value in made:
            seen = value if viewed is None else viewed
            buffer[value] = buffer.get(seen, seen)
    for index, node in enumerate(nodes):
        for touched in (*node.inputs, *node.outputs):
            if touched is not None:
                last[buffer.get(touched, touched)] = index
    kept = {buffer.get(value, value) for value in graph.outputs}
    alive = peak = 0
    dying: dict[int, list[ir.Value]] = {}
    for value, index in last.items():
        dying.setdefault(index, []).append(value)
    for index, node in enumerate(nodes):
        made = _made(node)
        coming = 0
        for value in made or ():
            if buffer[value] is value and value not in kept:
                own[value] = _bytes(value, node)
                coming += own[value]
        dead = [value for value in dying.get(index, ()) if value not in kept]
        over = max((own.get(v, 0) for v in dead if v not in (made or ())), default=0)
        reused = coming if made and node.op_type in _IN_PLACE and over >= coming else 0
        peak = max(peak, alive + coming - reused)
        alive += coming - sum(own.get(value, 0) for value in dead)
    return peak


def weight_bytes(model: ir.Model) -> int:
    """Bytes of a graph's constants."""
    held = [value.const_value for value in model.graph.initializers.values()]
    held += [node.attributes["value"].as_tensor() for node in model.graph if _holds_tensor(node)]
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def _holds_tensor(node: ir.Node) -> bool:
    return node.op_type == "Constant" and "value" in node.attributes


def _made(node: ir.Node) -> list[ir.Value] | None:
    """The outputs a node computes at run time; None of a constant."""
    if node.op_type in ("Constant", "Shape", "Size"):
        return None
    return [value for value in node.outputs if value.name]


def _sized(value: ir.Value) -> int | None:
    shape = static_shape(value)
    if shape is None or value.dtype is None:
        return None
    return ceil(prod(shape) * value.dtype.itemsize)


def _bytes(value: ir.Value, node: ir.Node) -> int:
    size = _sized(value)
    if size is None:
        raise BadInputError(
            f"the size of '{value.name}', made by {node.op_type} '{node.name}', isn't static: export the "
            f"graph at one frame size"
        )
    return size
