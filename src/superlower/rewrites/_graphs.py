"""Graphs read into expressions, and written from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from superlower.ir import IR_VERSION, constant_value
from superlower.program.model import Read
from superlower.rewrites._expressions import (
    At,
    Call,
    Expression,
    Table,
    UnreadableError,
    moved_by,
    operator_of,
)
from superlower.rewrites._stack_rules import outputs_of
from superlower.rewrites._stacks import Site, State, whole


def read_graph(
    table: Table,
    model: ir.Model,
    reads: Mapping[str, Read],
    instead: Callable[[Site], Sequence[State] | None] = lambda _: None,
) -> dict[str, At]:
    """The graph's outputs, by name.

    Batched computation of frames is taken apart on the way (`_stack_rules`) as long as its parts repeat.

    Args:
        model: with static shapes inferred, and constants folded.
        reads: graph input -> what an equation reads there.
        instead: asked first what a node's outputs are; None where it has nothing to say.

    Raises:
        UnreadableError: calls of functions, bodies of If or Loop, sizes that aren't static.
    """
    if model.functions:
        raise UnreadableError(f"graph '{model.graph.name}' calls functions of its own: inline them first")
    states: dict[ir.Value, State] = {}
    for value in model.graph.inputs:
        if value.name in reads:
            states[value] = table.read(reads[str(value.name)], *_kind(value))
    for node in model.graph:
        operands = tuple(None if v is None else _state(table, states, v) for v in node.inputs)
        if constant_value(node.outputs[0]) is not None:
            continue
        operator = operator_of(node, len(states))
        kinds = [_kind(value) for value in node.outputs[: operator.outputs]]
        shapes, dtypes = tuple(shape for shape, _ in kinds), tuple(dtype for _, dtype in kinds)
        site = Site(table, operator, operands, shapes, dtypes, str(node.name or node.op_type))
        made = instead(site) or outputs_of(site)
        if made is None:
            plain = [None if o is None else whole(table, o) for o in operands]
            made = table.apply(operator, plain, shapes, dtypes, site.hint)
        states.update(zip(node.outputs, made, strict=False))
    return {str(v.name): whole(table, _state(table, states, v)) for v in model.graph.outputs}


def _state(table: Table, states: Mapping[ir.Value, State], value: ir.Value) -> State:
    if value in states:
        return states[value]
    array = constant_value(value)
    if array is None:
        raise UnreadableError(f"'{value.name}' is neither computed, constant nor read by the equation")
    return table.constant(array, str(value.name))


def _kind(value: ir.Value) -> tuple[tuple[int, ...], ir.DataType]:
    if value.dtype is None or value.shape is None or not value.shape.is_static():
        raise UnreadableError(f"the sizes of '{value.name}' aren't static")
    return tuple(int(str(size)) for size in value.shape), value.dtype


def write_graph(
    name: str, outputs: Mapping[str, At], leaf: Callable[[At], str | None], opsets: Mapping[str, int]
) -> ir.Model:
    """A graph that computes the outputs, each of its nodes once.

    Args:
        outputs: graph output -> its value.
        leaf: the name of the graph input that holds a value; None for what the graph computes itself. It must
            have one for elements of streams.
        opsets: domain -> version.
    """
    writer = _Writer(leaf, outputs)
    results: list[ir.Value] = []
    for output, at in outputs.items():
        value = writer.value(at)
        if value.producer() is None or value in results:
            # An input, a constant, or what is given out under another name already.
            value = writer.copy(value, at.expression, output)
        value.name = output
        results.append(value)
    graph = ir.Graph(
        list(writer.inputs.values()),
        results,
        nodes=writer.nodes,
        initializers=list(writer.constants.values()),
        opset_imports=dict(opsets),
        name=name,
    )
    return ir.Model(graph, ir_version=IR_VERSION)


class _Writer:
    """A graph under construction. Names taken from the start are those of its outputs."""

    def __init__(self, leaf: Callable[[At], str | None], names: Iterable[str]) -> None:
        self.leaf = leaf
        self.inputs: dict[str, ir.Value] = {}
        self.constants: dict[Expression, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.names = set(names)
        self._made: dict[tuple[Call, int], ir.Node] = {}

    def value(self, at: At) -> ir.Value:
        """The value in the graph; its nodes are made, operands first, unless they are there."""
        todo = [at]
        while todo:
            now = todo[-1]
            operands = [moved_by(operand, now.shift) for operand in now.expression.operands]
            missing = [] if self._there(now) else [o for o in operands if not self._there(o)]
            todo += missing
            if not missing:
                self._make(todo.pop())
        return self._find(at)

    def copy(self, value: ir.Value, expression: Expression, name: str) -> ir.Value:
        """The value once more."""
        node = ir.node("Identity", [value], name=self._fresh(f"{name}_copy"))
        self.nodes.append(node)
        return _typed(node.outputs[0], expression.shape, expression.dtype, name)

    def _there(self, at: At) -> bool:
        call = at.expression.call
        return call is None or self.leaf(at) is not None or (call, at.shift) in self._made

    def _find(self, at: At) -> ir.Value:
        expression = at.expression
        kind = (expression.shape, expression.dtype)
        if expression.constant is not None:
            if expression not in self.constants:
                name = self._fresh(expression.hint or "constant")
                value = _typed(ir.Value(name=name), *kind, name)
                # Not ascontiguousarray, which makes a list of a scalar.
                value.const_value = ir.tensor(np.array(expression.constant, order="C"), name=name)
                self.constants[expression] = value
            return self.constants[expression]
        name_of_input = self.leaf(at)
        if name_of_input is not None:
            if name_of_input not in self.inputs:
                self.names.add(name_of_input)
                self.inputs[name_of_input] = _typed(ir.Value(name=name_of_input), *kind, name_of_input)
            return self.inputs[name_of_input]
        assert expression.call is not None
        return self._made[expression.call, at.shift].outputs[expression.output]

    def _make(self, at: At) -> None:
        if self._there(at):
            return
        call = at.expression.call
        assert call is not None
        node = ir.Node(
            call.operator.domain,
            call.operator.op_type,
            [None if o is None else self._find(moved_by(o, at.shift)) for o in call.operands],
            list(call.operator.attributes.values()),
            num_outputs=call.operator.outputs,
            name=self._fresh(call.hint),
        )
        for i, (output, kind) in enumerate(zip(node.outputs, call.kinds, strict=True)):
            _typed(output, *kind, self._fresh(f"{node.name}_out{i or ''}"))
        self.nodes.append(node)
        self._made[call, at.shift] = node

    def _fresh(self, hint: str) -> str:
        stem = re.sub(r"[^\w.:/-]", "_", hint)
        name, count = stem, 1
        while name in self.names:
            name, count = f"{stem}_{count}", count + 1
        self.names.add(name)
        return name


def _typed(value: ir.Value, shape: tuple[int, ...], dtype: ir.DataType, name: str) -> ir.Value:
    value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
    return value
