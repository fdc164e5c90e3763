"""Hardware rules as data: what an SDK's compiler won't build, in which types, for which architectures.

The parser knows nothing of them: without these rules a model parses, and its build fails late or, worse,
runs in another type than the one asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from superlower.targets.base import Precision


@dataclass(frozen=True)
class Rule:
    """Nodes that can't be built as they stand for architectures older than `since`.

    Attributes:
        since: first SM number that has no such limit.
        types: the rule holds where an input or output has one of these element types.
        reason: what happens, as a clause ("FP32 matrix products are not built").
        ops: operators of the ONNX domain; empty for any.
        rank: of the first input; 0 for any.
        cure: a precision that lifts the limit on the older architectures, if one does.
        silent: the SDK builds it all the same, in another type.
    """

    since: int
    types: frozenset[ir.DataType]
    reason: str
    ops: frozenset[str] = frozenset()
    rank: int = 0
    cure: Precision | None = None
    silent: bool = False

    def holds(self, node: ir.Node, sm: int) -> bool:
        """Whether the node is limited on the architecture."""
        if sm >= self.since or (self.ops and (node.domain or node.op_type not in self.ops)):
            return False
        if self.rank and _rank(node) != self.rank:
            return False
        return any(value is not None and value.dtype in self.types for value in (*node.inputs, *node.outputs))


def _rank(node: ir.Node) -> int:
    first = node.inputs[0] if node.inputs else None
    return 0 if first is None or first.shape is None else len(first.shape)


@dataclass(frozen=True)
class Breach:
    """A node and the rule it meets."""

    node: ir.Node
    rule: Rule


def breaches(nodes: Iterable[ir.Node], rules: Sequence[Rule], sm: int) -> list[Breach]:
    """For each limited node the first rule it meets, in graph order."""
    found = []
    for node in nodes:
        rule = next((r for r in rules if r.holds(node, sm)), None)
        if rule is not None:
            found.append(Breach(node, rule))
    return found


@dataclass(frozen=True)
class KnownRefusal:
    """An operator the SDK's parser is known to refuse, for when the SDK isn't here to be asked.

    Attributes:
        op: operator of the ONNX domain.
        reason: as a clause.
        attribute: the refusal holds only where this attribute is set; "" for always.
        values: and has one of these values; empty for any other than the operator's default of 0 or "none".
    """

    op: str
    reason: str
    attribute: str = ""
    values: frozenset[str | int] = frozenset()

    def holds(self, node: ir.Node) -> bool:
        """Whether the node is refused."""
        if node.domain or node.op_type != self.op:
            return False
        if not self.attribute:
            return True
        attribute = node.attributes.get(self.attribute)
        if attribute is None:
            return False
        value = attribute.value
        if isinstance(value, Sequence) and not isinstance(value, str):
            return any(item != 1 for item in value)
        return value in self.values if self.values else value not in (0, "none")
