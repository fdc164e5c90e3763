"""Calls of FlowWarp as ordinary operators again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from superlower.passes._rules import label, tidy
from superlower.passes.base import Applied, Pass, Site
from superlower.passes.outline_flow_warp import DOMAIN, FLOW_WARP, OutlineFlowWarp


@dataclass(frozen=True)
class InlineFlowWarp(Pass):
    """Put the body of superlower::FlowWarp back in place of its calls: the inverse of outline-flow-warp.

    ::

        superlower::FlowWarp(x, flow, scale, base)
            ->  GridSample(x, Add(Mul(Transpose(flow), scale), base))

    Other functions of the model stay functions.
    """

    name: ClassVar[str] = "inline-flow-warp"
    after: ClassVar[tuple[type[Pass], ...]] = (OutlineFlowWarp,)

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        calls = [n for n in model.graph if n.domain == DOMAIN and n.op_type == FLOW_WARP]
        sites = tuple(Site(label(n), "body in place of the call") for n in calls)
        if not calls:
            return Applied()
        common.InlinePass(criteria=lambda f: (f.domain, f.name) == (DOMAIN, FLOW_WARP))(model)
        model.functions.pop((DOMAIN, FLOW_WARP, ""), None)
        common.RemoveUnusedOpsetsPass()(model)
        tidy(model)
        return Applied(sites)
