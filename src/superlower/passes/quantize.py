"""Convolutions in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.ir import constant_value, node_name, static_shape
from superlower.passes._levels import SIGNED, UNSIGNED, Levels, levels_for, quantized_weight
from superlower.passes._rules import producer, tidy, type_values
from superlower.passes.base import Applied, Budget, Pass, Site
from superlower.passes.fold_constants import FoldConstants

_TYPES = {SIGNED: ir.DataType.INT8, UNSIGNED: ir.DataType.UINT8}


@dataclass(frozen=True)
class Quantize(Pass):
    """Put quantization around chosen convolutions and sums.

    ::

        Conv(x, w, b)                  ->  Conv(DQ(Q(x)), DQ(w8), b)
        Conv(DepthToSpace(x), w, b)    ->  Conv(DepthToSpace(DQ(Q(x))), DQ(w8), b)
        Add(x, Conv(...))              ->  Add(DQ(Q(x)), Conv(...))
        with `results`:  Conv(x, w, b) ->  DQ(Q(Conv(DQ(Q(x)), DQ(w8), DQ(b32))))

    Q and DQ are QuantizeLinear and DequantizeLinear, w8 is int8 with a scale an output channel.
    Only the nodes chosen read quantized values: a residual sum that isn't chosen goes on reading what its
    block's first convolution read, unquantized. A pixel shuffle moves bytes in the place of floats.

    Refused: a node whose input has no range in `ranges`. Convolutions of computed weights aren't looked at.

    Attributes:
        ranges: name of a value -> its smallest and largest, from calibration.
        nodes: names of the convolutions and sums to quantize; none for every one with a range.
        activations: "uint8", which CPUs multiply by int8 weights, or "int8", symmetric, for TensorRT.
        results: quantize what a convolution gives, too, after its activation where it has one: ONNX
            Runtime's integer convolutions give 8 bits.
    """

    name: ClassVar[str] = "quantize"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        float("inf"), "what 8 bits cost shows over a clip, not in one call: compile holds it to --budget-db"
    )
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    activations: str = UNSIGNED
    results: bool = False

    def __post_init__(self) -> None:
        """Check the option."""
        if self.activations not in _TYPES:
            raise BadInputError(
                f"quantize.activations is '{self.activations}': it takes {' or '.join(_TYPES)}"
            )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        type_values(model)
        rewriting = _Rewriting(model.graph, self)
        wanted = [n for n in model.graph if not self.nodes or node_name(n) in self.nodes]
        # What each reads is noted before any is rewritten.
        chosen = [(n, i, n.inputs[i]) for n in wanted if quantizable(n) for i in quantized_inputs(n)]
        for node, position, value in chosen:
            assert value is not None
            rewriting.quantize(node, position, value)
        if rewriting.rewritten:
            tidy(model)
        return Applied(tuple(rewriting.rewritten), tuple(rewriting.refused))


def watched(model: ir.Model) -> tuple[str, ...]:
    """Names of the values whose ranges the pass may ask for, whatever is chosen, in graph order."""
    found: dict[str, None] = {}
    for node in model.graph:
        if not quantizable(node):
            continue
        values = [source(v) for i in quantized_inputs(node) if (v := node.inputs[i]) is not None]
        values += [_result(node)] if node.op_type == "Conv" else []
        found.update((str(v.name), None) for v in values)
    return tuple(found)


def quantizable(node: ir.Node) -> bool:
    """Whether the pass is for the node: a float convolution of constant weights, or a sum of one's result.

    A sum is one of two tensors of equal sizes, of which one convolution made one.
    """
    if node.domain or node.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == "Conv":
        return constant_value(node.inputs[1]) is not None
    if node.op_type != "Add" or constant_value(node.inputs[0]) is not None:
        return False
    shapes = [static_shape(value) for value in node.inputs]
    return shapes[0] is not None and shapes[0] == shapes[1] and len(quantized_inputs(node)) == 1


def quantized_inputs(node: ir.Node) -> tuple[int, ...]:
    """Positions of the inputs that are quantized if the node is: all that aren't made by a convolution.

    A convolution's own result is summed in the accumulator. A residual sum has one such input.
    """
    if node.op_type == "Conv":
        return (0,)
    return tuple(i for i, value in enumerate(node.inputs) if producer(value, "Conv") is None)


def source(value: ir.Value) -> ir.Value:
    """What is quantized for `value`: the value, or what a pixel shuffle made it from."""
    shuffle = producer(value, "DepthToSpace")
    return value if shuffle is None or shuffle.inputs[0] is None else shuffle.inputs[0]


def _result(node: ir.Node) -> ir.Value:
    """What of a convolution an integer one gives: its result, after a Relu that alone reads it."""
    value = node.outputs[0]
    readers = [reader for reader, _ in value.uses()]
    if len(readers) == 1 and not value.is_graph_output() and readers[0].op_type == "Relu":
        return readers[0].outputs[0]
    return value


class _Rewriting:
    """A graph on its way to a quantized one, and the account of it."""

    def __init__(self, graph: ir.Graph, options: Quantize) -> None:
        self.graph = graph
        self.options = options
        self.rewritten: list[Site] = []
        self.refused: list[Site] = []
        self._made: dict[ir.Value, ir.Value] = {}

    def quantize(self, node: ir.Node, position: int, value: ir.Value) -> None:
        name = node_name(node)
        conv = node.op_type == "Conv"
        wanted = [source(value), *([_result(node)] if conv and self.options.results else [])]
        missing = [v.name for v in wanted if v.name not in self.options.ranges]
        if missing:
            self.refused.append(Site(name, f"no range is known of '{missing[0]}'"))
            return
        node.replace_input_with(position, self._through(value))
        if conv:
            self._weights(node, self._levels(source(value)))
            if self.options.results:
                self._quantize_result(_result(node))
        self.rewritten.append(Site(name, f"{self.options.activations} {node.op_type}"))

    def _levels(self, value: ir.Value) -> Levels:
        return levels_for(*self.options.ranges[str(value.name)], self.options.activations)

    def _quantize_result(self, value: ir.Value) -> None:
        """Let all readers of a convolution's result read it in 8 bits and back."""
        readers = [(node, i) for node, i in value.uses() if node.op_type != "QuantizeLinear"]
        for node, i in readers:
            node.replace_input_with(i, self._quantized(value))

    def _through(self, value: ir.Value) -> ir.Value:
        """The value in 8 bits and back; a pixel shuffle's, shuffled after that."""
        start = source(value)
        if start is value:
            return self._quantized(value)
        if value not in self._made:
            shuffle = value.producer()
            assert shuffle is not None
            moved = ir.node("DepthToSpace", [self._quantized(start)], dict(shuffle.attributes))
            moved.outputs[0].name = f"{value.name}_shuffled"
            moved.outputs[0].type, moved.outputs[0].shape = value.type, value.shape
            self.graph.insert_after(shuffle, moved)
            self._made[value] = moved.outputs[0]
        return self._made[value]

    def _quantized(self, value: ir.Value) -> ir.Value:
        if value not in self._made:
            nodes = self._pair(value, self._levels(value))
            made = value.producer()
            if made is None:
                self.graph.insert_before(self.graph[0], nodes)
            else:
                self.graph.insert_after(made, nodes)
            self._made[value] = nodes[-1].outputs[0]
        return self._made[value]

    def _pair(self, value: ir.Value, levels: Levels) -> list[ir.Node]:
        scale = self._constant(f"{value.name}_scale", np.float32(levels.scale), ir.DataType.FLOAT)
        zero = self._constant(f"{value.name}_zero", np.int64(levels.zero), _TYPES[levels.dtype])
        down = ir.node("QuantizeLinear", [value, scale, zero], name=f"{value.name}_quantize")
        up = ir.node("DequantizeLinear", [down.outputs[0], scale, zero], name=f"{value.name}_dequantize")
        for node, dtype in ((down, _TYPES[levels.dtype]), (up, value.dtype or ir.DataType.FLOAT)):
            node.outputs[0].name = f"{node.name}d"
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
        return [down, up]

    def _weights(self, node: ir.Node, activations: Levels) -> None:
        name = node_name(node)
        array = constant_value(node.inputs[1])
        assert array is not None
        levels, scale = quantized_weight(array)
        weight = self._constant(f"{name}_weight", levels, ir.DataType.INT8)
        scales = self._constant(f"{name}_weight_scale", scale, ir.DataType.FLOAT)
        zeros = self._constant(f"{name}_weight_zero", np.zeros(len(scale)), ir.DataType.INT8)
        self._replace(node, 1, ir.node("DequantizeLinear", [weight, scales, zeros], {"axis": 0}))
        bias = constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is None or not self.options.results:
            return
        # The accumulator's own levels: what an integer convolution adds its bias in.
        steps = scale.astype(np.float64) * activations.scale
        limit = np.iinfo(np.int32)
        summed = np.clip(np.rint(np.asarray(bias, np.float64) / steps), limit.min, limit.max)
        held = self._constant(f"{name}_bias", summed, ir.DataType.INT32)
        by = self._constant(f"{name}_bias_scale", steps, ir.DataType.FLOAT)
        none = self._constant(f"{name}_bias_zero", np.zeros(len(scale)), ir.DataType.INT32)
        self._replace(node, 2, ir.node("DequantizeLinear", [held, by, none], {"axis": 0}))

    def _replace(self, node: ir.Node, index: int, made: ir.Node) -> None:
        before = node.inputs[index]
        assert before is not None
        made.name = f"{node_name(node)}_{'weight' if index == 1 else 'bias'}_dequantize"
        made.outputs[0].name = f"{made.name}d"
        made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), before.shape
        self.graph.insert_before(node, made)
        node.replace_input_with(index, made.outputs[0])

    def _constant(self, name: str, array: np.generic | np.ndarray, dtype: ir.DataType) -> ir.Value:
        held = ir.tensor(np.asarray(array).astype(dtype.numpy()), dtype=dtype)
        shape = ir.Shape(np.shape(array))
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=held)
        self.graph.register_initializer(value)
        return value
