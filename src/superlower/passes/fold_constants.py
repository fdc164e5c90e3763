"""Constant folding, shape computations and large sampling grids included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from superlower.ir import IR_VERSION, Array, constant_value, static_shape
from superlower.passes._evaluate import evaluate
from superlower.passes._rules import label, tidy
from superlower.passes.base import Applied, Pass, Site

_NEVER = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
) | {"QuantizeLinear", "DequantizeLinear", "Constant", "If", "Loop", "Scan"}
"""Random, control flow, and the quantisation of weights, which backends must see as it is."""


_SIZES = ("Shape", "Size")


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute at compile time what depends on no input.

    ::

        Range, Expand, Concat, ...   ->   one initializer where a computed value meets the rest of the graph
        Shape(x), sizes all known    ->   initializer
        CastLike(1, x), type known   ->   initializer

    Each constant node is run by ONNX Runtime, without optimisations: the arithmetic is the one the graph
    would have done. Constant nodes become initializers; equal initializers are merged; nodes, initializers
    and Identity nodes that nothing needs go.

    Kept: random and control-flow operators, Quantize/DequantizeLinear, calls of functions, and nodes whose
    result or largest input has more than `max_elements` elements (refused, with the size).

    Attributes:
        max_elements: the largest tensor folded; the default holds a sampling grid of an 8K frame.
    """

    name: ClassVar[str] = "fold-constants"
    max_elements: int = 1 << 27

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        refused: list[Site] = []
        known: dict[ir.Value, Array] = {}
        for node in model.graph:
            if node.domain != "" or node.op_type in _NEVER:
                continue
            reason = self._too_large(node)
            feeds = self._operands(node, known)
            if feeds is None:
                continue
            if reason is None:
                try:
                    known.update(zip(node.outputs, _run(node, feeds, model.opset_imports[""]), strict=True))
                except Exception as error:
                    reason = f"ONNX Runtime can't compute it: {str(error).splitlines()[0]}"
            if reason is not None:
                refused.append(Site(label(node), reason))
        folded = []
        for value, array in known.items():
            maker = value.producer()
            assert maker is not None
            if value.is_graph_output() or any(user.outputs[0] not in known for user, _ in value.uses()):
                folded.append(Site(label(maker), f"{maker.op_type} is {array.dtype}{list(array.shape)}"))
                _replace(model.graph, maker, value, array)
        if tidy(model) and not folded:
            folded.append(Site(model.graph.name or "graph", "constants lifted, merged or dropped"))
        return Applied(tuple(folded), tuple(refused))

    def _too_large(self, node: ir.Node) -> str | None:
        inputs = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        shapes = [static_shape(v) for v in (*inputs, *node.outputs)]
        elements = max((math.prod(s) for s in shapes if s is not None), default=0)
        if elements <= self.max_elements or node.op_type in _SIZES:
            return None
        return f"{elements} elements, over max_elements={self.max_elements}"

    @staticmethod
    def _operands(node: ir.Node, known: Mapping[ir.Value, Array]) -> list[Array | None] | None:
        """The node's inputs, if all are known."""
        if node.op_type in _SIZES:
            sizes = static_shape(node.inputs[0])
            return None if sizes is None else [np.empty(sizes, np.bool_)]
        operands = [None if v is None else known.get(v, constant_value(v)) for v in node.inputs]
        if node.op_type == "CastLike" and (like := node.inputs[1]) is not None and like.dtype is not None:
            operands[1] = np.empty(0, like.dtype.numpy())
        missing = any(v is not None and a is None for v, a in zip(node.inputs, operands, strict=True))
        return None if missing else operands


def _run(node: ir.Node, operands: Sequence[Array | None], opset: int) -> list[Array]:
    """Outputs of one node on the operands given."""
    inputs = [
        None
        if array is None
        else ir.Value(
            name=f"x{i}",
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        for i, array in enumerate(operands)
    ]
    copy = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
    for i, (old, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
        new.name, new.type = f"y{i}", old.type
    given = [v for v in inputs if v is not None]
    graph = ir.Graph(given, copy.outputs, nodes=[copy], opset_imports={"": opset}, name="constant")
    feeds = {f"x{i}": array for i, array in enumerate(operands) if array is not None}
    arrays = evaluate(ir.Model(graph, ir_version=IR_VERSION), feeds)
    # bf16 comes back as fp32 that holds the rounded values.
    return [
        arrays[str(v.name)].astype(v.dtype.numpy())
        if v.dtype == ir.DataType.BFLOAT16
        else arrays[str(v.name)]
        for v in copy.outputs
    ]


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value, array: Array) -> None:
    """Make the value a constant. An output of the graph stays the node's, which becomes a Constant."""
    constant = ir.node("Constant", [], {"value": ir.tensor(array, name=value.name)})
    made = constant.outputs[0]
    made.shape, made.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.insert_before(node, constant)
    ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)
    if made.is_graph_output():
        value.name, made.name = f"{value.name}_unfolded", value.name
    else:
        made.name = f"{value.name}_folded"
