"""Graphs of which each node has a type of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from superlower.errors import BadInputError
from superlower.ir import constant_value, node_name
from superlower.passes._coordinates import coordinate_nodes
from superlower.passes._retype import Retyping, half_inputs
from superlower.passes._rules import label, tidy, type_values
from superlower.passes.base import Applied, Budget, Pass, Site
from superlower.passes.convert_precision import HALF_TYPES, ConvertPrecision
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.quantize import Quantize, quantizable

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "MatMul", "Gemm", "Einsum", "DeformConv"})
_TYPED = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})

NAMES = {half: name for name, half in HALF_TYPES.items()}

Typed = dict[ir.Node, tuple[ir.DataType, frozenset[int]]]


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Type chosen convolutions and sums in fp16 or bf16, each as it is told; all else stays fp32.

    ::

        Conv(x, w) -> Relu -> Conv(.., v)   ->   Cast(x) -> Conv(.., w bf16) -> Relu -> Cast -> Conv(.., v)
        Conv fp16 -> Conv bf16              ->   Conv fp16 -> Cast -> Conv bf16, no fp32 between

    What only moves, resizes or rectifies results is of their type, if all of it is of one. A value is cast
    once for each type that its readers take. All that computes sampling coordinates stays fp32, as the
    samplers do (see `convert-precision`), and so do quantized convolutions between their levels.

    Refused: a node whose operator isn't defined on the type at the graph's opset, whose constants leave it,
    or which computes coordinates. Convolution has bf16 from opset 22 on (convert-opset first).

    Attributes:
        types: name of a node -> "fp16" or "bf16".
    """

    name: ClassVar[str] = "assign-precision"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, Quantize, ConvertPrecision)
    budget: ClassVar[Budget] = Budget(
        float("inf"),
        "what mixed types cost shows over a clip, not in one call: compile holds it to --budget-db",
    )
    types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the option."""
        if wrong := sorted(set(self.types.values()) - HALF_TYPES.keys()):
            raise BadInputError(f"assign-precision: '{wrong[0]}' is none of {', '.join(HALF_TYPES)}")

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        type_values(model)
        refused: list[Site] = []
        chosen = self._chosen(model, refused)
        if chosen:
            types = Retyping(model.graph)
            types.retype(chosen)
            types.widen_outputs()
            common.NameFixPass()(model)
            tidy(model)
        sites = (
            Site(label(node), f"{node.op_type} in {half.name.lower()}") for node, (half, _) in chosen.items()
        )
        return Applied(tuple(sites), tuple(refused))

    def _chosen(self, model: ir.Model, refused: list[Site]) -> Typed:
        kept = coordinate_nodes(model.graph)
        chosen: Typed = {}
        for node in model.graph:
            told = self.types.get(node_name(node))
            if told is not None and node in kept:
                refused.append(Site(label(node), "it computes sampling coordinates, which stay fp32"))
                continue
            half = HALF_TYPES[told] if told is not None else _followed(node, chosen, kept)
            if half is None or not any(v.dtype == ir.DataType.FLOAT for v in node.outputs):
                continue
            positions, reason = half_inputs(node, model.opset_imports.get(node.domain, 0), half)
            if reason is not None:
                refused.append(Site(label(node), reason))
            elif positions:
                chosen[node] = half, positions
        return chosen


def _followed(node: ir.Node, chosen: Typed, kept: set[ir.Node]) -> ir.DataType | None:
    """The half type of all that a node reads, if it is one that follows what it reads."""
    if node in kept or node.op_type in _PRODUCTS | _TYPED or quantizable(node):
        return None
    given = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
    makers = [v.producer() for v in given if constant_value(v) is None]
    read = {chosen[m][0] if m is not None and m in chosen else ir.DataType.FLOAT for m in makers}
    return read.pop() if len(read) == 1 and ir.DataType.FLOAT not in read else None
