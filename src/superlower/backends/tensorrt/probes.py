"""Coverage by asking the SDK in a process of its own: first of the whole graph, then of each node alone.

A parser stops at the first node it refuses, and its whole-model query marks everything after that too. Every
answer is written down at once, so that an SDK which crashes costs one answer and a new process.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any, cast

import msgspec
import onnx_ir

from superlower import ir
from superlower.backends import limits, probe, tables
from superlower.backends.base import Backend, NodeSupport, Support
from superlower.backends.process import build_in_subprocess
from superlower.backends.tensorrt.cuda import on_device
from superlower.backends.tensorrt.network import Refusal, Sdk, misread, process_sdk, samplers
from superlower.errors import BuildFailedError
from superlower.targets.base import Precision, Target

MODEL = "probed.onnx"
JOURNAL = "answers.jsonl"

CRASHED = "the SDK crashes on it"

_RESTARTS = 8

KERNELS = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Einsum",
        "Gemm",
        "GridSample",
        "If",
        "InstanceNormalization",
        "LayerNormalization",
        "Loop",
        "MatMul",
        "MaxPool",
        "Resize",
        "Scan",
        "Softmax",
    }
)
"""Operators worth a build: whether there is a kernel for them hangs on their types and shapes."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the SDK said of a model; with `pending`, only that it is being asked."""

    digest: str
    refused: str | None = None
    pending: bool = False


class Journal:
    """Answers by model, on disk. A question left pending was the last one of a process that crashed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path.is_file() else []
        self.known: dict[str, str | None] = {}
        for answer in (msgspec.json.decode(line, type=Answer) for line in lines):
            self.known[answer.digest] = CRASHED if answer.pending else answer.refused

    def write(self, answer: Answer) -> None:
        """Append one answer."""
        with self._path.open("ab") as sink:
            sink.write(msgspec.json.encode(answer) + b"\n")


class Asker:
    """Asks one SDK about models, for one architecture.

    Attributes:
        sdk: what is asked.
        capability: member of the SDK's ComputeCapability to build for; "" to ask the parser only.
        known: limits of the compiler that are known without asking it; asked once the parser is content.
    """

    def __init__(
        self, sdk: Sdk, journal: Journal, capability: str = "", known: probe.Ask = lambda _: None
    ) -> None:
        self.sdk, self.capability, self.known = sdk, capability, known
        self._journal = journal

    def __call__(self, model: onnx_ir.Model) -> str | None:
        """Why the model is refused; None if it isn't."""
        content = ir.serialize(model)
        digest = hashlib.sha256(content).hexdigest()
        known = self._journal.known
        if digest not in known:
            self._journal.write(Answer(digest=digest, pending=True))
            known[digest] = self._ask(model, content)
            self._journal.write(Answer(digest=digest, refused=known[digest]))
        return known[digest]

    def _ask(self, model: onnx_ir.Model, content: bytes) -> str | None:
        self.sdk.clear()
        nodes = list(model.graph)
        network, refusals = self.sdk.parse(content, nodes)
        refusals = refusals or misread(nodes, samplers(self.sdk, network))
        if refusals:
            return refusals[0].reason
        if (limit := self.known(model)) is not None:
            return limit
        computes = any(not node.domain and node.op_type in KERNELS for node in nodes)
        if not self.capability or not computes or not _static(model):
            return None
        config = self.sdk.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(self.sdk.module.ComputeCapability, self.capability), 0)
        self.sdk.clear()
        if self.sdk.builder.build_serialized_network(network, config) is None:
            return f"the parser takes it, the compiler does not: {self.sdk.first_error()[:240]}"
        return None


def _static(model: onnx_ir.Model) -> bool:
    shapes = [value.shape for value in model.graph.inputs]
    return bool(shapes) and all(shape is not None and shape.is_static() for shape in shapes)


def refused_nodes(sdk: Sdk, model: onnx_ir.Model, journal: Path) -> list[Refusal]:
    """Every node of the main graph that the parser refuses."""
    found = probe.probe_nodes(ir.infer_shapes(model), Asker(sdk, Journal(journal)))
    return [Refusal(n.node, n.op, n.detail) for n in found if n.support is Support.UNSUPPORTED]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What coverage asks.

    Attributes:
        backend: "module:Class" of the backend, for its passes.
        sdk: module to import.
        capability: as in `Asker`.
        device: number of the GPU that the SDK needs to start; None for one that needs none.
    """

    backend: str
    sdk: str
    target: Target
    precision: Precision
    capability: str = ""
    device: int | None = None


class Covered(msgspec.Struct, frozen=True):
    """One node's coverage as it travels back from the child."""

    node: str
    op: str
    support: Support
    detail: str


def ask_coverage(
    model: onnx_ir.Model, question: Question, workdir: Path, *, title: str, timeout_s: float
) -> list[NodeSupport]:
    """How each node of the graph is served, in graph order. Starts as many processes as the SDK crashes.

    Raises:
        BuildFailedError: it crashed on too many models, or ran past the time limit.
    """
    ir.save(model, workdir / MODEL)
    request = cast(dict[str, object], msgspec.to_builtins(question))
    for attempt in range(_RESTARTS):
        before = len(Journal(workdir / JOURNAL).known)
        try:
            result = build_in_subprocess(
                f"{__name__}:cover", request, workdir, backend=title, timeout_s=timeout_s
            )
        except BuildFailedError:
            # A crash leaves a question behind; without one, asking again would end the same way.
            if attempt == _RESTARTS - 1 or len(Journal(workdir / JOURNAL).known) == before:
                raise
        else:
            covered = msgspec.convert(result["nodes"], list[Covered])
            return [NodeSupport(c.node, c.op, c.support, c.detail) for c in covered]
    raise AssertionError("unreachable: the last attempt returns or raises")


def _resolve(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def cover(fields: dict[str, object], workdir: Path) -> dict[str, object]:
    """Child side of `ask_coverage`."""
    question = msgspec.convert(fields, Question)
    backend: Backend = _resolve(question.backend)()
    known = limits.asked(limits.context(backend, question.target, question.precision))
    sdk = process_sdk(question.sdk)
    ask = Asker(sdk, Journal(workdir / JOURNAL), question.capability, known)
    model = ir.load(workdir / MODEL)
    passes = backend.legalize(question.target, question.precision)
    with on_device(question.device) as device:
        if device is not None:
            sdk.register_plugins()
        found = probe.coverage(model, tables.known_wrong(ask, backend, question.target, known), passes)
    return {"nodes": [msgspec.to_builtins(Covered(n.node, n.op, n.support, n.detail)) for n in found]}
