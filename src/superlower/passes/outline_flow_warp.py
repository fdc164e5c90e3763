"""Flow warps as calls of one function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value
from superlower.passes._flow import TO_CHANNELS_LAST
from superlower.passes._rules import Emitter, OnOperator, apply_rules, integers, label, maker
from superlower.passes.base import Applied, Pass
from superlower.passes.collapse_flow_warp import CollapseFlowWarp

DOMAIN = "superlower"
FLOW_WARP = "FlowWarp"


@dataclass(frozen=True)
class OutlineFlowWarp(Pass):
    """Make each warp a call of the ONNX function superlower::FlowWarp, for backends to replace as a unit.

    ::

        t = Transpose(flow, perm=[0, 2, 3, 1])             superlower::FlowWarp(x, flow, scale, base,
        GridSample(x, Add(Mul(t, scale), base), ...)   ->      mode, padding_mode, align_corners)

        x [N, C, H, W], flow [N, 2, H', W'], scale [1, 1, 1, 2], base [1, H', W', 2] -> [N, C, H', W']

    The function's body is the left-hand side, so the model means the same to whoever knows no such operator.
    `base` is the sampling grid of a zero flow, `scale` turns pixels into its units. inline-flow-warp is the
    inverse.

    Matches the form that collapse-flow-warp leaves, operands of Mul and Add in either order. Refused: a
    GridSample whose grid is none, and so no flow warp.
    """

    name: ClassVar[str] = "outline-flow-warp"
    after: ClassVar[tuple[type[Pass], ...]] = (CollapseFlowWarp,)

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        applied = apply_rules(model, [_Outline()])
        function = _flow_warp(model.opset_imports[""])
        if applied.changed and function.identifier() not in model.functions:
            model.functions[function.identifier()] = function
        return applied


class _Outline(OnOperator):
    def __init__(self) -> None:
        super().__init__("GridSample")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        added = _with_constant(cast(ir.Value, node.inputs[1]), "Add")
        scaled = _with_constant(added[0], "Mul") if added else None
        transpose = scaled[0].producer() if scaled else None
        if (
            added is None
            or scaled is None
            or transpose is None
            or transpose.op_type != "Transpose"
            or integers(transpose, "perm") != TO_CHANNELS_LAST
        ):
            return self.refuse(node, "its grid isn't Add(Mul(Transpose(flow))) with constants")
        self.inputs = (node.inputs[0], transpose.inputs[0], scaled[1], added[1])
        return self.accept(node, f"warp by {cast(ir.Value, transpose.inputs[0]).name}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        default = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 0}
        attributes = {**default, **node.attributes}
        return op.FlowWarp(*self.inputs, _domain=DOMAIN, _version=1, _name=label(node), **attributes)


def _with_constant(value: ir.Value, op: str) -> tuple[ir.Value, ir.Value] | None:
    """The varying and the constant operand of the node that makes the value, if it is such an `op`."""
    node = value.producer()
    if node is None or node.op_type != op:
        return None
    left, right = (cast(ir.Value, v) for v in node.inputs)
    if constant_value(left) is not None:
        left, right = right, left
    return (left, right) if constant_value(left) is None and constant_value(right) is not None else None


def _flow_warp(opset: int) -> ir.Function:
    """The function's definition, over the model's opset."""
    x, flow, scale, base = (ir.Value(name=n) for n in ("x", "flow", "scale", "base"))
    last = ir.node("Transpose", [flow], {"perm": TO_CHANNELS_LAST}, name="flow_last")
    scaled = ir.node("Mul", [last.outputs[0], scale], name="scaled")
    grid = ir.node("Add", [scaled.outputs[0], base], name="grid")
    kinds = {
        "mode": ir.AttributeType.STRING,
        "padding_mode": ir.AttributeType.STRING,
        "align_corners": ir.AttributeType.INT,
    }
    sample = ir.Node(
        "",
        "GridSample",
        [x, grid.outputs[0]],
        [ir.RefAttr(name, name, kind) for name, kind in kinds.items()],
        name="sample",
    )
    nodes = [last, scaled, grid, sample]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_out"
    body = ir.Graph([x, flow, scale, base], sample.outputs, nodes=nodes, opset_imports={"": opset})
    attributes = [ir.Attr(name, kind, None) for name, kind in kinds.items()]
    return ir.Function(DOMAIN, FLOW_WARP, "", graph=body, attributes=attributes)
