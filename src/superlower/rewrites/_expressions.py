"""What the values of a program's graphs are, whichever frame they are computed for.

A value is an *expression* at a *shift*: expressions are told apart by what they compute from which frames,
counted from the earliest of them. So `conv(frame[t-2])` and `conv(frame[t+1])` are one expression, at shifts
-2 and 1, and equal expressions are one object: what is computed twice shows by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.program.model import Read

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


class UnreadableError(Exception):
    """A graph that can't be taken apart: the message says why, and at which node."""


@dataclass(frozen=True)
class Operator:
    """An operator with its attributes, told apart by `key`."""

    op_type: str
    domain: str
    key: Hashable
    outputs: int
    attributes: Mapping[str, ir.Attr] = field(compare=False, repr=False)

    def with_attributes(self, **changed: ir.Attr) -> Operator:
        """The same with other attributes."""
        attributes = {**self.attributes, **changed}
        return Operator(self.op_type, self.domain, _key(attributes.values()), self.outputs, attributes)


class At(NamedTuple):
    """The value of an expression `shift` frames from t; 0 for what depends on no frame."""

    expression: Expression
    shift: int


@dataclass(frozen=True, eq=False)
class Call:
    """An operator on operands, the earliest frame that any of them reads being t.

    `kinds` are its outputs' shapes and element types, `hint` its node's name.
    """

    operator: Operator
    operands: tuple[At | None, ...]
    kinds: tuple[tuple[tuple[int, ...], ir.DataType], ...]
    hint: str


@dataclass(frozen=True, eq=False)
class Expression:
    """One value of a call, a constant, or an element of a stream.

    Attributes:
        shape: static sizes.
        dtype: element type.
        reads: elements of streams it depends on; the earliest offset is 0. Empty for constants.
        call: what makes it; None for constants and streams.
        output: which output of the call.
        stream: the stream it is an element of.
        constant: its array.
        hint: what the graph it was first met in calls it.
    """

    shape: tuple[int, ...]
    dtype: ir.DataType
    reads: frozenset[Read] = frozenset()
    call: Call | None = None
    output: int = 0
    stream: str = ""
    constant: NDArray[np.generic] | None = field(default=None, repr=False)
    hint: str = ""

    @property
    def op(self) -> str:
        """The ONNX operator that makes it; empty for constants, streams and other domains."""
        return self.call.operator.op_type if self.call is not None and not self.call.operator.domain else ""

    @property
    def operands(self) -> tuple[At, ...]:
        """The operands there are."""
        return tuple(at for at in self.call.operands if at is not None) if self.call is not None else ()


class Table:
    """Every expression of a program, each once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Expression, ...]] = {}

    def read(self, read: Read, shape: tuple[int, ...], dtype: ir.DataType) -> At:
        """An element of a stream."""
        found = self._known.setdefault(
            ("stream", read.stream),
            (Expression(shape, dtype, frozenset({Read(read.stream)}), stream=read.stream, hint=read.stream),),
        )
        return At(found[0], read.offset)

    def constant(self, array: NDArray[np.generic], hint: str = "") -> At:
        """An array, whose content makes its identity."""
        dtype = ir.DataType.from_numpy(array.dtype)
        key = ("constant", dtype, array.shape, array.tobytes())
        made = Expression(array.shape, dtype, constant=array, hint=hint)
        return At(self._known.setdefault(key, (made,))[0], 0)

    def integers(self, numbers: Iterable[int]) -> At:
        """A list of int64."""
        return self.constant(np.array(list(numbers), np.int64))

    def apply(
        self,
        operator: Operator,
        operands: Sequence[At | None],
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[ir.DataType],
        hint: str = "",
    ) -> tuple[At, ...]:
        """The operator's outputs."""
        shift = min((at.shift for at in operands if at is not None and at.expression.reads), default=0)
        moved = tuple(None if at is None else moved_by(at, -shift) for at in operands)
        key: Hashable = (operator, moved)
        if key not in self._known:
            reads = frozenset(
                Read(read.stream, read.offset + at.shift)
                for at in moved
                if at is not None
                for read in at.expression.reads
            )
            call = Call(operator, moved, tuple(zip(shapes, dtypes, strict=True)), hint or operator.op_type)
            self._known[key] = tuple(
                Expression(shape, dtype, reads, call, i, hint=call.hint)
                for i, (shape, dtype) in enumerate(call.kinds)
            )
        return tuple(At(expression, shift) for expression in self._known[key])


def moved_by(at: At, shift: int) -> At:
    """The same `shift` frames on."""
    return At(at.expression, at.shift + shift) if at.expression.reads else at


def walk(roots: Iterable[At], stop: frozenset[Expression] = frozenset()) -> Iterator[At]:
    """Every value the roots are made of, themselves included; what `stop` holds isn't entered."""
    seen: set[At] = set()
    todo = list(roots)
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        yield at
        if at.expression not in stop:
            todo += [moved_by(operand, at.shift) for operand in at.expression.operands]


def operator_of(node: ir.Node, unique: int) -> Operator:
    """The node's operator.

    Args:
        unique: sets a node of a random operator apart from all others.

    Raises:
        UnreadableError: it has a body (If, Loop), or attributes of a function's.
    """
    for attribute in node.attributes.values():
        if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            raise UnreadableError(f"{node.op_type} '{node.name}' has a body of its own")
    key = _key(node.attributes.values())
    names = [value.name for value in node.outputs]
    count = max((i + 1 for i, name in enumerate(names) if name), default=1)
    if node.op_type in RANDOM:
        key = (key, unique)
    return Operator(node.op_type, node.domain, key, count, dict(node.attributes))


def new_operator(op_type: str, **attributes: int | Sequence[int]) -> Operator:
    """An ONNX operator with one output."""
    made = {
        name: ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, value)
        for name, value in attributes.items()
    }
    return Operator(op_type, "", _key(made.values()), 1, made)


def _key(attributes: Iterable[ir.Attr]) -> Hashable:
    return tuple(sorted((a.name, str(a.type), _content(a)) for a in attributes))


def _content(attribute: ir.Attr) -> str | bytes:
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return f"{array.dtype}{array.shape}".encode() + array.tobytes()
    return repr(attribute.value)
