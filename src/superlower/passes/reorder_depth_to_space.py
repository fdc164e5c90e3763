"""Pixel shuffles as engines are fastest at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    apply_rules,
    as_before,
    integer,
    maker,
    producer,
    read_once,
    tensor,
    text,
)
from superlower.passes.base import Applied, Pass
from superlower.passes.fold_constants import FoldConstants

_ELEMENTWISE = ("LeakyRelu", "Relu")


@dataclass(frozen=True)
class ReorderDepthToSpace(Pass):
    """Move pixel shuffles behind activations, and their order of channels into the convolution before.

    ::

        LeakyRelu(DepthToSpace(x))                 ->  DepthToSpace(LeakyRelu(x))             Relu likewise
        DepthToSpace(Conv(x, w, b), CRD)           ->  DepthToSpace(Conv(x, w', b'), DCR)
        DepthToSpace(LeakyRelu(Conv(...)), CRD)    ->  DepthToSpace(LeakyRelu(Conv(...)'), DCR)

    w' and b' hold the same numbers with output channel c s^2 + k at k C + c, for s the block size and C the
    channels after the shuffle. The same arithmetic on the same values: an activation behind its convolution
    is fused into it, and DCR moves whole runs of channels where layouts keep channels together.

    A shuffle, activation or convolution whose result has other uses stays as it is.
    """

    name: ClassVar[str] = "reorder-depth-to-space"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [*map(_Before, _ELEMENTWISE), _Channels()])


class _Before(OnOperator):
    """An activation of a pixel shuffle."""

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        """The shuffle is read here alone."""
        node = maker(out)
        shuffle = producer(node.inputs[0], "DepthToSpace")
        if shuffle is None or not read_once(shuffle.outputs[0]):
            return self.skip(node)
        return self.accept(node, "before its pixel shuffle")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """The shuffle of the activation."""
        node = maker(out)
        shuffle = maker(node.inputs[0])  # type: ignore[arg-type]
        active = as_before(getattr(op, self.op)(shuffle.inputs[0], **node.attributes), node)
        return as_before(op.DepthToSpace(active, **shuffle.attributes), shuffle)


class _Channels(OnOperator):
    """A pixel shuffle in CRD order behind a convolution of known weights."""

    def __init__(self) -> None:
        super().__init__("DepthToSpace")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        """The convolution, and an activation between, are read here alone."""
        node = maker(out)
        if text(node, "mode", "DCR") != "CRD" or _convolution(node) is None:
            return self.skip(node)
        return self.accept(node, "CRD to DCR")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """The same with the convolution's output channels in DCR order."""
        node = maker(out)
        block = integer(node, "blocksize", 1)
        conv = _convolution(node)
        assert conv is not None
        constants = []
        for value in conv.inputs[1:]:
            assert value is not None
            assert value.dtype is not None
            array = constant_value(value)
            assert array is not None
            constants.append(op.Constant(value=tensor(_reordered(array, block), value.dtype)))
        made = as_before(op.Conv(conv.inputs[0], *constants, **conv.attributes), conv)
        active = maker(node.inputs[0])  # type: ignore[arg-type]
        if active is not conv:
            made = as_before(getattr(op, active.op_type)(made, **active.attributes), active)
        return as_before(op.DepthToSpace(made, blocksize=block, mode="DCR"), node)


def _convolution(shuffle: ir.Node) -> ir.Node | None:
    """The convolution that a shuffle reads, itself or through an activation, if it can be reordered."""
    node = None if shuffle.inputs[0] is None else shuffle.inputs[0].producer()
    if node is not None and node.op_type in _ELEMENTWISE and node.domain == "":
        if not read_once(node.outputs[0]):
            return None
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type != "Conv" or node.domain or integer(node, "group", 1) != 1:
        return None
    constant = all(constant_value(value) is not None for value in node.inputs[1:])
    return node if constant and read_once(node.outputs[0]) else None


def _reordered(array: NDArray[np.generic], block: int) -> NDArray[np.generic]:
    """Output channels (the first axis) from [C, s, s] to [s, s, C]."""
    groups = array.reshape(-1, block * block, *array.shape[1:])
    return groups.swapaxes(0, 1).reshape(array.shape)
