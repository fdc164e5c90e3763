"""How every backend serves a model's nodes on every target, asked by a process a backend, two at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import onnx_ir as ir

from superlower.backends import tables
from superlower.backends.base import Backend, NodeSupport, Support
from superlower.backends.process import build_in_subprocess, stop_children
from superlower.driver import coverage_child
from superlower.driver.coverage_child import Answer, Asked
from superlower.driver.progress import Progress, Silent
from superlower.errors import BuildFailedError
from superlower.ir import save
from superlower.passes.pipelines import apply, default_pipeline
from superlower.targets.base import Precision, Target

TIMEOUT_S = 1800.0
"""Seconds a backend's process may take."""

PROCESSES = 2
"""At a time: each backend's answers are one process's work, and SDKs are large."""

_POLL_S = 0.25


@dataclass(frozen=True)
class Cell:
    """One backend on one target at one precision.

    Attributes:
        unserved: why the backend doesn't serve the target at that precision; None if it does.
        unasked: why it could not be asked (no SDK and no table, or the SDK died of it); None if it was.
        graphs: graph -> how each of its nodes is served, in graph order.
    """

    backend: str
    target: str
    precision: Precision
    unserved: str | None = None
    unasked: str | None = None
    graphs: Mapping[str, Sequence[NodeSupport]] = field(default_factory=dict)

    def count(self, support: Support) -> int:
        """Nodes served in that way, over all graphs."""
        return sum(node.support is support for nodes in self.graphs.values() for node in nodes)

    @property
    def verdict(self) -> str:
        """A word or two: "all native", "7 rewritten", "2 unsupported", "not served", "not asked"."""
        if self.unserved is not None:
            return "not served"
        if self.unasked is not None:
            return "not asked"
        for support in (Support.UNSUPPORTED, Support.FALLBACK, Support.REWRITTEN):
            if count := self.count(support):
                return f"{count} {support}"
        return "all native"


def survey(
    graphs: Mapping[str, ir.Model],
    backends: Sequence[Backend],
    targets: Sequence[Target],
    precisions: Sequence[Precision],
    progress: Progress | None = None,
    *,
    clean: bool = True,
) -> list[Cell]:
    """Coverage of graphs as `compile` would have them: cleaned up, then legalized by each backend.

    Args:
        graphs: name -> graph.
        backends: whose classes can be imported by name, for a process of their own.
        clean: False leaves the clean-up out.

    Returns:
        A cell for each backend, target and precision, in that order.
    """
    progress = progress or Silent()
    progress.stage("cleaning up", len(graphs))
    with tempfile.TemporaryDirectory(prefix="superlower-coverage-") as place:
        folder = Path(place)
        for name, graph in graphs.items():
            ready = apply(graph, default_pipeline())[0] if clean else graph
            save(ready, folder / f"{name}.onnx")
            progress.advance(name)
        asked: dict[str, list[Asked]] = {}
        found: dict[tuple[str, str, Precision], Cell] = {}
        for sdk in backends:
            for where in targets:
                for precision in precisions:
                    reason = sdk.serves(where, precision)
                    unasked = None if reason is not None else _unasked(sdk, where)
                    if reason is None and unasked is None:
                        asked.setdefault(sdk.name, []).append(Asked(target=where, precision=precision))
                    found[sdk.name, where.name, precision] = Cell(
                        sdk.name, where.name, precision, unserved=reason, unasked=unasked
                    )
        progress.stage("asking", sum(map(len, asked.values())))
        by_name = {sdk.name: sdk for sdk in backends}
        for name, answers in _ask_all(by_name, asked, folder, list(graphs), progress).items():
            for question, answer in zip(asked[name], answers, strict=True):
                key = name, question.target.name, question.precision
                found[key] = _cell(name, question, answer)
    return list(found.values())


def _unasked(sdk: Backend, target: Target) -> str | None:
    reason = sdk.missing()
    return None if reason is None or tables.table_for(sdk.name, target) is not None else reason


def _cell(name: str, question: Asked, answer: Answer) -> Cell:
    graphs = {graph: [node.support_of() for node in nodes] for graph, nodes in answer.graphs.items()}
    reason = "the SDK crashes when asked" if answer.pending else answer.failed or None
    return Cell(name, question.target.name, question.precision, unasked=reason, graphs=graphs)


def _ask_all(
    backends: Mapping[str, Backend],
    asked: Mapping[str, Sequence[Asked]],
    folder: Path,
    graphs: Sequence[str],
    progress: Progress,
) -> dict[str, list[Answer]]:
    told: set[tuple[str, int]] = set()
    with ThreadPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as pool:
        try:
            jobs = {
                name: pool.submit(_ask, backends[name], questions, folder, graphs)
                for name, questions in asked.items()
            }
            waiting = True
            while waiting:
                waiting = bool(wait(jobs.values(), timeout=_POLL_S).not_done)
                for name, questions in asked.items():
                    for index, answer in coverage_child.read_journal(_journal(folder, name)).items():
                        if not answer.pending and (name, index) not in told:
                            told.add((name, index))
                            progress.advance(f"{name} on {questions[index].target.name}")
            return {name: job.result() for name, job in jobs.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_children()
            raise


def _journal(folder: Path, backend: str) -> Path:
    return folder / backend / coverage_child.JOURNAL


def _ask(sdk: Backend, questions: Sequence[Asked], folder: Path, graphs: Sequence[str]) -> list[Answer]:
    """A backend's answers, in order. A question its process dies of is asked once more, builds apart."""
    journal = _journal(folder, sdk.name)
    journal.parent.mkdir()
    while True:
        answers = coverage_child.read_journal(journal)
        left = [i for i in range(len(questions)) if i not in answers or answers[i].pending == 1]
        if not left:
            return [answers[i] for i in range(len(questions))]
        request = coverage_child.Request(
            backend=f"{type(sdk).__module__}:{type(sdk).__qualname__}",
            folder=str(folder),
            graphs=tuple(graphs),
            questions=tuple(questions),
            left=tuple(left),
            apart=tuple(i for i in left if i in answers),
        )
        try:
            build_in_subprocess(
                f"{coverage_child.__name__}:answer",
                cast(dict[str, object], msgspec.to_builtins(request)),
                journal.parent,
                backend=sdk.name,
                timeout_s=TIMEOUT_S,
                # The child must find what was found here.
                env={tables.FORCED: "1"} if sdk.missing() is not None else None,
            )
        except BuildFailedError as error:
            # Nothing is written where the process died of something else than a question, and would again.
            if coverage_child.read_journal(journal) == answers:
                failed = {i: Answer(index=i, failed=str(error)) for i in left}
                return [failed.get(i) or answers[i] for i in range(len(questions))]
