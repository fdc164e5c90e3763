"""Alignment at several scales by the coarsest scale's flow or offsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import ancestors, static_shape
from superlower.passes._rules import Emitter, OnOperator, Rule, as_before, integer, label, maker
from superlower.passes.base import QualityBudget, Site
from superlower.rewrites._lossy import BUDGET, BUDGET_DB, Lossy, Unrefined
from superlower.rewrites._pyramids import (
    SAMPLERS,
    Refinement,
    Upsampled,
    reaches_outputs,
    refinements,
    upsampled,
)


@dataclass(frozen=True)
class ReuseCoarseFlow(Lossy):
    """Align every scale by the coarsest scale's flow or offsets, at a cost that is measured and held.

    ::

        up = Resize(flow_coarse) * f
        flow = up + Conv(... up ...)                        ->  flow = up

        guide = net(..., Resize(guide_coarse) * f)
        DeformConv(x, w, offsets(guide), mask(guide))       ->  DeformConv(x, w, Resize(offsets_coarse) * f,
                                                                           Resize(mask_coarse))

    In networks that align at each scale (MST-GAN's flows; the offsets of EDVR's PCD, Wang et al., CVPRW
    2019), the estimation at all scales but the coarsest goes; each scale's own convolution or fusion stays.

    Flows: every refinement of a pyramid (as truncate-flow-levels knows them) whose coarser flows also reach
    the outputs other than through finer ones. Offsets: a deformable convolution whose offsets are computed
    from features that, before they were enlarged by f and multiplied by it, gave the offsets of another one,
    f times smaller and with as many taps and groups.

    Refused: flow pyramids whose coarser flows serve the finer ones alone (SPyNet: truncate-flow-levels), and
    deformable convolutions with several coarser ones to take offsets from.

    Attributes:
        budget_db: largest loss of luma PSNR in dB over the clip that the model is compiled with.
    """

    name: ClassVar[str] = "reuse-coarse-flow"
    budget: ClassVar[QualityBudget] = BUDGET
    budget_db: float = BUDGET_DB

    def rules(self, graph: ir.Model) -> tuple[list[Rule], list[Site]]:
        """See the class."""
        finest, refused = refinements(graph)
        chosen: list[Refinement] = []
        for pyramid in finest:
            if _multiscale(pyramid):
                chosen += pyramid.levels
            else:
                reason = "its coarser flows serve the finer ones alone: truncate-flow-levels leaves those out"
                refused.append(Site(label(pyramid.node), reason))
        offsets, ambiguous = _coarser(graph)
        rules: list[Rule] = [Unrefined(chosen)] if chosen else []
        return [*rules, *([_ReusedOffsets(offsets)] if offsets else [])], [*refused, *ambiguous]


def _multiscale(finest: Refinement) -> bool:
    """Whether every coarser flow is used for itself."""
    return all(reaches_outputs(level.up.source, [level.node]) for level in finest.levels)


@dataclass(frozen=True)
class _Coarser:
    """Where a deformable convolution's offsets come from: `node`'s, enlarged as `up` was."""

    node: ir.Node
    up: Upsampled


def _coarser(graph: ir.Model) -> tuple[dict[ir.Node, _Coarser], list[Site]]:
    """For each deformable convolution at a finer scale, the next coarser one it is guided by."""
    found: dict[ir.Node, _Coarser] = {}
    refused: list[Site] = []
    # Not beyond samplers: what they align depends on coarser offsets, and is no guide.
    guides = {
        node: ancestors([offset], lambda made: () if made.op_type in SAMPLERS else made.inputs)
        for node in graph.graph
        if node.op_type == "DeformConv" and node.domain == "" and (offset := node.inputs[2]) is not None
    }
    for node, guide in guides.items():
        if _reused(node, guides):
            continue
        ups = [up for value in guide if (up := upsampled(value)) is not None]
        candidates = {
            other: up
            for up in ups
            for other, its_guide in guides.items()
            if up.source in its_guide and _fits(node, other, up.factor)
        }
        if len(candidates) > 1:
            names = ", ".join(sorted(label(other) for other in candidates))
            refused.append(Site(label(node), f"its offsets are guided by those of {names}: one is needed"))
        for other, up in candidates.items():
            if len(candidates) == 1:
                found[node] = _Coarser(other, up)
    return found, refused


def _reused(node: ir.Node, others: Iterable[ir.Node]) -> bool:
    """Whether the offsets are another one's already."""
    up = upsampled(node.inputs[2])
    return up is not None and any(up.source is other.inputs[2] for other in others)


def _fits(fine: ir.Node, coarse: ir.Node, factor: int) -> bool:
    """Whether offsets and mask are of the same taps and groups, the finer ones `factor` times as large."""
    if len(fine.inputs) != len(coarse.inputs) or fine is coarse:
        return False
    if integer(fine, "offset_group", 1) != integer(coarse, "offset_group", 1):
        return False
    for i in (2, 4)[: len(fine.inputs) // 2]:
        large, small = static_shape(fine.inputs[i]), static_shape(coarse.inputs[i])
        if large is None or small is None or large != (*small[:2], factor * small[2], factor * small[3]):
            return False
    return True


class _ReusedOffsets(OnOperator):
    def __init__(self, coarser: Mapping[ir.Node, _Coarser]) -> None:
        super().__init__("DeformConv")
        self.coarser = coarser
        self.made: dict[ir.Node, Sequence[ir.Value | None]] = {}

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        found = self.coarser.get(node)
        if found is None:
            return self.skip(node)
        return self.accept(node, f"offsets of {label(found.node)}, {found.up.factor} times as large")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        coarser, up = self.coarser[node].node, self.coarser[node].up
        # A coarser one rewritten before is gone: its new offsets are kept here.
        offset, mask = self.made.get(coarser, (coarser.inputs[2], [*coarser.inputs, None, None][4]))
        assert offset is not None
        factor = op.Constant(value_float=float(up.factor))
        size = (1.0, 1.0, float(up.factor), float(up.factor))

        def enlarged(value: ir.Value) -> ir.Value:
            return op.Resize(value, None, op.Constant(value_floats=list(size)), **up.resize.attributes)

        offset = op.Mul(enlarged(offset), factor)
        mask = None if mask is None else enlarged(mask)
        self.made[node] = (offset, mask)
        x, weight, _, *bias = node.inputs
        rest = [bias[0] if bias else None, mask] if mask is not None or bias else []
        return as_before(op.DeformConv(x, weight, offset, *rest, **node.attributes), node)
