"""A program over a clip on one backend's engines, built anew only for the graphs that changed."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.backends.base import Backend, BuildOptions, Session
from superlower.ir import clone, digest
from superlower.passes.base import Pass
from superlower.passes.pipelines import apply
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target

Array = NDArray[np.generic]

MEMORY_BYTES = 512 * 2**20
"""What kept results of calls may take: those of BasicVSR over eight frames of 144x176 take 150 MB."""


class ClosedLoop:
    """Runs models over clips on one backend's engines; see `closed_loop`.

    Attributes:
        feeds: graph -> what its last call was fed.
    """

    def __init__(
        self,
        backend: Backend,
        target: Target,
        options: BuildOptions,
        passes: Sequence[Pass],
        folder: Path,
        stack: ExitStack,
    ) -> None:
        self.feeds: dict[str, Mapping[str, Array]] = {}
        self._backend, self._target, self._options, self._passes = backend, target, options, passes
        self._folder, self._stack = folder, stack
        self._built: dict[str, Session] = {}
        self._known = _Known(MEMORY_BYTES)

    def engine(self, graph: ir.Model) -> tuple[str, Session]:
        """A graph's digest and its engine, built the first time."""
        key = digest(clone(graph))
        if key not in self._built:
            workdir = self._folder / str(len(self._built))
            workdir.mkdir()
            legal, _ = apply(graph, self._passes)
            artifact = self._backend.compile(legal, self._target, self._options, workdir)
            self._built[key] = self._backend.load(artifact, workdir)
            self._stack.callback(self._built[key].close)
        return key, self._built[key]

    def __call__(self, model: TemporalModel, frames: Sequence[Array]) -> list[Array]:
        """The output stream over a clip."""
        engines = {name: self.engine(graph) for name, graph in model.graphs.items()}

        def call(graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            key, engine = engines[graph]
            self.feeds[graph] = feeds
            return self._known.results(_call_key(key, feeds), lambda: engine.run(feeds))

        return interpret(model.program, frames, call)


@contextmanager
def closed_loop(
    backend: Backend, target: Target, precision: Precision, options: BuildOptions, *, legal: bool = False
) -> Iterator[ClosedLoop]:
    """What runs models over clips: each call reads the hidden states that the engines wrote.

    A graph is built once. A call of the same engine with the same inputs as an earlier one isn't made again:
    where a change leaves the flows alone, say, they are at hand. The least lately used results go first.

    Args:
        backend: one that runs here.
        target, precision: of the engines.
        options: threads and time limit of the builds.
        legal: whether the models' graphs are legalized already.
    """
    asked = replace(options, precision=precision, stateful=(), settings={})
    passes = () if legal else tuple(backend.legalize(target, precision))
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, ExitStack() as stack:
        yield ClosedLoop(backend, target, asked, passes, Path(folder), stack)


class _Known:
    """Results by key, the least lately used dropped when they take too much memory."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._results: OrderedDict[bytes, Mapping[str, Array]] = OrderedDict()

    def results(self, key: bytes, compute: Callable[[], Mapping[str, Array]]) -> Mapping[str, Array]:
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key]
        found = self._results[key] = compute()
        self._held += _bytes(found)
        while self._held > self._limit and len(self._results) > 1:
            _, dropped = self._results.popitem(last=False)
            self._held -= _bytes(dropped)
        return found


def _call_key(engine: str, feeds: Mapping[str, Array]) -> bytes:
    found = blake2b(engine.encode(), digest_size=16)
    for name in sorted(feeds):
        given = np.ascontiguousarray(feeds[name])
        found.update(f"{name} {given.dtype} {given.shape}".encode())
        found.update(given.data.cast("B") if given.size else b"")
    return found.digest()


def _bytes(results: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in results.values())
