"""From a failed check to the first ONNX node whose output leaves tolerance."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.backends.base import Backend, BuildOptions, Outputs, Session
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.golden import GoldenClip
from superlower.bundle.manifest import Variant
from superlower.check.reference import reference_sessions
from superlower.errors import BadInputError
from superlower.ir import clone, infer_shapes
from superlower.passes.base import Pass
from superlower.passes.pipelines import apply
from superlower.program.model import TemporalModel
from superlower.program.routes import flips_accepted
from superlower.runtime.runner import Engine, Runner
from superlower.targets.base import Target
from superlower.targets.catalog import target

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Culprit:
    """Where the error begins.

    Attributes:
        graph: the graph.
        call: how many calls of that graph into the clip.
        node, op: the first node, in graph order, whose output leaves tolerance; empty if only the stored
            engine differs, not one built anew from the same graph.
        tensor: its output.
        error: largest |output - reference| there, relative to max(1, largest |reference|).
        tolerance: what it was held to: the variant's, as a fraction of the contract's value range.
        rebuilt: whether the node was found in an engine built anew (else no node could be named).
    """

    graph: str
    call: int
    node: str
    op: str
    tensor: str
    error: float
    tolerance: float
    rebuilt: bool


@dataclass(frozen=True)
class NotBisected:
    """Why a search came to nothing: the one-line message of the error that ended it."""

    reason: str


def bisect(
    bundle: Bundle,
    variant: Variant,
    golden: GoldenClip,
    *,
    atol: float | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Culprit | None:
    """Find the first node of the first call that goes wrong; None if every call agrees by itself.

    Every call is fed the reference's inputs, but for states kept inside an engine, so that an error in one
    can't hide behind an earlier one. The graph at fault is then built once more with every float tensor as an
    output, and compared node by node; should marking outputs make the error vanish (they end fusions),
    prefixes of the graph are built, halving: the node named is then the last of those that go wrong together.

    Raises:
        SuperlowerError: the graph at fault, or a part of it, can't be built or run.
        BadInputError: the variant is quantized, or of mixed types.
    """
    if variant.quantization is not None or variant.types is not None:
        kind = "quantized" if variant.types is None else "of mixed types"
        raise BadInputError(
            f"{variant.name} is {kind}: every node of it differs from the reference's; compare it with "
            f"another backend's {variant.precision} engine of the bundle"
        )
    where = target(variant.target)
    model = bundle.model()
    low, high = model.program.frame.range
    limit = (variant.tolerance if atol is None else atol) / (high - low)
    wrong = _first_wrong(bundle, variant, model, golden, limit, on_step)
    if wrong is None:
        return None
    stored = variant.engines[wrong.graph]
    sdk = backend(stored.backend)
    passes = _as_built(sdk.legalize(where, variant.precision), variant, wrong.graph)
    legal, _ = apply(model.graphs[wrong.graph], passes)
    options = BuildOptions(
        precision=variant.precision, mode=stored.mode, threads=stored.threads, settings=stored.settings
    )
    search = _Search(sdk, where, options, legal, wrong.feeds, limit, on_step)
    node = search.first()
    if node is None:
        return Culprit(wrong.graph, wrong.index, "", "", wrong.tensor, wrong.error, limit, rebuilt=False)
    tensor = str(node.outputs[0].name)
    error = search.errors[tensor]
    return Culprit(wrong.graph, wrong.index, str(node.name), node.op_type, tensor, error, limit, rebuilt=True)


@dataclass(eq=False)
class _WrongCallError(Exception):
    """A call whose engine leaves tolerance; raised to end the run that looks for it.

    Attributes:
        graph, index: which call.
        feeds: the reference's, states included.
        tensor, error: the output that is furthest off, and by how much.
    """

    graph: str
    index: int
    feeds: Feeds
    tensor: str
    error: float


def _as_built(passes: Sequence[Pass], variant: Variant, graph: str) -> list[Pass]:
    """The passes, sparing the nodes that they spared when the variant was built."""
    spared = {r.name: r.spared for r in variant.passes if r.graph == graph and r.spared}
    return [(one.sparing(spared[one.name]) if one.name in spared else None) or one for one in passes]


def _first_wrong(
    bundle: Bundle,
    variant: Variant,
    model: TemporalModel,
    golden: GoldenClip,
    limit: float,
    on_step: Callable[[str], None],
) -> _WrongCallError | None:
    """Run the reference over the golden clip and the variant's engines beside it, on the same inputs.

    A runner runs it, which keeps no tensor longer than the equations need it.
    """
    with reference_sessions(model) as reference, bundle.opened(variant) as engines:
        beside = {}
        for graph, session in reference.items():
            inside = frozenset(given for _, given in variant.engines[graph].stateful)
            beside[graph] = Engine(_Beside(graph, session, engines[graph], inside, limit, on_step))
        try:
            for _ in Runner(model.program, beside).run(golden.frames, total=len(golden.frames)):
                pass
        except _WrongCallError as wrong:
            return wrong
    return None


class _Beside:
    """A reference session that holds an engine to each of its calls, and raises `_WrongCallError`.

    Args:
        graph: what both were built from.
        reference, engine: sessions, which the caller closes.
        inside: inputs that the engine keeps to itself.
        limit: largest relative error of an output.
        on_step: told of every call.
    """

    def __init__(
        self,
        graph: str,
        reference: Session,
        engine: Session,
        inside: frozenset[str],
        limit: float,
        on_step: Callable[[str], None],
    ) -> None:
        self._graph, self._reference, self._engine = graph, reference, engine
        self._inside, self._limit, self._on_step = inside, limit, on_step
        self._calls = 0

    def run(self, feeds: Feeds) -> Outputs:
        index, self._calls = self._calls, self._calls + 1
        self._on_step(f"{self._graph}, call {index}")
        expected = self._reference.run(feeds)
        if self._inside and index == 0:
            self._engine.reset()
        found = self._engine.run({n: array for n, array in feeds.items() if n not in self._inside})
        error, tensor = max(
            ((self._error(found[n], expected[n]), n) for n in expected if n in found), default=(0.0, "")
        )
        if error > self._limit:
            raise _WrongCallError(self._graph, index, dict(feeds), tensor, error)
        return expected

    def _error(self, found: Array, expected: Array) -> float:
        if np.issubdtype(expected.dtype, np.integer):
            # Choices, of which rounding may flip a few.
            flips = np.count_nonzero(found != expected)
            return 0.0 if flips <= flips_accepted(expected.size, self._limit) else float("inf")
        return _error(found, expected)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        done: Future[Outputs] = Future()
        done.set_result(self.run(feeds))
        return done

    def reset(self) -> None:
        """The reference has its states in the host's memory."""

    def close(self) -> None:
        """Its sessions are the caller's."""


class _Search:
    """Builds parts of one graph and compares their outputs with ONNX Runtime's."""

    def __init__(
        self,
        sdk: Backend,
        where: Target,
        options: BuildOptions,
        model: ir.Model,
        feeds: Feeds,
        limit: float,
        on_step: Callable[[str], None],
    ) -> None:
        self.sdk, self.where, self.options, self.limit, self.on_step = sdk, where, options, limit, on_step
        self.model, self.feeds = infer_shapes(model), feeds
        self.errors: dict[str, float] = {}
        self.nodes = [
            node
            for node in self.model.graph
            if node.op_type != "Constant"
            and node.outputs[0].dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
        ]

    def first(self) -> ir.Node | None:
        """The first node out of tolerance; None if the graph, built anew, has none (or no float tensor)."""
        return (self._first_marked() or self._first_by_prefix()) if self.nodes else None

    def _first_marked(self) -> ir.Node | None:
        """The first node out of tolerance when all outputs are marked."""
        self.on_step(f"building with all {len(self.nodes)} tensors as outputs")
        self._compare(self.nodes)
        return next((n for n in self.nodes if self._wrong(n)), None)

    def _first_by_prefix(self) -> ir.Node | None:
        """The first node at which the graph cut there goes wrong, by halving."""
        low, high = 0, len(self.nodes) - 1
        self._compare([self.nodes[high]])
        if not self._wrong(self.nodes[high]):
            return None
        while low < high:
            middle = (low + high) // 2
            self.on_step(f"building up to node {middle + 1} of {len(self.nodes)}")
            self._compare([self.nodes[middle]])
            low, high = (low, middle) if self._wrong(self.nodes[middle]) else (middle + 1, high)
        return self.nodes[low]

    def _wrong(self, node: ir.Node) -> bool:
        return self.errors[str(node.outputs[0].name)] > self.limit

    def _compare(self, nodes: list[ir.Node]) -> None:
        part = clone(self.model)
        wanted = {str(n.outputs[0].name) for n in nodes}
        outputs = [o for n in part.graph for o in n.outputs if o.name in wanted]
        part.graph.outputs.clear()
        part.graph.outputs.extend(outputs)
        ir.passes.common.RemoveUnusedNodesPass()(part)
        used = {str(v.name) for v in part.graph.inputs if v.uses()}
        for value in [v for v in part.graph.inputs if not v.uses()]:
            part.graph.inputs.remove(value)
        feeds = {name: array for name, array in self.feeds.items() if name in used}
        expected = _run(backend("onnxruntime"), target("cpu"), BuildOptions(), part, feeds)
        found = _run(self.sdk, self.where, self.options, part, feeds)
        for name in wanted:
            self.errors[name] = _error(found[name], expected[name])


def _run(
    sdk: Backend, where: Target, options: BuildOptions, model: ir.Model, feeds: Feeds
) -> dict[str, Array]:
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder:
        artifact = sdk.compile(model, where, options, Path(folder))
        session = sdk.load(artifact, Path(folder))
        try:
            return dict(session.run(feeds))
        finally:
            session.close()


def _error(found: Array, expected: Array) -> float:
    difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    difference = np.where(np.isfinite(difference), difference, np.inf)
    return float(difference.max(initial=0.0)) / max(1.0, float(np.abs(expected).max(initial=0.0)))
