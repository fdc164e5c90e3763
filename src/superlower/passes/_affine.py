"""Affine forms: each element of a value as scale * (one element of a source value) + offset.

The same function of a flow field reaches a graph in many spellings (channels taken apart and stacked
again, scalars or [1]-shaped constants, reciprocals for divisions, in-place writes as scatters), and
patterns for each would never be complete. Their meaning is one: an affine function per element and a
movement of elements. So values are interpreted over that domain: indices, scales and offsets are float64
arrays (indices are exact up to 2^53).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import constant_value, static_shape
from superlower.passes._rules import FLOATS, Emitter, integer, integers, tensor, text

Floats = NDArray[np.float64]
Move = Callable[[Floats], Floats]

MOVES = frozenset({"Transpose", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})
MOVES |= {"Expand", "Identity"}
JOINS = frozenset({"Concat", "ScatterElements", "ScatterND"})
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})


@dataclass(frozen=True)
class Affine:
    """value[i] = scale[i] * source.flat[index[i]] + offset[i], all arrays of the value's shape.

    Attributes:
        source: the value it is a function of; None where all scales are 0.
        index, scale, offset: see above; often broadcast views.
        roundings: how often an element was rounded; sums with 0 and products with powers of two aren't, and
            a division counts twice, since the reciprocal it would be replaced by is rounded too.
    """

    source: ir.Value | None
    index: Floats
    scale: Floats
    offset: Floats
    roundings: Floats

    def moves(self, permutation: tuple[int, ...]) -> bool:
        """Whether the value has the source's elements in the order of a Transpose by `permutation`."""
        shape = static_shape(self.source)
        if shape is None or len(shape) != len(permutation):
            return False
        expected = np.arange(math.prod(shape)).reshape(shape).transpose(permutation)
        if expected.shape != self.index.shape:
            return False
        return bool(np.all((self.index == expected) | (self.scale == 0)))

    def each(self, move: Move) -> Affine:
        """The form with all arrays moved alike."""
        arrays = (self.index, self.scale, self.offset, self.roundings)
        return Affine(self.source, *map(move, arrays))

    @property
    def in_place(self) -> bool:
        """Whether the value has the source's shape and element order."""
        return self.moves(tuple(range(self.index.ndim)))


def shrink(array: Floats) -> Floats:
    """The smallest array of the same rank that broadcasts back to `array`."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis) if array.shape[axis] else array
        if array.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, array.shape), array):
            array = first
    return array


def emit(op: Emitter, source: ir.Value, scale: Floats, offset: Floats, dtype: ir.DataType) -> ir.Value:
    """source * scale + offset, constants as small as they can be; scales of 1, offsets of 0 emit nothing."""
    value = source
    for operator, array, neutral in ((op.Mul, shrink(scale), 1), (op.Add, shrink(offset), 0)):
        if np.any(array != neutral):
            constant = array.reshape(()) if array.size == 1 else array
            value = operator(value, op.Constant(value=tensor(constant, dtype)))
    return op.Identity(source) if value is source else value


class Walk:
    """Affine forms of a graph's values, walked back to sources no further than the `stop` values."""

    def __init__(self, stop: Container[ir.Value] = ()) -> None:
        self._stop = stop
        self._roots: dict[ir.Value, ir.Value | None] = {}
        self._forms: dict[ir.Value, Affine] = {}

    @property
    def walked(self) -> tuple[ir.Value, ...]:
        """Values met so far, each before those it is computed from."""
        return tuple(self._roots)

    def root(self, value: ir.Value) -> ir.Value | None:
        """The one value this is an affine function of (itself, if nothing further back); None for a constant.

        Costs no arrays: ask before `form`.
        """
        if value not in self._roots:
            # Marked before the descent: a value reached again on it is its own root.
            self._roots[value] = value
            self._roots[value] = self._find_root(value)
        return self._roots[value]

    def _find_root(self, value: ir.Value) -> ir.Value | None:
        if constant_value(value) is not None:
            return None
        node = value.producer()
        if value in self._stop or node is None or node.domain != "" or value.dtype not in FLOATS:
            return value
        shapes = [static_shape(v) for v in (*node.inputs, value) if v is not None]
        if None in shapes:
            return value
        if node.op_type in MOVES:
            fixed = all(constant_value(v) is not None for v in node.inputs[1:] if v is not None)
            data = node.inputs[0]
            return self.root(data) if fixed and data is not None else value
        if node.op_type in ARITHMETIC:
            operands = [v for v in node.inputs if v is not None]
            roots = [self.root(v) for v in operands]
            if node.op_type == "Div" and roots[-1] is not None:
                return value
            varying = [r for r in roots if r is not None]
            return value if len(varying) > 1 else (varying[0] if varying else None)
        if node.op_type in JOINS and text(node, "reduction", "none") == "none":
            data_inputs = [v for v in node.inputs if v is not None]
            if node.op_type != "Concat":
                if constant_value(node.inputs[1]) is None:
                    return value
                del data_inputs[1]
            sources = {r for r in map(self.root, data_inputs) if r is not None}
            return value if len(sources) > 1 else (sources.pop() if sources else None)
        return value

    def form(self, value: ir.Value) -> Affine:
        """The affine form over `root(value)`. Shapes must be static."""
        if value not in self._forms:
            self._forms[value] = self._find_form(value)
        return self._forms[value]

    def _find_form(self, value: ir.Value) -> Affine:
        root = self.root(value)
        array = constant_value(value)
        if array is not None:
            zero = np.broadcast_to(np.float64(0), array.shape)
            return Affine(None, zero, zero, array.astype(np.float64), zero)
        shape = static_shape(value)
        if root is value or shape is None:
            index = np.arange(math.prod(shape or ()), dtype=np.float64).reshape(shape or ())
            one, none = (np.broadcast_to(np.float64(c), index.shape) for c in (1, 0))
            return Affine(value, index, one, none, none)
        node = value.producer()
        assert node is not None
        if node.op_type in MOVES:
            return self._moved(node, value)
        return self._joined(node) if node.op_type in JOINS else self._computed(node)

    def _moved(self, node: ir.Node, value: ir.Value) -> Affine:
        data = node.inputs[0]
        assert data is not None
        form = self.form(data)
        move = _movement(node, value, form.index.shape)
        return form.each(move)

    def _joined(self, node: ir.Node) -> Affine:
        parts = [self.form(v) for v in node.inputs if v is not None]
        axis = integer(node, "axis", 0)
        if node.op_type != "Concat":
            place = np.asarray(constant_value(node.inputs[1]), np.int64)
            parts = [parts[0], parts[-1]]
        source = next((p.source for p in parts if p.source is not None), None)

        def join(arrays: list[Floats]) -> Floats:
            if node.op_type == "Concat":
                return np.concatenate(arrays, axis)
            out = arrays[0].copy()
            if node.op_type == "ScatterND":
                out[tuple(np.moveaxis(place, -1, 0))] = arrays[1]
            else:
                np.put_along_axis(out, place % out.shape[axis], arrays[1], axis)
            return out

        return Affine(
            source,
            join([p.index for p in parts]),
            join([p.scale for p in parts]),
            join([p.offset for p in parts]),
            join([p.roundings for p in parts]),
        )

    def _computed(self, node: ir.Node) -> Affine:
        forms = [self.form(v) for v in node.inputs if v is not None]
        if node.op_type == "Neg":
            only = forms[0]
            return Affine(only.source, only.index, -only.scale, -only.offset, only.roundings)
        left, right = forms
        form, constant = (right, left) if left.source is None else (left, right)
        shape = np.broadcast_shapes(form.index.shape, constant.offset.shape)
        form, by = form.each(lambda a: np.broadcast_to(a, shape)), np.broadcast_to(constant.offset, shape)
        scale, offset = form.scale, form.offset
        inexact = by != 0 if node.op_type in ("Add", "Sub") else np.abs(np.frexp(by)[0]) != 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            if node.op_type == "Add":
                offset = np.add(offset, by)
            elif node.op_type == "Sub" and left.source is None:
                scale, offset = np.negative(scale), np.subtract(by, offset)
            elif node.op_type == "Sub":
                offset = np.subtract(offset, by)
            elif node.op_type == "Mul":
                scale, offset = np.multiply(scale, by), np.multiply(offset, by)
            else:
                scale, offset = np.divide(scale, by), np.divide(offset, by)
        rounded = np.add(form.roundings, inexact * (2.0 if node.op_type == "Div" else 1.0))
        return Affine(form.source, form.index, scale, offset, rounded)


def _movement(node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> Move:
    """How a node moves elements, as a function of arrays shaped as its data input."""
    out = static_shape(value) or ()
    constants = [None if v is None else constant_value(v) for v in node.inputs]
    match node.op_type:
        case "Transpose":
            permutation = integers(node, "perm", tuple(reversed(range(len(shape)))))
            return lambda a: a.transpose(permutation)
        case "Gather":
            axis = integer(node, "axis", 0)
            return lambda a: np.asarray(a.take(np.asarray(constants[1], np.int64), axis=axis))
        case "Slice":
            window = slice_window(constants[1:], len(shape))
            return lambda a: np.asarray(a[window])
        case "Split":
            axis = integer(node, "axis", 0)
            sizes = [(static_shape(v) or ())[axis] for v in node.outputs]
            position = list(node.outputs).index(value)
            start = sum(sizes[:position])
            return lambda a: a.take(np.arange(start, start + sizes[position]), axis=axis)
        case "Expand":
            return lambda a: np.broadcast_to(a, out)
        case _:
            return lambda a: a.reshape(out)


def slice_window(constants: Sequence[NDArray[np.generic] | None], rank: int) -> tuple[slice, ...]:
    """A Slice's constant inputs (starts, ends, axes, steps; the last two may be missing) as Python slices."""
    starts, ends = ([int(i) for i in np.asarray(c).reshape(-1)] for c in constants[:2])
    axes, steps = (None if c is None else [int(i) for i in c] for c in [*constants[2:], None, None][:2])
    window = [slice(None)] * rank
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = 1 if steps is None else steps[i]
        # A backward slice runs to the front where its end lies before it, which Python spells None.
        stop = None if step < 0 and end < -(2**31) else end
        window[i if axes is None else axes[i]] = slice(start, stop, step)
    return tuple(window)
