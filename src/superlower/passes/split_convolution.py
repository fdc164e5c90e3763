"""A convolution whose channels are split afterwards as several convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir

from superlower.ir import constant_value, static_shape
from superlower.passes._rules import integer, label, producer, tidy
from superlower.passes.base import Applied, Budget, Pass, Site
from superlower.passes.fold_constants import FoldConstants


@dataclass(frozen=True)
class SplitConvolution(Pass):
    """Give each part of a convolution's output channels a convolution of its own.

    ::

        a, b = Split(Conv(x, w, bias), axis=1)
            ->  a = Conv(x, w[:k], bias[:k]),  b = Conv(x, w[k:], bias[k:])

    The same multiply-accumulates, and no copy of the channels: offsets and masks of a deformable convolution
    come out of one convolution so. OpenVINO (2026.4) splits planar tensors with its
    reference kernel on CPUs.

    Exact up to the order of summation. A convolution with other readers is left alone, or it would be
    computed twice. Refused: groups, weights that aren't constant, sizes that aren't static.
    """

    name: ClassVar[str] = "split-convolution"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "the same products, summed in another order where a kernel takes another for fewer channels: at most "
        "10 roundings of 2^-24 of what is summed a layer at 10^4 products, which cancellation may magnify 10 "
        "times; 4 layers together 2.4e-5",
    )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        rewritten: list[Site] = []
        refused: list[Site] = []
        # By hand: a Split has as many outputs as it likes, and a rewriter's pattern has a fixed number.
        for split in list(model.graph):
            conv = (
                producer(split.inputs[0], "Conv") if split.op_type == "Split" and not split.domain else None
            )
            if conv is None or not _along_channels(split) or not _read_by(conv, split):
                continue
            reason = _why_not(conv, split)
            if reason is None:
                sizes = [cast(tuple[int, ...], static_shape(part))[1] for part in split.outputs]
                rewritten.append(
                    Site(label(conv), f"convolutions to {' and '.join(map(str, sizes))} channels")
                )
                _rewrite(model.graph, conv, split, sizes)
            else:
                refused.append(Site(label(conv), reason))
        if rewritten:
            tidy(model)
        return Applied(tuple(rewritten), tuple(refused))


def _along_channels(split: ir.Node) -> bool:
    shape = static_shape(split.inputs[0])
    axis = integer(split, "axis", 0)
    return axis == 1 or (shape is not None and axis + len(shape) == 1)


def _read_by(conv: ir.Node, split: ir.Node) -> bool:
    """Whether the split alone reads the convolution."""
    (out,) = conv.outputs
    return not out.is_graph_output() and [node for node, _ in out.uses()] == [split]


def _why_not(conv: ir.Node, split: ir.Node) -> str | None:
    if integer(conv, "group", 1) != 1:
        return "groups: a part of the channels may not be a part of the groups"
    if any(constant_value(value) is None for value in conv.inputs[1:] if value is not None):
        return "its weights aren't constant"
    if any(static_shape(part) is None for part in split.outputs):
        return "the parts' sizes aren't static"
    return None


def _rewrite(graph: ir.Graph, conv: ir.Node, split: ir.Node, sizes: list[int]) -> None:
    for part, (first, end) in zip(split.outputs, pairwise(accumulate(sizes, initial=0)), strict=True):
        inputs = [conv.inputs[0]]
        for value in conv.inputs[1:]:
            inputs.append(None if value is None else _part(graph, value, first, end))
        node = ir.Node("", "Conv", inputs, list(conv.attributes.values()), name=f"{label(conv)}_{first}")
        made = node.outputs[0]
        made.shape, made.type = part.shape, part.type
        graph.insert_before(split, node)
        name = part.name
        # Graph outputs keep their names: the interface is not the pass's to change.
        part.name, made.name = f"{name}_split", name
        ir.convenience.replace_all_uses_with(part, made, replace_graph_outputs=True)
    graph.remove([split, conv], safe=True)


def _part(graph: ir.Graph, value: ir.Value, first: int, end: int) -> ir.Value:
    name = f"{value.name}_{first}_{end}"
    if name in graph.initializers:
        # Windows run one convolution on each frame.
        return graph.initializers[name]
    array = np.ascontiguousarray(cast(np.ndarray, constant_value(value))[first:end])
    made = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    made.shape, made.type = ir.Shape(array.shape), value.type
    graph.register_initializer(made)
    return made
