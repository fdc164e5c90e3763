"""Values of frames stacked, kept as their parts: batched computation taken apart.

Exporters stack a window's frames along the batch, or along an axis of their own, run one network over the
stack, and take the frames apart again. A `Stack` is such a value; `_stack_rules` says how an operator's
outputs are made of its operands' parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from superlower.rewrites._expressions import At, Operator, Table, new_operator

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """Concat(parts, axis)."""

    axis: int
    parts: tuple[At, ...]

    @property
    def sizes(self) -> Sizes:
        """Of the parts, along the axis."""
        return tuple(part.expression.shape[self.axis] for part in self.parts)

    @property
    def shape(self) -> Sizes:
        """Of the whole."""
        return resized(self.parts[0].expression.shape, self.axis, sum(self.sizes))

    @property
    def repeats(self) -> bool:
        """Whether two parts are one expression at different frames: what is worth computing apart."""
        first: dict[object, int] = {}
        return any(first.setdefault(at.expression, at.shift) != at.shift for at in self.parts)


State = At | Stack
"""A value as a graph is read."""


@dataclass(frozen=True)
class Site:
    """A node being read, with its operands' states."""

    table: Table
    operator: Operator
    operands: tuple[State | None, ...]
    shapes: tuple[Sizes, ...]
    dtypes: tuple[ir.DataType, ...]
    hint: str

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.operator.attributes.get(name)
        return default if found is None else found.as_int()

    def constants(self, position: int) -> list[int] | None:
        """A constant operand of integers; None where it is absent or isn't constant."""
        state = self.operands[position] if position < len(self.operands) else None
        array = state.expression.constant if isinstance(state, At) else None
        return None if array is None else [int(i) for i in np.atleast_1d(array)]

    def has(self, position: int) -> bool:
        """Whether there is such an operand."""
        return position < len(self.operands) and self.operands[position] is not None


def whole(table: Table, state: State) -> At:
    """The value itself."""
    if isinstance(state, At):
        return state
    if len(state.parts) == 1:
        return state.parts[0]
    dtype = state.parts[0].expression.dtype
    return table.apply(new_operator("Concat", axis=state.axis), state.parts, [state.shape], [dtype])[0]


def resized(shape: Sizes, axis: int, size: int) -> Sizes:
    """The sizes with another along one axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _parts(site: Site, state: State, axis: int, sizes: Sizes) -> Sequence[At] | None:
    """The parts of an operand cut as `sizes` along the axis."""
    if isinstance(state, Stack):
        return state.parts if (state.axis, state.sizes) == (axis, sizes) else None
    array = state.expression.constant
    if array is None or array.shape[axis] != sum(sizes):
        return None
    cuts = np.split(array, np.cumsum(sizes)[:-1], axis)
    return [site.table.constant(np.ascontiguousarray(cut)) for cut in cuts]


def each(
    site: Site,
    axes: Mapping[int, int],
    sizes: Sizes,
    to: int,
    *,
    made: Sizes | None = None,
    operator: Operator | None = None,
    other: Mapping[int, Sequence[At]] | None = None,
) -> Sequence[State] | None:
    """The operator on each part.

    Args:
        axes: operand -> its axis that is cut; the other operands serve every part whole.
        sizes: of the parts, along those axes.
        to: axis of the outputs along which their parts lie.
        made: sizes of the outputs' parts along it; `sizes` if None.
        operator: instead of the node's.
        other: operand -> one for each part, instead of the node's.
    """
    cut: dict[int, Sequence[At]] = dict(other or {})
    for position, axis in axes.items():
        state = site.operands[position]
        found = None if state is None else _parts(site, state, axis, sizes)
        if found is None:
            return None
        cut[position] = found
    made = made or sizes
    results: list[tuple[At, ...]] = []
    for i, size in enumerate(made):
        operands = [
            cut[p][i] if p in cut else None if state is None else whole(site.table, state)
            for p, state in enumerate(site.operands)
        ]
        shapes = [resized(shape, to, size) for shape in site.shapes]
        results.append(site.table.apply(operator or site.operator, operands, shapes, site.dtypes, site.hint))
    return [Stack(to, tuple(result[k] for result in results)) for k in range(len(site.shapes))]


def pick(site: Site, stack: Stack, indices: Sequence[int]) -> Stack | None:
    """The elements at these indices along the stack's axis; None if there are none, or in no plain order."""
    starts = np.cumsum((0, *stack.sizes))
    runs: list[tuple[int, list[int]]] = []
    for index in indices:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        local = index - int(starts[part])
        if runs and runs[-1][0] == part and runs[-1][1][-1] < local:
            runs[-1][1].append(local)
        else:
            runs.append((part, [local]))
    parts = []
    for part, locals_ in runs:
        at = stack.parts[part]
        size = stack.sizes[part]
        if len(locals_) < size:
            steps = {b - a for a, b in pairwise(locals_)} or {1}
            if len(steps) != 1:
                return None
            bounds = (locals_[0], locals_[-1] + 1, stack.axis, steps.pop())
            operands = [at, *(site.table.integers([bound]) for bound in bounds)]
            shape = resized(at.expression.shape, stack.axis, len(locals_))
            (at,) = site.table.apply(new_operator("Slice"), operands, [shape], [at.expression.dtype])
        parts.append(at)
    return Stack(stack.axis, tuple(parts)) if parts else None


def single(state: State) -> State:
    """A stack of one part as that part."""
    return state.parts[0] if isinstance(state, Stack) and len(state.parts) == 1 else state
