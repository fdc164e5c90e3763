"""How operators treat stacks: Op(Concat(a, b, c)) as Concat(Op(a), Op(b), Op(c)), where that is the same.

A rule that can't make an operator's outputs of parts gives None: the operator then gets the Concat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from superlower.rewrites._expressions import At, moved_by, new_operator
from superlower.rewrites._stacks import Site, Sizes, Stack, State, each, pick, resized, single, whole

Rule = Callable[[Site, Stack], "Sequence[State] | None"]
"""A node and the first of its operands that is a stack -> its outputs."""


def outputs_of(site: Site) -> Sequence[State] | None:
    """The node's outputs, said by parts or more plainly; None where they are the operator on its operands.

    Plainly: reshapes, squeezes and unsqueezes are one Reshape, and of several only the last counts; an
    Identity is its operand.
    """
    op = "" if site.operator.domain else site.operator.op_type
    if op == "Concat":
        return _concat(site)
    stack = next((state for state in site.operands if isinstance(state, Stack)), None)
    if stack is not None:
        rule = RULES.get(op)
        made = None if rule is None else rule(site, stack)
        return made if made and all(isinstance(m, At) or m.repeats for m in made) else None
    first = site.operands[0] if site.operands else None
    if not isinstance(first, At):
        return None
    if op in RESHAPES:
        return [_reshaped(site, first, site.shapes[0])]
    return [first] if op == "Identity" else None


def _elementwise(site: Site, stack: Stack, matrices: int = 0) -> Sequence[State] | None:
    """Operands broadcast together, but for their last `matrices` axes."""
    from_end = stack.axis - len(stack.shape)
    if from_end >= -matrices:
        return None
    axes = {}
    for position, state in enumerate(site.operands):
        if state is None:
            continue
        shape = state.shape if isinstance(state, Stack) else state.expression.shape
        axis = len(shape) + from_end
        if axis >= 0 and shape[axis] != 1:
            axes[position] = axis
    return each(site, axes, stack.sizes, len(site.shapes[0]) + from_end)


def _matmul(site: Site, stack: Stack) -> Sequence[State] | None:
    return _elementwise(site, stack, matrices=2)


def _batchwise(*positions: int) -> Rule:
    """Batch entries, along axis 0 of these operands, don't meet."""

    def rule(site: Site, stack: Stack) -> Sequence[State] | None:
        # MaxPool's indices count through the batch, and a batch norm in training has its statistics of it.
        if stack.axis != 0 or len(site.shapes) > 1:
            return None
        return each(site, {p: 0 for p in positions if site.has(p)}, stack.sizes, 0)

    return rule


def _along_axis(default: int, onwards: bool = False) -> Rule:
    """Only the axis named by the attribute `axis` is computed along (with `onwards`: and all after it)."""

    def rule(site: Site, stack: Stack) -> Sequence[State] | None:
        axis = site.integer("axis", default) % len(stack.shape)
        met = stack.axis >= axis if onwards else stack.axis == axis
        return (
            None
            if met or site.operands[0] is not stack
            else each(site, {0: stack.axis}, stack.sizes, stack.axis)
        )

    return rule


def _reduce(site: Site, stack: Stack) -> Sequence[State] | None:
    rank = len(stack.shape)
    given = site.constants(1)
    if given is None:
        return None
    axes = {axis % rank for axis in given}
    if stack.axis in axes or not axes:
        return None
    to = stack.axis if site.integer("keepdims", 1) else stack.axis - sum(a < stack.axis for a in axes)
    return each(site, {0: stack.axis}, stack.sizes, to)


def _concat(site: Site) -> Sequence[State] | None:
    axis = site.integer("axis", 0) % len(site.shapes[0])
    first = next((s for s in site.operands if isinstance(s, Stack) and s.axis != axis), None)
    if first is not None:
        joined = each(site, dict.fromkeys(range(len(site.operands)), first.axis), first.sizes, first.axis)
        if joined is not None:
            return joined
    parts: list[At] = []
    for state in site.operands:
        if isinstance(state, Stack) and state.axis == axis:
            parts += state.parts
        elif state is not None:
            parts.append(whole(site.table, state))
    return [Stack(axis, tuple(parts))]


def _reshape(site: Site, stack: Stack) -> Sequence[State] | None:
    """Where the parts lie one after another in memory before and after."""
    before, after, count = stack.shape, site.shapes[0], len(stack.parts)
    if prod(before[: stack.axis]) != 1 or len(set(stack.sizes)) != 1 or site.operands[0] is not stack:
        return None
    to = next((axis for axis, size in enumerate(after) if size != 1), None)
    if to is None or after[to] % count:
        return None
    shape = resized(after, to, after[to] // count)
    return [Stack(to, tuple(_reshaped(site, part, shape) for part in stack.parts))]


def _reshaped(site: Site, at: At, shape: Sizes) -> At:
    """A value in another shape; of reshapes one after another only the last counts."""
    while at.expression.op == "Reshape":
        at = moved_by(at.expression.operands[0], at.shift)
    if at.expression.shape == shape:
        return at
    if at.expression.constant is not None:
        return site.table.constant(at.expression.constant.reshape(shape), at.expression.hint)
    operands = [at, site.table.integers(shape)]
    return site.table.apply(new_operator("Reshape"), operands, [shape], [at.expression.dtype], site.hint)[0]


def _transpose(site: Site, stack: Stack) -> Sequence[State] | None:
    rank = len(stack.shape)
    given = site.operator.attributes.get("perm")
    order = list(given.as_ints()) if given is not None else list(reversed(range(rank)))
    return each(site, {0: stack.axis}, stack.sizes, order.index(stack.axis))


def _resize(site: Site, stack: Stack) -> Sequence[State] | None:
    """Along other axes; sizes, where given, are each part's own."""
    rank = len(stack.shape)
    if site.operands[0] is not stack or site.shapes[0][stack.axis] != stack.shape[stack.axis]:
        return None
    axes = site.operator.attributes.get("axes")
    along = [a % rank for a in axes.as_ints()] if axes is not None else list(range(rank))
    sizes = site.constants(3)
    if sizes is None or stack.axis not in along:
        return each(site, {0: stack.axis}, stack.sizes, stack.axis)
    where = along.index(stack.axis)
    given = [site.table.integers(resized(tuple(sizes), where, size)) for size in stack.sizes]
    return each(site, {0: stack.axis}, stack.sizes, stack.axis, other={3: given})


def _pad(site: Site, stack: Stack) -> Sequence[State] | None:
    rank = len(stack.shape)
    pads = site.constants(1)
    axes = site.constants(3) if site.has(3) else list(range(rank))
    if pads is None or axes is None:
        return None
    for i, axis in enumerate(axes):
        if axis % rank == stack.axis and (pads[i] or pads[i + len(axes)]):
            return None
    return each(site, {0: stack.axis}, stack.sizes, stack.axis)


def _slice(site: Site, stack: Stack) -> Sequence[State] | None:
    rank = len(stack.shape)
    starts, ends = site.constants(1), site.constants(2)
    axes = site.constants(3) if site.has(3) else list(range(len(starts or ())))
    steps = site.constants(4) if site.has(4) else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None or site.operands[0] is not stack:
        return None
    bounds = {a % rank: (s, e, k) for a, s, e, k in zip(axes, starts, ends, steps, strict=True)}
    along = bounds.pop(stack.axis, None)
    if along is not None:
        chosen = list(range(*slice(*_ends(along)).indices(stack.shape[stack.axis])))
        picked = pick(site, stack, chosen)
        if picked is None:
            return None
        stack = picked
    if not bounds:
        return [single(stack)]
    table = site.table
    columns = [[bound[i] for bound in bounds.values()] for i in range(3)]
    starts_ends_axes_steps = (columns[0], columns[1], list(bounds), columns[2])
    operands: tuple[State, ...] = (stack, *(table.integers(c) for c in starts_ends_axes_steps))
    cut = Site(table, site.operator, operands, site.shapes, site.dtypes, site.hint)
    made = each(cut, {0: stack.axis}, stack.sizes, stack.axis)
    return None if made is None else [single(state) for state in made]


def _ends(bound: tuple[int, int, int]) -> tuple[int, int | None, int]:
    """ONNX's bounds as Python's: an end below -size means the start of a negative step's axis."""
    start, end, step = bound
    return start, None if step < 0 and end < -(1 << 30) else end, step


def _gather(site: Site, stack: Stack) -> Sequence[State] | None:
    rank = len(stack.shape)
    axis = site.integer("axis", 0) % rank
    state = site.operands[1]
    indices = state.expression.constant if isinstance(state, At) else None
    if indices is None or site.operands[0] is not stack:
        return None
    if axis != stack.axis:
        to = stack.axis if stack.axis < axis else stack.axis - 1 + indices.ndim
        return each(site, {0: stack.axis}, stack.sizes, to)
    if indices.ndim > 1:
        return None
    picked = pick(site, stack, [int(i) % stack.shape[axis] for i in np.atleast_1d(indices)])
    if picked is None or indices.ndim:
        return None if picked is None else [single(picked)]
    return [_reshaped(site, picked.parts[0], site.shapes[0])]


def _split(site: Site, stack: Stack) -> Sequence[State] | None:
    axis = site.integer("axis", 0) % len(stack.shape)
    if axis != stack.axis:
        return each(site, {0: stack.axis}, stack.sizes, stack.axis)
    found: list[State] = []
    first = 0
    for shape in site.shapes:
        picked = pick(site, stack, list(range(first, first + shape[axis])))
        if picked is None:
            return None
        found.append(single(picked))
        first += shape[axis]
    return found


_ELEMENTWISE = """
    Abs Add And Cast Ceil Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
    HardSwish Identity LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu
    Where Xor
"""
_BATCHWISE = """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalMaxPool
    GroupNormalization InstanceNormalization LRN LpPool MaxPool SpaceToDepth
"""
RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_REDUCTIONS = "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_BATCHWISE.split(), _batchwise(0)),
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along_axis(-1)),
    "LayerNormalization": _along_axis(-1, onwards=True),
    "GridSample": _batchwise(0, 1),
    "DeformConv": _batchwise(0, 2, 4),
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Resize": _resize,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
}
