"""A report's data arranged as its tables show them: grouped, counted and in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

from superlower.backends.base import Support
from superlower.bundle.manifest import PassRecord
from superlower.check.crosscheck import VariantCheck
from superlower.report.data import CoverageTable, EngineRow, Report, Timing
from superlower.report.numbers import size_text

WORST_FIRST = (Support.UNSUPPORTED, Support.FALLBACK, Support.REWRITTEN, Support.NATIVE)

_NAMED = 6
_CHANGES = 5


def worst(values: Sequence[float]) -> float | None:
    """The largest, NaN above all; None of none."""
    return next((v for v in values if isnan(v)), max(values, default=None))


def lowest_psnr(check: VariantCheck) -> float | None:
    """The lowest PSNR over the frames in dB, NaN below all; infinity where every frame is identical."""
    return next((v for v in check.psnr_db if isnan(v)), min(check.psnr_db, default=None))


@dataclass(frozen=True)
class Verdicts:
    """How many variants ended how."""

    passed: int
    failed: int
    skipped: int
    unbuilt: int

    @property
    def ran(self) -> int:
        """Variants held to the reference."""
        return self.passed + self.failed


def verdicts(report: Report) -> Verdicts:
    """Count the variants by outcome; one that failed and was then left out of the bundle counts once."""
    outcome = Counter(check.passed for check in report.checks)
    unbuilt = report.failures.keys() - {check.variant for check in report.checks}
    return Verdicts(outcome[True], outcome[False], outcome[None], len(unbuilt))


@dataclass(frozen=True)
class Column:
    """One backend's coverage on one target at one precision, over all graphs."""

    backend: str
    target: str
    precision: str
    counts: Mapping[Support, int]
    remarks: tuple[str, ...]

    @property
    def total(self) -> int:
        """Nodes in all."""
        return sum(self.counts.values())

    def share(self, support: Support) -> float:
        """Percentage of the nodes served in that way."""
        return 100 * self.counts.get(support, 0) / self.total if self.total else 0.0


@dataclass(frozen=True)
class Operator:
    """One operator's row: counts by support, one entry a column."""

    name: str
    cells: tuple[Mapping[Support, int], ...]


@dataclass(frozen=True)
class Reason:
    """Why nodes of one operator aren't served natively."""

    column: Column
    operator: str
    support: Support
    detail: str
    count: int
    nodes: tuple[str, ...]

    @property
    def more(self) -> int:
        """Nodes that aren't named."""
        return self.count - len(self.nodes)


@dataclass(frozen=True)
class Coverage:
    """The matrix of operators by backends, and the reasons behind it."""

    columns: tuple[Column, ...]
    operators: tuple[Operator, ...]
    reasons: tuple[Reason, ...]


def coverage(tables: Sequence[CoverageTable]) -> Coverage:
    """Arrange coverage by operator; those served worst come first, then the most frequent."""
    grouped: dict[tuple[str, str, str], list[CoverageTable]] = {}
    for table in tables:
        grouped.setdefault((table.backend, table.target, table.precision), []).append(table)
    columns, per_operator, reasons = [], [], []
    for key, members in grouped.items():
        nodes = [(f"{table.graph}/{node.node}", node) for table in members for node in table.nodes]
        remarks = dict.fromkeys(n.detail for _, n in nodes if n.support is Support.NATIVE and n.detail)
        column = Column(*key, Counter(n.support for _, n in nodes), tuple(remarks))
        columns.append(column)
        counts: dict[str, Counter[Support]] = {}
        named: dict[tuple[Support, str, str], list[str]] = {}
        for name, node in nodes:
            counts.setdefault(node.op, Counter())[node.support] += 1
            if node.support is not Support.NATIVE:
                named.setdefault((node.support, node.op, node.detail), []).append(name)
        per_operator.append(counts)
        reasons += [
            Reason(column, op, support, detail, len(names), tuple(names[:_NAMED]))
            for (support, op, detail), names in sorted(named.items(), key=lambda item: _rank(item[0][0]))
        ]
    operators = [
        Operator(name, tuple(counts.get(name, Counter()) for counts in per_operator))
        for name in dict.fromkeys(op for counts in per_operator for op in counts)
    ]
    operators.sort(key=_operator_order)
    return Coverage(tuple(columns), tuple(operators), tuple(reasons))


def _rank(support: Support) -> int:
    return WORST_FIRST.index(support)


def _operator_order(operator: Operator) -> tuple[int, int, str]:
    present = [_rank(support) for cell in operator.cells for support, count in cell.items() if count]
    most = max((sum(cell.values()) for cell in operator.cells), default=0)
    return min(present, default=len(WORST_FIRST)), -most, operator.name


@dataclass(frozen=True)
class PassRow:
    """One pass on one graph."""

    record: PassRecord
    before: int
    after: int
    changes: str

    @property
    def idle(self) -> bool:
        """Whether it neither rewrote nor refused anything."""
        return not (self.record.rewritten or self.record.refused)


@dataclass(frozen=True)
class GraphPasses:
    """What the passes of one stage did to one graph; `idle` are those that found nothing to do."""

    graph: str
    before: int
    after: int
    rows: tuple[PassRow, ...]
    idle: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Passes that run for every variant, or for one."""

    name: str
    graphs: tuple[GraphPasses, ...]

    @property
    def refused(self) -> int:
        """Sites that matched and were left alone."""
        return sum(len(row.record.refused) for graph in self.graphs for row in graph.rows)


def stages(passes: Mapping[str, Sequence[PassRecord]]) -> tuple[Stage, ...]:
    """Arrange passes by stage and graph, in the order they ran; a stage without passes is left out."""
    return tuple(Stage(name, tuple(_by_graph(records))) for name, records in passes.items() if records)


def _by_graph(records: Sequence[PassRecord]) -> Iterable[GraphPasses]:
    for graph in dict.fromkeys(record.graph for record in records):
        rows = [_pass_row(record) for record in records if record.graph == graph]
        yield GraphPasses(
            graph,
            rows[0].before,
            rows[-1].after,
            tuple(row for row in rows if not row.idle),
            tuple(row.record.name for row in rows if row.idle),
        )


def _pass_row(record: PassRecord) -> PassRow:
    before, after = Counter(record.nodes_before), Counter(record.nodes_after)
    moved = {op: after[op] - before[op] for op in sorted(before | after) if after[op] != before[op]}
    largest = sorted(moved, key=lambda op: -abs(moved[op]))
    told = [f"{op} {moved[op]:+d}".replace("-", "−") for op in largest[:_CHANGES]]  # noqa: RUF001
    if len(largest) > _CHANGES:
        told.append(f"{len(largest) - _CHANGES} more")
    return PassRow(record, before.total(), after.total(), ", ".join(told))


@dataclass(frozen=True)
class EngineLine:
    """One engine: its facts that have columns of their own, and the rest as words."""

    engine: EngineRow
    layers: int | None
    types: str
    activation_bytes: int | None
    weights_bytes: int | None
    others: tuple[str, ...]


@dataclass(frozen=True)
class EngineGroup:
    """The engines of one backend for one target at one precision."""

    backend: str
    target: str
    precision: str
    note: str
    sdk: str
    lines: tuple[EngineLine, ...] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Of all its engines."""
        return sum(line.engine.bytes for line in self.lines)


def engines(rows: Sequence[EngineRow]) -> tuple[EngineGroup, ...]:
    """Group engines by what they were built by and for, in the order given."""
    grouped: dict[tuple[str, str, str], list[EngineRow]] = {}
    for row in rows:
        grouped.setdefault((row.backend, row.target, row.precision), []).append(row)
    return tuple(
        EngineGroup(
            *key,
            note="; ".join(dict.fromkeys(row.note for row in members if row.note)),
            sdk=", ".join(dict.fromkeys(f"{k} {v}" for row in members for k, v in row.sdk.items())),
            lines=tuple(_engine_line(row) for row in members),
        )
        for key, members in grouped.items()
    )


def _engine_line(row: EngineRow) -> EngineLine:
    facts = dict(row.facts)

    def taken(name: str) -> int | None:
        value = facts.pop(name, None)
        return int(value) if value is not None else None

    layers, half, single = taken("layers"), taken("half_layers"), taken("float_layers")
    types = [f"{count} {name}" for count, name in ((half, "half"), (single, "float")) if count is not None]
    activation, weights = taken("activation_bytes"), taken("weights_bytes")
    others = tuple(
        f"{name.removesuffix('_bytes').replace('_', ' ')} "
        f"{size_text(int(value)) if name.endswith('_bytes') else value}"
        for name, value in facts.items()
    )
    return EngineLine(row, layers, ", ".join(types), activation, weights, others)


CURVE_WIDTH, CURVE_HEIGHT = 240.0, 40.0
"""Of a drawn curve, in pixels."""


def curve(losses: Sequence[float]) -> tuple[str, float]:
    """Points of an SVG polyline through the losses, from the least of them and 0 below to the largest above.

    Returns:
        The points, and the height at which 0 lies.
    """
    low, high = min(0.0, *losses), max(0.0, *losses)
    span = (high - low) or 1.0

    def height(value: float) -> float:
        return round(CURVE_HEIGHT * (high - value) / span, 2)

    step = CURVE_WIDTH / max(len(losses) - 1, 1)
    return " ".join(f"{i * step:.1f},{height(loss)}" for i, loss in enumerate(losses)), height(0.0)


def bar(timing: Timing, timings: Sequence[Timing]) -> float | None:
    """Length of a timing's bar in percent of the longest ratio; None where it has no finite ratio."""
    finite = [t.ratio for t in timings if drawable(t.ratio)]
    longest = max((ratio for ratio in finite if ratio is not None), default=0.0)
    if timing.ratio is None or not drawable(timing.ratio) or longest <= 0:
        return None
    return round(100 * timing.ratio / longest, 2)


def fastest(timings: Sequence[Timing]) -> Timing | None:
    """The variant of the largest ratio, PyTorch eager itself left out."""
    ranked = [(t.ratio, t) for t in timings if t.ratio is not None and drawable(t.ratio) and t.ratio != 1]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def drawable(ratio: float | None) -> bool:
    """Whether a ratio is a number that a bar can stand for."""
    return ratio is not None and 0 <= ratio < float("inf")
