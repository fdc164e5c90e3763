"""A survey of coverage arranged for reading: a matrix by target, a table by operator, reasons in groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from superlower.backends.base import Support
from superlower.driver.coverage import Cell
from superlower.report.html import templates
from superlower.report.view import WORST_FIRST

_TEMPLATE = "coverage.html.j2"
_NAMED = 4

Counts = Mapping[Support, int]


@dataclass(frozen=True)
class Row:
    """One backend at one precision, with its cells in the order of the targets."""

    backend: str
    precision: str
    cells: tuple[Cell, ...]


def matrix(cells: Sequence[Cell]) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """Targets, and a row a backend and precision."""
    targets = tuple(dict.fromkeys(cell.target for cell in cells))
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.backend, cell.precision), []).append(cell)
    return targets, tuple(Row(*key, tuple(members)) for key, members in rows.items())


@dataclass(frozen=True)
class Column:
    """Targets on which a backend serves every operator alike, at one precision.

    Attributes:
        counts: operator -> how many nodes are served how.
    """

    backend: str
    precision: str
    targets: tuple[str, ...]
    counts: Mapping[str, Counts]

    @property
    def native(self) -> bool:
        """Whether every node is served natively."""
        return all(support is Support.NATIVE for counts in self.counts.values() for support in counts)


def by_operator(cells: Sequence[Cell]) -> tuple[tuple[str, ...], tuple[Column, ...]]:
    """Operators, those served worst first, then the most frequent; and a column for each group of targets."""
    columns: list[Column] = []
    for cell in cells:
        if not cell.graphs:
            continue
        counts: dict[str, Counter[Support]] = {}
        for nodes in cell.graphs.values():
            for node in nodes:
                counts.setdefault(node.op, Counter())[node.support] += 1
        for index, column in enumerate(columns):
            if (column.backend, column.precision, column.counts) == (cell.backend, cell.precision, counts):
                columns[index] = replace(column, targets=(*column.targets, cell.target))
                break
        else:
            columns.append(Column(cell.backend, cell.precision, (cell.target,), counts))

    def order(op: str) -> tuple[int, int, str]:
        found = [column.counts[op] for column in columns if op in column.counts]
        worst = min(WORST_FIRST.index(support) for counts in found for support in counts)
        return worst, -max(sum(counts.values()) for counts in found), op

    return tuple(sorted({op for column in columns for op in column.counts}, key=order)), tuple(columns)


@dataclass(frozen=True)
class Reason:
    """Nodes of one operator that a backend serves in one way other than natively, for one reason.

    Attributes:
        targets: it is so on all of these.
        nodes: "graph/node" of the first few of `count`.
    """

    backend: str
    precision: str
    op: str
    support: Support
    detail: str
    targets: tuple[str, ...]
    nodes: tuple[str, ...]
    count: int

    @property
    def named(self) -> str:
        """Its nodes in words."""
        more = f" and {self.count - len(self.nodes)} more" if self.count > len(self.nodes) else ""
        return ", ".join(self.nodes) + more


def reasons(cells: Sequence[Cell]) -> tuple[Reason, ...]:
    """Everything that isn't native, grouped over nodes and targets; what is unsupported comes first."""
    grouped: dict[tuple[str, str, str, Support, str, tuple[str, ...]], list[str]] = {}
    for cell in cells:
        named: dict[tuple[str, Support, str], list[str]] = {}
        for graph, nodes in cell.graphs.items():
            for node in nodes:
                if node.support is not Support.NATIVE:
                    named.setdefault((node.op, node.support, node.detail), []).append(f"{graph}/{node.node}")
        for key, names in named.items():
            grouped.setdefault((cell.backend, cell.precision, *key, tuple(names)), []).append(cell.target)
    found = [
        Reason(sdk, precision, op, support, detail, tuple(targets), names[:_NAMED], len(names))
        for (sdk, precision, op, support, detail, names), targets in grouped.items()
    ]
    return tuple(sorted(found, key=lambda reason: WORST_FIRST.index(reason.support)))


def alike(found: Sequence[Reason]) -> tuple[tuple[Reason, ...], ...]:
    """Reasons that differ in the operator only, together, the most frequent operator first."""
    groups: dict[tuple[str, str, Support, str, tuple[str, ...]], list[Reason]] = {}
    for one in found:
        key = one.backend, one.precision, one.support, one.detail, one.targets
        groups.setdefault(key, []).append(one)
    return tuple(tuple(sorted(group, key=lambda one: (-one.count, one.op))) for group in groups.values())


@dataclass(frozen=True)
class Absence:
    """A backend that doesn't serve targets, or could not be asked about them.

    Attributes:
        asked: whether it is a matter of the target, not of what is installed here.
    """

    backend: str
    reason: str
    asked: bool
    precisions: tuple[str, ...]
    targets: tuple[str, ...]


def absences(cells: Sequence[Cell]) -> tuple[Absence, ...]:
    """Why cells are empty, grouped over precisions and targets."""
    grouped: dict[tuple[str, str, bool, tuple[str, ...]], list[str]] = {}
    by_target: dict[tuple[str, str, bool, str], list[str]] = {}
    for cell in cells:
        reason = cell.unserved or cell.unasked
        if reason is not None:
            key = cell.backend, reason, cell.unserved is not None, cell.target
            by_target.setdefault(key, []).append(cell.precision)
    for (sdk, reason, asked, target), precisions in by_target.items():
        grouped.setdefault((sdk, reason, asked, tuple(precisions)), []).append(target)
    return tuple(Absence(*key, tuple(targets)) for key, targets in grouped.items())


def sources(cells: Sequence[Cell]) -> dict[str, tuple[str, ...]]:
    """Tables that answered in an SDK's stead -> backend and target, as "tvm on v100"."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        for nodes in cell.graphs.values():
            for node in nodes:
                if table := node.source.partition("; ")[0]:
                    found.setdefault(table, {})[f"{cell.backend} on {cell.target}"] = None
    return {table: tuple(uses) for table, uses in found.items()}


@dataclass(frozen=True)
class Nearest:
    """Nodes that a table answers by a probe of another setting, for want of one of theirs."""

    backend: str
    op: str
    probe: str
    count: int
    targets: tuple[str, ...]


def nearest(cells: Sequence[Cell]) -> tuple[Nearest, ...]:
    """What tables answered by the nearest probe, grouped; `count` is of nodes on one target."""
    found: dict[tuple[str, str, str], Counter[tuple[str, str]]] = {}
    for cell in cells:
        for nodes in cell.graphs.values():
            for node in nodes:
                probe = node.source.partition("; nearest probe: ")[2]
                if probe:
                    found.setdefault((cell.backend, node.op, probe), Counter())[
                        cell.target, cell.precision
                    ] += 1
    return tuple(
        Nearest(*key, max(n.values()), tuple(dict.fromkeys(target for target, _ in n)))
        for key, n in found.items()
    )


def render(cells: Sequence[Cell], *, model: str, machine: str, versions: Mapping[str, str]) -> str:
    """A survey as a whole HTML document that loads nothing. Every text in it is escaped.

    Args:
        model: the program's name.
        machine: where the SDKs were asked.
        versions: package -> version of what was asked.
    """
    targets, rows = matrix(cells)
    operators, columns = by_operator(cells)
    return (
        templates()
        .get_template(_TEMPLATE)
        .render(
            model=model,
            machine=machine,
            versions=versions,
            targets=targets,
            rows=rows,
            operators=operators,
            columns=columns,
            reasons=reasons(cells),
            absences=absences(cells),
            sources=sources(cells),
            nearest=nearest(cells),
            served=sum(bool(cell.graphs) for cell in cells),
            covered=sum(bool(cell.graphs) and not cell.count(Support.UNSUPPORTED) for cell in cells),
            supports=WORST_FIRST[::-1],
        )
    )
