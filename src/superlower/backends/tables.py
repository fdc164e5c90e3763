"""Coverage from what probing found: in an SDK's stead where it isn't here, and what it computes wrongly."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import onnx_ir as ir

from superlower.backends import probe
from superlower.backends.base import Backend, NodeSupport
from superlower.errors import MissingSdkError
from superlower.ir import infer_shapes, node_op
from superlower.probes import tables
from superlower.probes.key import key_of
from superlower.probes.tables import Answer, Result, Table, Verdict
from superlower.targets.base import Precision, Target

FORCED = "SUPERLOWER_FROM_TABLES"
"""Environment variable: "1" has coverage answered from tables though the SDK is here."""

FOLDER = "SUPERLOWER_TABLES"
"""Environment variable: a folder whose tables come before those that superlower ships."""

CERTAIN = frozenset({"Constant", "Identity"})
"""Operators that every SDK takes: they compute nothing."""

_TAKEN = frozenset({Verdict.RIGHT, Verdict.BUILT})
_HIDDEN = frozenset({Verdict.WRONG, Verdict.FAILED})
"""What an SDK that is asked doesn't tell."""


def architecture(target: Target) -> str:
    """What tables of a target are named by: "sm_86", "cpu", "intel-gpu"."""
    return f"sm_{target.compute_capability}" if target.compute_capability else target.kind


def shipped() -> Path:
    """The folder of the tables that superlower ships."""
    return Path(str(resources.files("superlower.probes"))) / "results"


def file_name(backend: str, target: str) -> str:
    """A table's file, of a backend for what `architecture` calls a target."""
    return f"{backend}-{target}.json"


def table_for(backend: str, target: Target) -> Table | None:
    """The table that knows most about a backend on a target; None if there is none.

    Where an NVIDIA architecture wasn't probed, the nearest older one answers, then the nearest newer, then
    the table of them all ("cuda"); the table's own `target` says which.
    """
    wanted = architecture(target)
    names = [wanted]
    if target.compute_capability is not None:
        sm = target.compute_capability
        names += [f"sm_{n}" for *_, n in sorted((n > sm, abs(n - sm), n) for n in _probed_sm(backend))]
        names.append("cuda")
    return next((table for name in names if (table := _read(backend, name)) is not None), None)


def _folders() -> list[Path]:
    given = os.environ.get(FOLDER)
    return [*([Path(given)] if given else []), shipped()]


def _probed_sm(backend: str) -> set[int]:
    pattern = re.compile(rf"{re.escape(backend)}-sm_(\d+)\.json")
    names = (path.name for folder in _folders() if folder.is_dir() for path in folder.iterdir())
    return {int(match[1]) for match in map(pattern.fullmatch, names) if match}


def _read(backend: str, target: str) -> Table | None:
    for folder in _folders():
        path = folder / file_name(backend, target)
        if path.is_file():
            return _read_file(path, path.stat().st_mtime_ns)
    return None


@cache
def _read_file(path: Path, _: int) -> Table:
    return tables.read(path)


class Asked:
    """A table as an SDK that can be asked: nodes of one key are looked up once.

    Attributes:
        table: what answers.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._taken_keys = {r.key for r in table.results if r.answers and r.verdict in _TAKEN}
        self._answers: dict[str, Answer] = {}

    def about(self, node: ir.Node, opset: int) -> Answer:
        """What the table says of a node."""
        key = key_of(node, opset)
        if str(key) not in self._answers:
            answer = tables.ask(self.table, node, opset)
            if key.dtype == "untyped" and (taken := self._taken(key.op)) is not None:
                # In a subgraph, which shape inference leaves untyped: any type will have to do.
                answer = Answer(taken.verdict, False, "", taken)
            self._answers[str(key)] = answer
        return self._answers[str(key)]

    def _taken(self, op: str) -> Result | None:
        """A probe of the operator that went well."""
        of_op = (r for r in self.table.results if r.key.partition(" ")[0].rpartition("-")[0] == op)
        return next((r for r in of_op if r.verdict in _TAKEN and not (r.large or r.corner)), None)

    def __call__(self, model: ir.Model) -> str | None:
        """Why a node of the model is refused or computed wrongly, the first of them; None if none is."""
        return next(filter(None, (self._refusal(node, opset) for node, opset in _nodes(model))), None)

    def _refusal(self, node: ir.Node, opset: int) -> str | None:
        if node.op_type in CERTAIN and not node.domain:
            return None
        answer = self.about(node, opset)
        if answer.verdict is None:
            return f"{node_op(node)} was never probed"
        return why(answer) if answer.verdict not in _TAKEN else None

    def hidden(self, model: ir.Model) -> str | None:
        """What the SDK may take and then gets wrong, fails to run or doesn't build, in just a probed setting.

        Where probes of one key came out differently, what it refuses is left to the SDK to say.
        """
        for node, opset in _nodes(model):
            answer = self.about(node, opset)
            never = answer.exact and str(key_of(node, opset)) not in self._taken_keys
            if never or (answer.exact and answer.verdict in _HIDDEN):
                return why(answer)
        return None

    def source(self, node: ir.Node, model: ir.Model) -> str:
        """Where the answer about a node is from: the table, and what was probed if that isn't just this."""
        answer = self.about(node, model.opset_imports.get(node.domain, 0))
        nearest = answer.result
        near = f"; nearest probe: {nearest.case}" if nearest is not None and not answer.exact else ""
        return f"table: {self.table.title}, {self.table.target}{near}"


def why(answer: Answer) -> str:
    """A refusal's reason."""
    result = answer.result
    if answer.verdict is Verdict.FAILED:
        return f"it builds, and fails when run: {answer.detail}"
    if answer.verdict is not Verdict.WRONG or result is None:
        return answer.detail or str(answer.verdict)
    if result.error is None:
        return f"computes wrongly: {result.detail}"
    return f"computes wrongly: error {result.error:g} against tolerance {result.tolerance:.2g}"


def _nodes(model: ir.Model) -> Iterator[tuple[ir.Node, int]]:
    """Nodes of the graph, its subgraphs and the model's own functions that it calls, each with its opset."""
    pending: list[ir.Graph | ir.Function] = [model.graph]
    called = set()
    while pending:
        for node in ir.traversal.RecursiveGraphIterator(pending.pop()):
            function = model.functions.get((node.domain, node.op_type, node.overload))
            if function is None:
                yield node, model.opset_imports.get(node.domain, 0)
            elif function.identifier() not in called:
                called.add(function.identifier())
                pending.append(function)


def forced() -> bool:
    """Whether tables are to answer though the SDK is here."""
    return os.environ.get(FORCED) == "1"


def known_wrong(
    ask: probe.Ask, backend: Backend, target: Target, limits: probe.Ask = lambda _: None
) -> probe.Ask:
    """An SDK's answers, but what it hides is refused: wrong results and late failures, as probed.

    Only a table of the very version that is here counts.

    Args:
        ask: asks the SDK.
        limits: what is known without asking, whose reasons are told before the table's.
    """
    table = table_for(backend.name, target)
    if table is None or dict(table.sdk) != dict(backend.versions()):
        return ask
    asked = Asked(table)

    def answered(model: ir.Model) -> str | None:
        hidden = asked.hidden(model)
        return ask(model) if hidden is None else limits(model) or hidden

    return answered


def instead(
    backend: Backend,
    model: ir.Model,
    target: Target,
    precision: Precision,
    limits: probe.Ask | None = None,
) -> list[NodeSupport] | None:
    """Coverage from a table where the SDK isn't here or tables are forced; None where the SDK is to be asked.

    Args:
        limits: what is known without asking and without a table; asked first.

    Raises:
        MissingSdkError: neither SDK nor table.
    """
    reason = backend.missing()
    if reason is None and not forced():
        return None
    table = table_for(backend.name, target)
    if table is None:
        raise MissingSdkError(reason or f"no table says what {backend.name} does on {target.name}")
    return from_table(backend, table, model, target, precision, limits)


def from_table(
    backend: Backend,
    table: Table,
    model: ir.Model,
    target: Target,
    precision: Precision,
    limits: probe.Ask | None = None,
) -> list[NodeSupport]:
    """How each node is served, in graph order, as a table says it; every answer names the table.

    An operator in a setting that wasn't probed is answered by the nearest probe, which is named; one that was
    never probed is unsupported, and so is an operator of a foreign domain.

    Args:
        limits: as in `instead`.
    """
    asked = Asked(table)

    def ask(given: ir.Model) -> str | None:
        return (limits(given) if limits is not None else None) or asked(given)

    found = probe.coverage(model, ask, backend.legalize(target, precision))
    nodes = zip(infer_shapes(model).graph, found, strict=True)
    return [replace(served, source=asked.source(node, model)) for node, served in nodes]
