"""The child side of a survey: one backend's coverage of every graph on every target, each on disk at once."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import cast

import msgspec

from superlower.backends.base import Backend, NodeSupport, Support
from superlower.backends.process import building_here
from superlower.errors import SuperlowerError
from superlower.ir import load
from superlower.targets.base import Precision, Target

JOURNAL = "journal.jsonl"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One question: of every graph, on a target at a precision."""

    target: Target
    precision: Precision


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer.

    Attributes:
        backend: "module:Class".
        folder: where the graphs are.
        left: indices of the questions to answer.
        apart: of those, the ones for which the backend starts processes of its own.
    """

    backend: str
    folder: str
    graphs: tuple[str, ...]
    questions: tuple[Asked, ...]
    left: tuple[int, ...]
    apart: tuple[int, ...]


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A NodeSupport as it travels."""

    node: str
    op: str
    support: Support
    detail: str
    source: str

    def support_of(self) -> NodeSupport:
        """As backends say it."""
        return NodeSupport(self.node, self.op, self.support, self.detail, self.source)


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the journal.

    Attributes:
        index: of the question.
        pending: how often it was begun without an answer yet.
        failed: why there is none.
        graphs: graph -> its nodes, in graph order.
    """

    index: int
    pending: int = 0
    failed: str = ""
    graphs: dict[str, tuple[Node, ...]] = {}


def read_journal(path: Path) -> dict[int, Answer]:
    """The last line of each question; one left pending is that which its process died of."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    found: dict[int, Answer] = {}
    for line in lines:
        if line.endswith(b"\n"):
            answer = msgspec.json.decode(line, type=Answer)
            found[answer.index] = answer
    return found


def answer(fields: dict[str, object], workdir: Path) -> dict[str, object]:
    """Answer question by question."""
    request = msgspec.convert(fields, Request)
    module, _, name = request.backend.partition(":")
    backend = cast(Backend, getattr(importlib.import_module(module), name)())
    models = {graph: load(Path(request.folder) / f"{graph}.onnx") for graph in request.graphs}
    with (workdir / JOURNAL).open("ab", buffering=0) as journal:
        for index in request.left:
            apart = index in request.apart
            journal.write(msgspec.json.encode(Answer(index=index, pending=2 if apart else 1)) + b"\n")
            asked = request.questions[index]
            with contextlib.nullcontext() if apart else building_here():
                try:
                    graphs = {
                        graph: tuple(
                            Node(n.node, n.op, n.support, n.detail, n.source)
                            for n in backend.coverage(model, asked.target, asked.precision)
                        )
                        for graph, model in models.items()
                    }
                    found = Answer(index=index, graphs=graphs)
                except SuperlowerError as error:
                    found = Answer(index=index, failed=str(error))
            journal.write(msgspec.json.encode(found) + b"\n")
    return {}
