"""A graph rebuilt to take several frames in one call, along the first axis of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.ir import constant_value, infer_shapes, node_name, node_op, static_shape
from superlower.passes.base import Budget
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.validate import Deviation, compare, outputs_of, seeded_feeds, where

Array = NDArray[np.generic]

NAME = "batch"

BUDGET = Budget(
    1e-4,
    "the same operators on the same values; a kernel may sum a convolution's products in another order for "
    "another batch, which moves each of some 70 layers by up to 10 roundings of 2^-24: 4.2e-5",
)


class UnbatchableError(BadInputError):
    """A graph that can't be rebuilt: the message names the node and says why."""


def batched(model: ir.Model, size: int) -> ir.Model:
    """A graph that does for `size` frames at once what `model` does for one; `model` is left as it is.

    ::

        y[1, 64, H, W] = f(x[1, 3, H, W])  ->  y[B, 64, H, W] = f(x[B, 3, H, W])

    Every input and output is stacked along its first axis, of size one. Each node must treat the entries of
    that axis alike and apart: that is known of convolutions, pools, samplers, elementwise arithmetic, and of
    reshapes, transpositions, slices and joins that leave the axis alone. What constants alone make is shared;
    where an operator doesn't broadcast, it is repeated. Sizes written into Reshape and Expand are changed.

    Raises:
        UnbatchableError: a node that mixes frames or isn't known not to, sizes that aren't static, a graph
            with functions or bodies of If or Loop.
    """
    folded = infer_shapes(model)
    FoldConstants().run(folded)
    graph = infer_shapes(folded)
    name = model.graph.name or "unnamed"
    if graph.functions:
        raise UnbatchableError(f"graph '{name}' calls functions of its own: inline them first")
    rebuilt = _Rebuilt(graph.graph, size)
    for value in graph.graph.inputs:
        if static_shape(value) is None or not value.shape or value.shape[0] != 1:
            raise UnbatchableError(f"input '{value.name}' of graph '{name}' isn't one frame: {value.shape}")
        rebuilt.stacked.add(value)
    for node in list(graph.graph):
        rebuilt.visit(node)
    for value in graph.graph.outputs:
        if value not in rebuilt.stacked:
            raise UnbatchableError(f"output '{value.name}' of graph '{name}' doesn't depend on any input")
    for value in (*graph.graph.inputs, *(v for node in graph.graph for v in node.outputs)):
        if value in rebuilt.stacked:
            _resize(value, size)
        elif value.producer() is not None:
            value.shape = None
    return infer_shapes(graph)


def validate_batched(
    model: ir.Model, rebuilt: ir.Model, size: int, feeds: Sequence[Mapping[str, Array]]
) -> Deviation:
    """Hold a rebuilt graph to the original, frame by frame, on `feeds` and on seeded inputs.

    Raises:
        OutputsDifferError: an entry is over `BUDGET`, or the graph can't be run.
    """
    single = [*feeds[:size]]
    single += [seeded_feeds(model, seed) for seed in range(size - len(single))]
    together = outputs_of(rebuilt, [stack(single)], NAME)[0]
    apart = outputs_of(model, single, NAME)
    found = [{name: array[k : k + 1] for name, array in together.items()} for k in range(size)]
    return compare(apart, found, BUDGET, where(NAME, rebuilt))


def stack(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Feeds of several frames as those of one call."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _resize(value: ir.Value, size: int) -> None:
    assert value.shape is not None
    value.shape = ir.Shape([size, *list(value.shape)[1:]])


_ELEMENTWISE = frozenset(
    """
    Abs Add And BitShift Cast Ceil Clip Cos DequantizeLinear Div Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish
    Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign
    Sqrt Sub Sum Tanh ThresholdedRelu Where Xor
    """.split()  # noqa: SIM905
)
_BY_FRAME = frozenset(
    """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalMaxPool
    GroupNormalization InstanceNormalization LRN MaxPool SpaceToDepth
    """.split()  # noqa: SIM905
)
"""Operators whose first input alone is stacked, and which see each entry of it by itself."""


@dataclass(frozen=True)
class _Place:
    """A node to be visited, with what is known of its first input."""

    node: ir.Node
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def axis(self, name: str = "axis", default: int = 0) -> int:
        attribute = self.node.attributes.get(name)
        axis = default if attribute is None else attribute.as_int()
        return axis + self.rank if axis < 0 else axis

    def no(self, why: str) -> UnbatchableError:
        return UnbatchableError(
            f"{node_op(self.node)} '{node_name(self.node)}' {why}: it can't take several frames"
        )


class _Rebuilt:
    """A graph on its way; `stacked` are the values that have an entry a frame."""

    def __init__(self, graph: ir.Graph, size: int) -> None:
        self.graph, self.size = graph, size
        self.stacked: set[ir.Value] = set()
        self._rules: dict[str, Callable[[_Place], None]] = {
            "Concat": self._concat,
            "Reshape": self._reshape,
            "Flatten": self._flatten,
            "Expand": self._expand,
            "Transpose": self._transpose,
            "Slice": self._slice,
            "Gather": self._gather,
            "Split": self._off_the_axis,
            "Softmax": self._softmax,
            "LogSoftmax": self._softmax,
            "LayerNormalization": self._softmax,
            "Unsqueeze": self._squeeze,
            "Squeeze": self._squeeze,
            "ReduceMax": self._reduce,
            "ReduceMean": self._reduce,
            "ReduceMin": self._reduce,
            "ReduceSum": self._reduce,
            "Pad": self._pad,
            "Resize": self._resize_spatially,
            "GridSample": self._sampler,
            "DeformConv": self._deform,
            "MatMul": self._matmul,
        }

    def visit(self, node: ir.Node) -> None:
        """Make the node one of several frames; what constants alone make stays as it is."""
        if not any(v in self.stacked for v in node.inputs if v is not None):
            return
        if node.domain not in ("", "ai.onnx") or any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        ):
            raise _Place(node, ()).no("isn't known")
        lead = next(v for v in node.inputs if v in self.stacked)
        assert lead is not None
        shape = static_shape(lead)
        for value in (*node.inputs, *node.outputs):
            if (
                value is not None
                and value.name
                and constant_value(value) is None
                and static_shape(value) is None
            ):
                raise _Place(node, ()).no(f"has sizes that aren't static ('{value.name}')")
        assert shape is not None
        place = _Place(node, shape)
        for value in node.outputs:
            sizes = static_shape(value)
            if value.name and (not sizes or sizes[0] != 1):
                raise place.no(
                    f"makes '{value.name}' of shape {list(sizes or ())}, which holds no single frame"
                )
        if node.op_type in _ELEMENTWISE:
            self._broadcast(place)
        elif node.op_type in _BY_FRAME:
            self._only_first(place)
        elif node.op_type in self._rules:
            self._rules[node.op_type](place)
        else:
            raise place.no("isn't known to keep frames apart")
        self.stacked |= {value for value in node.outputs if value.name}

    def _only_first(self, place: _Place) -> None:
        if place.node.inputs[0] not in self.stacked or any(v in self.stacked for v in place.node.inputs[1:]):
            raise place.no("has weights that depend on the frame")

    def _broadcast(self, place: _Place) -> None:
        """Stacked operands have the rank of the result: shorter ones would be aligned at their last axes."""
        made = static_shape(place.node.outputs[0])
        assert made is not None
        per_axis = place.node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if per_axis:
            self._only_first(place)
            axis = place.axis("axis", 1)
            scale = static_shape(place.node.inputs[1])
            if axis == 0 and scale not in ((), (1,)):
                raise place.no("scales frames by themselves")
            return
        for value in place.node.inputs:
            if value in self.stacked and len(static_shape(value) or ()) != len(made):
                raise place.no("broadcasts a stacked value of fewer axes")

    def _concat(self, place: _Place) -> None:
        if place.axis() == 0:
            raise place.no("joins frames along their first axis")
        self._repeat(place)

    def _repeat(self, place: _Place) -> None:
        """Constants beside stacked values, once a frame."""
        for index, value in enumerate(place.node.inputs):
            if value is None or value in self.stacked:
                continue
            array = constant_value(value)
            if array is None or not array.ndim or array.shape[0] != 1:
                raise place.no(f"takes '{value.name}', which can't be repeated for each frame")
            many = np.repeat(array, self.size, axis=0)
            self._replace(place, index, many, f"{value.name}_times_{self.size}")

    def _replace(self, place: _Place, index: int, array: Array, stem: str) -> None:
        name, count = stem, 1
        while name in self.graph.initializers:
            if np.array_equal(self.graph.initializers[name].const_value.numpy(), array):  # type: ignore[union-attr]
                place.node.replace_input_with(index, self.graph.initializers[name])
                return
            name, count = f"{stem}_{count}", count + 1
        fixed = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        fixed.const_value = ir.tensor(array, name=name)
        self.graph.initializers[name] = fixed
        place.node.replace_input_with(index, fixed)

    def _sizes(self, place: _Place, index: int) -> Array:
        value = place.node.inputs[index] if index < len(place.node.inputs) else None
        array = constant_value(value)
        if array is None or value in self.stacked:
            raise place.no("has sizes that aren't constant")
        return array

    def _reshape(self, place: _Place) -> None:
        if place.node.inputs[0] not in self.stacked:
            raise place.no("reshapes a constant by what depends on the frame")
        self._sizes(place, 1)
        # The result holds one frame first (see `visit`): entries of the first axis stay whole and in order.
        made = static_shape(place.node.outputs[0])
        assert made is not None
        self._replace(place, 1, np.array([self.size, *made[1:]], np.int64), f"{node_name(place.node)}_shape")

    def _flatten(self, place: _Place) -> None:
        if place.axis("axis", 1) < 1:
            raise place.no("flattens frames together")

    def _expand(self, place: _Place) -> None:
        self._sizes(place, 1)
        made = static_shape(place.node.outputs[0])
        assert made is not None
        if place.node.inputs[0] not in self.stacked or place.rank != len(made):
            raise place.no("broadcasts a stacked value of fewer axes")
        self._replace(place, 1, np.array([self.size, *made[1:]], np.int64), f"{node_name(place.node)}_shape")

    def _transpose(self, place: _Place) -> None:
        order = place.node.attributes.get("perm")
        if order is None or order.as_ints()[0] != 0:
            raise place.no("moves the first axis")

    def _slice(self, place: _Place) -> None:
        axes = place.node.inputs[3] if len(place.node.inputs) > 3 else None
        counted = range(len(self._sizes(place, 1))) if axes is None else self._sizes(place, 3)
        self._axes(place, [int(a) for a in counted])

    def _axes(self, place: _Place, axes: Sequence[int]) -> None:
        if any(a % place.rank == 0 for a in axes):
            raise place.no("works along the first axis")

    def _gather(self, place: _Place) -> None:
        """From each frame by constant indices, or from a constant table by each frame's."""
        if place.node.inputs[0] in self.stacked:
            self._off_the_axis(place)
            return
        attribute = place.node.attributes.get("axis")
        if attribute is not None and attribute.as_int() != 0:
            raise place.no("looks up along another axis than the table's first")

    def _off_the_axis(self, place: _Place) -> None:
        self._only_first(place)
        if place.axis() == 0:
            raise place.no("works along the first axis")

    def _softmax(self, place: _Place) -> None:
        self._only_first(place)
        if place.axis("axis", -1) == 0:
            raise place.no("works along the first axis")

    def _squeeze(self, place: _Place) -> None:
        if len(place.node.inputs) < 2:
            raise place.no("drops every axis of one entry")
        made = static_shape(place.node.outputs[0])
        axes = [int(a) for a in self._sizes(place, 1)]
        rank = max(place.rank, len(made or ()))
        if any(a % rank == 0 for a in axes):
            raise place.no("adds or drops the first axis")

    def _reduce(self, place: _Place) -> None:
        if "axes" in place.node.attributes:
            self._axes(place, list(place.node.attributes["axes"].as_ints()))
        elif len(place.node.inputs) > 1:
            self._axes(place, [int(a) for a in self._sizes(place, 1)])
        else:
            raise place.no("reduces over all frames")

    def _pad(self, place: _Place) -> None:
        self._only_first(place)
        pads = self._sizes(place, 1)
        axes = place.node.inputs[3] if len(place.node.inputs) > 3 else None
        named = range(place.rank) if axes is None else [int(a) % place.rank for a in self._sizes(place, 3)]
        for k, axis in enumerate(named):
            if axis == 0 and (pads[k] or pads[k + len(pads) // 2]):
                raise place.no("pads the first axis")

    def _resize_spatially(self, place: _Place) -> None:
        self._only_first(place)
        if "axes" in place.node.attributes:
            self._axes(place, list(place.node.attributes["axes"].as_ints()))
            return
        scales = place.node.inputs[2] if len(place.node.inputs) > 2 else None
        if scales is not None and (array := constant_value(scales)) is not None and array.size:
            if array[0] != 1:
                raise place.no("scales the first axis")
            return
        sizes = self._sizes(place, 3)
        many = np.array([self.size, *sizes[1:]], np.int64)
        self._replace(place, 3, many, f"{node_name(place.node)}_sizes")

    def _sampler(self, place: _Place) -> None:
        self._repeat(place)

    def _deform(self, place: _Place) -> None:
        node = place.node
        if any(v in self.stacked for v in (node.inputs[1], node.inputs[3] if len(node.inputs) > 3 else None)):
            raise place.no("has weights that depend on the frame")
        for index in (0, 2, 4):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and value not in self.stacked:
                self._repeat_one(place, index)

    def _repeat_one(self, place: _Place, index: int) -> None:
        value = place.node.inputs[index]
        array = constant_value(value)
        if array is None or value is None:
            raise place.no("takes a value that can't be repeated for each frame")
        self._replace(place, index, np.repeat(array, self.size, axis=0), f"{value.name}_times_{self.size}")

    def _matmul(self, place: _Place) -> None:
        ranks = [len(static_shape(v) or ()) for v in place.node.inputs if v in self.stacked]
        made = len(static_shape(place.node.outputs[0]) or ())
        if min(ranks) < 3 or min(ranks) != made:
            raise place.no("multiplies across the first axis")
