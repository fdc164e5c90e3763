"""Which types the groups of a model's nodes may take: what a backend serves, and what a type can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import onnx_ir as ir

from superlower.backends.base import Backend, native_precisions
from superlower.driver.node_groups import NodeGroup, Nodes
from superlower.ir import constant_value, infer_shapes, node_name
from superlower.passes.quantize import quantizable
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target

MIXABLE = (Precision.INT8, Precision.FP16, Precision.BF16, Precision.FP32)
"""Types that may be mixed, fewest bits first; of two with as many the one that rounds less."""

FP16_MAX = float(np.finfo(np.float16).max)
FP16_MARGIN = 4.0
"""How many times larger than on the calibration clip values may become before fp16 overflows: other clips
have other contrast, and recurrent states drift."""

Types = Mapping[str, Mapping[str, Precision]]
"""Graph -> node -> its type; nodes that aren't named are fp32."""


@dataclass(frozen=True)
class Option:
    """A group of nodes at one type.

    Attributes:
        group: which nodes.
        precision: theirs.
        held: those of the group that must stay fp32 at it, and why.
    """

    group: NodeGroup
    precision: Precision
    held: Mapping[tuple[str, str], str]

    @property
    def types(self) -> dict[str, dict[str, Precision]]:
        """Node -> type, by graph; empty at fp32."""
        if self.precision is Precision.FP32:
            return {}
        return {
            graph: {name: self.precision for name in names if (graph, name) not in self.held}
            for graph, names in self.group.nodes.items()
        }


@dataclass(frozen=True)
class Served:
    """What a backend computes in on a target.

    Attributes:
        precisions: of `MIXABLE`, in that order.
        refused: the others, and why not.
    """

    precisions: tuple[Precision, ...]
    refused: Mapping[Precision, str]


def served(backend: Backend, target: Target) -> Served:
    """Of the types that may be mixed those that a backend's kernels compute in, faster than in fp32."""
    reasons = native_precisions(backend, target)
    return Served(tuple(p for p in MIXABLE if not reasons[p]), {p: reasons[p] for p in MIXABLE if reasons[p]})


def types_of(chosen: Sequence[Option]) -> dict[str, dict[str, Precision]]:
    """Node -> type by graph, of several groups."""
    found: dict[str, dict[str, Precision]] = {}
    for option in chosen:
        for graph, types in option.types.items():
            found.setdefault(graph, {}).update(types)
    return found


def guarded_values(model: TemporalModel) -> dict[str, tuple[str, ...]]:
    """Graph -> values whose ranges say whether fp16 holds what a node reads, multiplies and makes."""
    found = {}
    for name, untyped in model.graphs.items():
        values: dict[str, None] = {}
        for node in infer_shapes(untyped).graph:
            if quantizable(node):
                values.update(dict.fromkeys(str(v.name) for v in (*_data(node), node.outputs[0])))
        found[name] = tuple(values)
    return found


def overflows(
    model: TemporalModel, nodes: Nodes, ranges: Mapping[str, Mapping[str, tuple[float, float]]]
) -> dict[tuple[str, str], str]:
    """The nodes that fp16 doesn't hold, (graph, node) -> why: by ranges observed closed loop on real frames.

    A node is unsafe if `FP16_MARGIN` times the largest value that it reads or makes is beyond fp16's range,
    or so much of its largest single product.

    Args:
        nodes: to look at.
        ranges: of `guarded_values`.
    """
    found = {}
    for graph, names in nodes.items():
        wanted = set(names)
        for node in infer_shapes(model.graphs[graph]).graph:
            if node_name(node) in wanted and (why := _overflow(node, ranges[graph])):
                found[graph, node_name(node)] = why
    return found


def _overflow(node: ir.Node, ranges: Mapping[str, tuple[float, float]]) -> str | None:
    read = max((_largest(v, ranges) for v in _data(node)), default=0.0)
    checks = {"reads": read, "makes": _largest(node.outputs[0], ranges)}
    weight = constant_value(node.inputs[1]) if node.op_type == "Conv" else None
    if weight is not None and weight.size:
        checks["multiplies to"] = read * float(np.abs(weight).max())
    for verb, value in checks.items():
        if not value * FP16_MARGIN <= FP16_MAX:
            return f"{verb} {value:.3g}, and {FP16_MARGIN:g} times that is beyond fp16's {FP16_MAX:g}"
    return None


def _largest(value: ir.Value, ranges: Mapping[str, tuple[float, float]]) -> float:
    low, high = ranges.get(str(value.name), (-inf, inf))
    return max(-low, high)


def _data(node: ir.Node) -> list[ir.Value]:
    """What a node reads besides constants."""
    return [v for v in node.inputs if v is not None and constant_value(v) is None]
