"""Convolutions over joined channels as sums: Conv(Concat(a, b), w) = Conv(a, w_a) + Conv(b, w_b).

Alone that gains nothing. It does where a term is computed again: an alignment joins each neighbour's features
to the middle frame's, and the neighbour's term is a function of one frame, the other the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from superlower.program.model import Program
from superlower.rewrites._expressions import At, Expression, new_operator
from superlower.rewrites._plan import Recomputed
from superlower.rewrites._stacks import Site, Stack, State, whole


@dataclass
class Sums:
    """Which terms are computed again: `count` all of them in every equation first, then `split`."""

    program: Program
    places: dict[Expression, set[tuple[str, int]]] = field(default_factory=dict)
    users: dict[tuple[str, At], set[At]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Learn how often equations are evaluated."""
        self.again = Recomputed(self.program)

    def count(self, equation: str) -> Callable[[Site], Sequence[State] | None]:
        """For reading a graph: takes note of a convolution's terms, and leaves it as it is."""

        def note(site: Site) -> Sequence[State] | None:
            parts = _parts(site)
            if parts:
                made = _term(site, parts, range(len(parts)))
                self.places.setdefault(made.expression, set()).add((equation, made.shift))
                for i in range(len(parts)):
                    term = _term(site, parts, [i])
                    self.places.setdefault(term.expression, set()).add((equation, term.shift))
                    self.users.setdefault((equation, term), set()).add(made)
            return None

        return note

    def split(self, equation: str) -> Callable[[Site], Sequence[State] | None]:
        """For reading a graph: the sum, with a term for each part that is worth it and one for all others."""

        def made(site: Site) -> Sequence[State] | None:
            parts = _parts(site)
            if not parts or self._worth(_term(site, parts, range(len(parts)))):
                return None
            shared = [i for i in range(len(parts)) if self._shared(equation, _term(site, parts, [i]))]
            if not shared:
                return None
            rest = [i for i in range(len(parts)) if i not in shared]
            terms = [_term(site, parts, [i]) for i in shared] + ([_term(site, parts, rest)] if rest else [])
            total = terms[0]
            for term in terms[1:]:
                add = new_operator("Add")
                (total,) = site.table.apply(add, [total, term], site.shapes, site.dtypes, site.hint)
            return [total]

        return made

    def _worth(self, at: At) -> bool:
        return self.again.worth(frozenset(self.places.get(at.expression, ())))

    def _shared(self, equation: str, term: At) -> bool:
        return self._worth(term) or len(self.users.get((equation, term), ())) > 1


def _parts(site: Site) -> tuple[At, ...]:
    """What is joined before a convolution that is a sum; nothing for any other node."""
    data = site.operands[0] if site.operands else None
    weight = site.operands[1] if site.has(1) else None
    if site.operator.op_type != "Conv" or not isinstance(data, Stack) or not isinstance(weight, At):
        return ()
    if data.axis != 1 or len(data.parts) < 2 or site.dtypes[0] != ir.DataType.FLOAT:
        return ()
    known = weight.expression.constant is not None and site.integer("group", 1) == 1
    return data.parts if known else ()


def _term(site: Site, parts: Sequence[At], chosen: Sequence[int]) -> At:
    """The convolution over some of the parts; the first part's has the bias."""
    table, weight = site.table, site.operands[1]
    assert isinstance(weight, At)
    assert weight.expression.constant is not None
    ends = np.cumsum([0, *(part.expression.shape[1] for part in parts)])
    channels = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in chosen])
    kernel = table.constant(np.ascontiguousarray(weight.expression.constant[:, channels]))
    bias = site.operands[2] if site.has(2) and 0 in chosen else None
    data = whole(table, Stack(1, tuple(parts[i] for i in chosen)))
    operands = [data, kernel, *([] if bias is None else [whole(table, bias)])]
    return table.apply(site.operator, operands, site.shapes, site.dtypes, site.hint)[0]
