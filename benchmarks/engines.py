"""Models side by side through the same engines: sessions by graph, and what their convolutions multiply."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import onnx_ir as ir

from superlower.backends.base import BuildOptions, Feeds, Outputs, Session
from superlower.backends.registry import backend
from superlower.driver.flops import convolutions
from superlower.ir import digest as ir_digest
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program.model import TemporalModel
from superlower.runtime.runner import Engine, Runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target


class Counting:
    """A session that counts its convolutions' multiply-accumulates."""

    def __init__(self, session: Session, macs: int) -> None:
        self._session, self._macs = session, macs
        self.total = 0

    def run(self, feeds: Feeds) -> Outputs:
        """Run and count."""
        self.total += self._macs
        return self._session.run(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start and count."""
        self.total += self._macs
        return self._session.submit(feeds)

    def reset(self) -> None:
        """As the session's."""
        self._session.reset()

    def close(self) -> None:
        """As the session's."""
        self._session.close()


class Engines:
    """Sessions by graph: graphs that models share are built once."""

    def __init__(self, name: str, threads: int, stack: ExitStack) -> None:
        self._backend, self._stack = backend(name), stack
        self._options = BuildOptions(threads=threads)
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="superlower-")))
        self._built: dict[str, Counting] = {}

    @property
    def macs(self) -> int:
        """Of all calls so far."""
        return sum(session.total for session in self._built.values())

    def runner(self, model: TemporalModel) -> Runner:
        """A runner of the model."""
        return Runner(model.program, {name: Engine(self._session(g)) for name, g in model.graphs.items()})

    def _session(self, graph: ir.Model) -> Counting:
        digest = ir_digest(graph)
        if digest not in self._built:
            cpu = target("cpu")
            clean, _ = apply(graph, (*default_pipeline(), *self._backend.legalize(cpu, Precision.FP32)))
            folder = self._folder / digest
            folder.mkdir()
            session = self._backend.load(self._backend.compile(clean, cpu, self._options, folder), folder)
            self._stack.callback(session.close)
            self._built[digest] = Counting(session, sum(c.macs for c in convolutions(graph)))
        return self._built[digest]
