"""Convolutions that share a bias, each with a copy of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from superlower.ir import constant_value
from superlower.passes._rules import label
from superlower.passes.base import Applied, Pass, Site
from superlower.passes.fold_constants import FoldConstants

_BIASED = frozenset({"Conv", "ConvTranspose"})


@dataclass(frozen=True)
class OwnBiases(Pass):
    """Give each convolution a bias that no other node reads.

    ::

        Conv(x, w, b), Conv(y, w, b)   ->   Conv(x, w, b), Conv(y, w, b')      with b' = b

    Windows run one network on each of their frames, with one set of weights. OpenVINO (2026.4) fuses a bias
    into a convolution on CPUs only if the convolution alone reads it; what follows the bias, an activation or
    a residual sum, then stays apart as well, and each is a pass over the output. A copy is as many numbers as
    the convolution has channels. Weights stay shared.

    The last of a pipeline: passes that tidy up merge equal constants. Left alone: biases that aren't
    constant, and one that a convolution alone reads. Exact.
    """

    name: ClassVar[str] = "own-biases"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        rewritten: list[Site] = []
        for node in list(model.graph):
            bias = _bias(node)
            if bias is None or len(bias.uses()) == 1:
                continue
            readers = len(bias.uses())
            node.replace_input_with(2, _copied(model.graph, bias))
            rewritten.append(Site(label(node), f"a copy of '{bias.name}', which {readers} nodes read"))
        return Applied(tuple(rewritten))


def _bias(node: ir.Node) -> ir.Value | None:
    """The constant bias of a convolution."""
    if node.op_type not in _BIASED or node.domain or len(node.inputs) < 3:
        return None
    return node.inputs[2] if constant_value(node.inputs[2]) is not None else None


def _copied(graph: ir.Graph, bias: ir.Value) -> ir.Value:
    array = constant_value(bias)
    assert array is not None
    count = 1
    while (name := f"{bias.name}_{count}") in graph.initializers:
        count += 1
    made = ir.Value(name=name, const_value=ir.tensor(np.array(array), name=name))
    made.shape, made.type = ir.Shape(array.shape), bias.type
    graph.register_initializer(made)
    return made
