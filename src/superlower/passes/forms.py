"""The forms that warps and deformable convolutions can take, and giving each node its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from superlower.passes._rules import Lowering, apply_rules, label
from superlower.passes._sampling import CHANNELS_FIRST, CHANNELS_LAST
from superlower.passes.base import Applied, Site
from superlower.passes.clamp_border import BorderAsZeros
from superlower.passes.half_pixel_grid import CornersUnaligned
from superlower.passes.lower_deform_conv import GATHER, GRID_SAMPLE, DeformConvDecomposed
from superlower.passes.lower_grid_sample import GridSampleAsGathers

NATIVE = "native"
HALF_PIXEL = "half-pixel-grid"
CLAMP_BORDER = "clamp-border"
GATHER_LAST = "gather-channels-last"
GATHER_FIRST = "gather-channels-first"

FORMS: Mapping[str, tuple[str, ...]] = {
    "GridSample": (NATIVE, HALF_PIXEL, CLAMP_BORDER, GATHER_LAST, GATHER_FIRST),
    "DeformConv": (NATIVE, GRID_SAMPLE, GATHER),
}
"""Operator -> its forms, the node itself first."""

GATHERED = frozenset({GATHER_LAST, GATHER_FIRST, GATHER})
"""Forms without a sampler, by which `convert-precision` would know coordinates: for graphs already typed."""


@dataclass(frozen=True)
class Choice:
    """A form for one node.

    Attributes:
        form: one of `FORMS` of the node's operator.
        why: in a few words.
    """

    form: str
    why: str


Chooser = Callable[[ir.Node], Sequence[Choice]]
"""A node's forms, the best first; none to leave it alone without a word."""


def lowering(op: str, form: str, opset: int, chosen: Collection[ir.Node] | None = None) -> Lowering:
    """The rewrite of an operator's nodes to a form other than native.

    Raises:
        KeyError: the operator has no such form.
    """
    forms: dict[tuple[str, str], Callable[[], Lowering]] = {
        ("GridSample", HALF_PIXEL): lambda: CornersUnaligned(chosen),
        ("GridSample", CLAMP_BORDER): lambda: BorderAsZeros(chosen),
        ("GridSample", GATHER_LAST): lambda: GridSampleAsGathers(CHANNELS_LAST, chosen),
        ("GridSample", GATHER_FIRST): lambda: GridSampleAsGathers(CHANNELS_FIRST, chosen),
        ("DeformConv", GRID_SAMPLE): lambda: DeformConvDecomposed(GRID_SAMPLE, opset, chosen),
        ("DeformConv", GATHER): lambda: DeformConvDecomposed(GATHER, opset, chosen),
    }
    return forms[op, form]()


def lower_each(model: ir.Model, choose: Chooser) -> Applied:
    """Give every GridSample and DeformConv of the main graph the first of its forms that it can take.

    Deformable convolutions come first: the samplers that they become are chosen for in their turn, and so
    are samplers whose padding has changed.

    Returns:
        What was rewritten and why; what was kept native and why; what was refused: nodes for which a form
        was chosen, but that could take neither it nor a later one.
    """
    opset = model.opset_imports[""]
    rewritten: dict[str, Site] = {}
    kept: list[Site] = []
    refused: list[Site] = []
    for op in ("DeformConv", "GridSample"):
        plan = _plan(model, op, choose)
        while plan.forms:
            rules = [lowering(op, form, opset, nodes) for form, nodes in plan.forms.items()]
            apply_rules(model, rules)
            for site in plan.sites:
                before = rewritten.get(site.node)
                told = site.detail if before is None else f"{before.detail}; {site.detail}"
                rewritten[site.node] = Site(site.node, told)
            plan = _plan(model, op, choose)
        kept += plan.kept
        refused += plan.refused
    return Applied(tuple(rewritten.values()), tuple(refused), tuple(kept))


@dataclass
class _Plan:
    """What is to be done to one operator's nodes."""

    forms: dict[str, list[ir.Node]]
    sites: list[Site]
    kept: list[Site]
    refused: list[Site]


def _plan(model: ir.Model, op: str, choose: Chooser) -> _Plan:
    plan = _Plan({}, [], [], [])
    for node in model.graph:
        if node.op_type != op or node.domain:
            continue
        choice, reasons = _first(node, choose(node), model.opset_imports[""])
        if choice is None and reasons:
            plan.refused.append(Site(label(node), "; ".join(reasons)))
        elif choice is not None and choice.form == NATIVE:
            plan.kept.append(Site(label(node), f"{op} kept: {choice.why}"))
        elif choice is not None:
            plan.forms.setdefault(choice.form, []).append(node)
            plan.sites.append(Site(label(node), f"{op} as {choice.form}: {choice.why}"))
    return plan


def _first(node: ir.Node, choices: Sequence[Choice], opset: int) -> tuple[Choice | None, list[str]]:
    """The first form that the node can take, and why not those before."""
    reasons: list[str] = []
    for choice in choices:
        if choice.form == NATIVE:
            return choice, reasons
        reason = lowering(node.op_type, choice.form, opset).why_not(node)
        if reason is None:
            return choice, reasons
        reasons.append(f"not as {choice.form}: {reason}")
    return None, reasons
