"""Graphs typed in half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from superlower.errors import BadInputError
from superlower.passes._coordinates import coordinate_nodes
from superlower.passes._retype import Retyping, half_inputs
from superlower.passes._rules import label, tidy
from superlower.passes.base import Applied, Budget, Pass, Site
from superlower.passes.canonicalize_affine import CanonicalizeAffine
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.fold_constants import FoldConstants

HALF_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_LAYERS = 70
_BUDGETS = {
    name: Budget(
        _LAYERS * 2.0**-bits,
        f"weights and results are rounded to {bits} bits in about {_LAYERS} layers (30 residual blocks "
        f"and what is around them), and no rounding is magnified where coordinates stay fp32",
    )
    for name, bits in (("fp16", 11), ("bf16", 8))
}


@dataclass(frozen=True)
class ConvertPrecision(Pass):
    """Type a graph's weights and arithmetic in fp16 or bf16, sampling coordinates aside.

    ::

        Conv(x fp32, w fp32) -> Relu -> ...           ->  Cast(x) -> Conv(x fp16, w fp16) -> Relu -> ...
        GridSample(features, grid(flow))              ->  Cast(GridSample(Cast(features), grid(flow))) in fp32
        flow_2 = Resize(flow_1) * 2 + Conv(...)       ->  Resize(flow_1) * 2 + Cast(Conv(...)), in fp32

    The result is strongly typed: precision lies in the graph, for every backend alike. In [-1, 1] a grid in
    fp16 would be off by a tenth of a pixel at W = 320, so all that computes coordinates (from the
    convolutions that estimate a flow to the sampler, see `_coordinates`) stays fp32, as do GridSample and
    DeformConv. A value is cast once for all its uses.

    An operator that the opset doesn't define on the type stays fp32: GridSample aside, that is refused with
    the reason. Convolution has bf16 from opset 22 on (convert-opset first); ONNX Runtime's CPU runs no bf16.

    Attributes:
        to: "fp16" or "bf16".
        io: "keep" leaves the graph's inputs and outputs fp32; "convert" makes those half that meet half
            arithmetic, while flows stay fp32.
    """

    name: ClassVar[str] = "convert-precision"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, CollapseFlowWarp, CanonicalizeAffine)
    budget: ClassVar[Budget] = _BUDGETS["fp16"]
    to: str = "fp16"
    io: str = "keep"

    def __post_init__(self) -> None:
        """Check the options, and take the type's budget."""
        if self.to not in HALF_TYPES or self.io not in ("keep", "convert"):
            raise BadInputError(
                f"convert-precision: to={self.to}, io={self.io}; to is fp16 or bf16, io is keep or convert"
            )
        object.__setattr__(self, "budget", _BUDGETS[self.to])

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        graph, half = model.graph, HALF_TYPES[self.to]
        kept = coordinate_nodes(graph)
        refused: list[Site] = []
        chosen: dict[ir.Node, frozenset[int]] = {}
        for node in graph:
            if node in kept or not any(v.dtype == ir.DataType.FLOAT for v in node.outputs):
                continue
            positions, reason = half_inputs(node, model.opset_imports.get(node.domain, 0), half)
            if reason is not None:
                refused.append(Site(label(node), reason))
            elif any(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs):
                chosen[node] = positions
        chosen = {node: positions for node, positions in chosen.items() if positions}
        if chosen:
            types = Retyping(graph)
            if self.io == "convert":
                for value in graph.inputs:
                    if value.dtype == ir.DataType.FLOAT and any(n in chosen for n, _ in value.uses()):
                        types.halve(value, half)
            types.retype({node: (half, positions) for node, positions in chosen.items()})
            if self.io == "keep":
                types.widen_outputs()
            common.NameFixPass()(model)
            tidy(model)
        sites = (Site(label(node), f"{node.op_type} in {self.to}") for node in chosen)
        return Applied(tuple(sites), tuple(refused))
