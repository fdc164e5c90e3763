"""Changing the types of values in a graph, with casts where types meet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from superlower.ir import constant_value


class Retyping:
    """Values of a graph that go from fp32 to a half type, and the casts this makes, one a value and type."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.halved: dict[ir.Value, ir.DataType] = {}
        self._typed: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def halve(self, value: ir.Value, half: ir.DataType) -> None:
        """Declare that the value is of a half type."""
        # Not `value.dtype = ...`: that writes into a type object that clones of the model share.
        value.type = ir.TensorType(half)
        self.halved[value] = half

    def concerns(self, value: ir.Value) -> bool:
        """Whether the value is fp32, or was."""
        return value in self.halved or value.dtype == ir.DataType.FLOAT

    def typed(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """The value in the wanted type: itself, a converted constant, or a Cast next to where it is made."""
        if value.dtype == wanted:
            return value
        key = (value, wanted)
        if key not in self._typed:
            array = constant_value(value)
            if array is None:
                node = ir.node("Cast", [value], {"to": wanted})
            else:
                node = ir.node(
                    "Constant", [], {"value": ir.tensor(array.astype(wanted.numpy()), dtype=wanted)}
                )
            producer = value.producer()
            if producer is None or array is not None:
                self.graph.insert_before(self.graph[0], node)
            else:
                self.graph.insert_after(producer, node)
            made = node.outputs[0]
            made.name = f"{value.name}_{wanted.name.lower()}"
            made.shape, made.type = value.shape, ir.TensorType(wanted)
            self._typed[key] = made
        return self._typed[key]

    def retype(self, chosen: Mapping[ir.Node, tuple[ir.DataType, frozenset[int]]]) -> None:
        """Let nodes compute in half types: what they make is of it, and every node reads the type it takes.

        Args:
            chosen: node -> its type, and the positions of the inputs that are of it.
        """
        nodes = list(self.graph)
        for node, (half, _) in chosen.items():
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    self.halve(output, half)
        for node in nodes:
            half, positions = chosen.get(node, (ir.DataType.FLOAT, frozenset[int]()))
            for i, operand in enumerate(node.inputs):
                if operand is not None and self.concerns(operand):
                    wanted = half if i in positions else ir.DataType.FLOAT
                    node.replace_input_with(i, self.typed(operand, wanted))

    def widen_outputs(self) -> None:
        """Give outputs of a half type back as fp32, under their names."""
        for i, value in enumerate(self.graph.outputs):
            if value in self.halved:
                wide = self.typed(value, ir.DataType.FLOAT)
                wide.name, value.name = value.name, f"{value.name}_{self.halved[value].name.lower()}"
                self.graph.outputs[i] = wide


def half_inputs(node: ir.Node, opset: int, half: ir.DataType) -> tuple[frozenset[int], str | None]:
    """Positions of the inputs that share the first output's type, by the operator's schema.

    Returns:
        The positions, and None; or none of them and the reason why the node can't be of the half type. An
        operator whose result has a type of its own (Cast, Shape) has no positions and no reason.
    """
    none: frozenset[int] = frozenset()
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    kinds = {a.type for a in node.attributes.values()}
    if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        return none, f"{name} holds graphs, which keep their types"
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return none, f"{name} has no schema at opset {opset}: inline it first"
    variable = schema.outputs[0].type_str
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    formal = schema.inputs
    positions = frozenset(
        i for i in range(len(node.inputs)) if formal and formal[min(i, len(formal) - 1)].type_str == variable
    )
    if variable not in allowed or not positions:
        return none, None
    if f"tensor({half.name.lower()})" not in allowed[variable]:
        return none, f"{name} has no {half.name.lower()} at opset {opset}"
    largest = (
        float(np.finfo(np.float16).max) if half == ir.DataType.FLOAT16 else float(np.finfo(np.float32).max)
    )
    for i in positions:
        array = constant_value(node.inputs[i])
        if array is not None and array.size and float(np.abs(array).max()) > largest:
            return none, f"constant '{node.inputs[i].name}' of {name} is over {largest:g}"  # type: ignore[union-attr]
    return positions, None
