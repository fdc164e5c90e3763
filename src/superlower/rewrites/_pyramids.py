"""Coarse-to-fine estimation in graphs: flows and offsets that each level takes from the next coarser one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from superlower.ir import ancestors, constant_value, static_shape
from superlower.passes._rules import label, producer
from superlower.passes.base import Site

SAMPLERS = frozenset({"GridSample", "DeformConv"})
_FLOW_CHANNELS = 2

_LEFT_OUT = "superlower.refinement_left_out"
"""Metadata of the Resize node of a level whose refinement is gone: nothing else tells it from a network that
never had one. ONNX files keep it."""


@dataclass(frozen=True)
class Upsampled:
    """A value enlarged by a whole number, and multiplied by it: what a displacement in pixels becomes.

    Attributes:
        value: the product.
        source: what was enlarged.
        resize: by this node.
        factor: the number.
    """

    value: ir.Value
    source: ir.Value
    resize: ir.Node
    factor: int


@dataclass(frozen=True)
class Refinement:
    """One level of a flow's pyramid: Add(up, residual).

    Attributes:
        node: the Add.
        up: the coarser flow, at this level's size.
        coarser: the level that makes it; None where the coarser flow is no refinement itself.
    """

    node: ir.Node
    up: Upsampled
    coarser: Refinement | None

    @property
    def flow(self) -> ir.Value:
        """The refined flow."""
        return self.node.outputs[0]

    @property
    def levels(self) -> list[Refinement]:
        """This level and those it is made from, finest first."""
        return [self, *(self.coarser.levels if self.coarser else [])]


def mark_left_out(level: Refinement) -> None:
    """Note in the graph that the level's refinement was left out."""
    level.up.resize.metadata_props[_LEFT_OUT] = "yes"


def left_out(flow: ir.Value) -> int:
    """How many finer levels of the flow's pyramid were left out already."""
    enlarged = [
        made
        for node, _ in flow.uses()
        for made in ([node] if node.op_type != "Mul" else [user for user, _ in node.outputs[0].uses()])
        if made.op_type == "Resize" and _LEFT_OUT in made.metadata_props
    ]
    return max((1 + left_out(_times_factor(node)) for node in enlarged), default=0)


def _times_factor(resize: ir.Node) -> ir.Value:
    """The enlarged flow, multiplied where that is done after."""
    made = resize.outputs[0]
    products = [node.outputs[0] for node, _ in made.uses() if node.op_type == "Mul"]
    return next((product for product in products if upsampled(product)), made)


def upsampled(value: ir.Value | None) -> Upsampled | None:
    """Mul(Resize(x), f) or Resize(Mul(x, f)), f times as large, if the value is that."""
    shape = static_shape(value)
    if value is None or shape is None or len(shape) != 4:
        return None
    product, resize = producer(value, "Mul"), producer(value, "Resize")
    if product is not None:
        enlarged, times = _scaled(product)
        resize = producer(enlarged, "Resize")
        source = resize.inputs[0] if resize else None
    else:
        inner = producer(resize.inputs[0], "Mul") if resize else None
        source, times = _scaled(inner) if inner else (None, None)
    small = static_shape(source)
    if resize is None or source is None or small is None or times is None:
        return None
    factor = round(times)
    if factor < 2 or factor != times or shape != (*small[:2], factor * small[2], factor * small[3]):
        return None
    return Upsampled(value, source, resize, factor)


def _scaled(product: ir.Node) -> tuple[ir.Value | None, float | None]:
    """The operand of a product with one number, and the number."""
    for value, constant in (product.inputs, product.inputs[::-1]):
        array = constant_value(constant)
        if array is not None and array.size and np.all(array == array.flat[0]):
            return value, float(array.flat[0])
    return None, None


def reaches_outputs(value: ir.Value, without: Iterable[ir.Node]) -> bool:
    """Whether an output of the graph depends on the value by a path around the nodes in `without`."""
    barred = set(without)
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.is_graph_output():
            return True
        waiting += [made for user, _ in one.uses() if user not in barred for made in user.outputs]
    return False


def refinements(model: ir.Model) -> tuple[list[Refinement], list[Site]]:
    """The finest refinement of each flow pyramid of a graph; and sums that look like one and aren't.

    A refinement is a sum [N, 2, H, W] of a coarser flow, enlarged by a whole number and multiplied by it, and
    a convolution's output that depends on the coarser flow: the residual estimated at this level.
    """
    by_flow: dict[ir.Value, Refinement] = {}
    refused: list[Site] = []
    for node in model.graph:
        shape = static_shape(node.outputs[0]) if node.op_type == "Add" and node.domain == "" else None
        if shape is None or len(shape) != 4 or shape[1] != _FLOW_CHANNELS:
            continue
        for known, residual in (node.inputs, node.inputs[::-1]):
            up = upsampled(known)
            if up is None or residual is None:
                continue
            if static_shape(known) != shape or producer(residual, "Conv") is None:
                refused.append(Site(label(node), "what is added to the upsampled flow is no convolution's"))
            elif up.source not in ancestors([residual]):
                refused.append(
                    Site(label(node), "what is added to the upsampled flow isn't estimated from the flow")
                )
            else:
                by_flow[node.outputs[0]] = Refinement(node, up, by_flow.get(up.source))
            break
    refined = {level.up.source for level in by_flow.values()}
    return [level for flow, level in by_flow.items() if flow not in refined], refused
