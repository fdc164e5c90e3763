"""A program over a clip on one backend's engines, built anew only for the graphs that changed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.backends.base import Backend, BuildOptions, Session
from superlower.ir import clone, digest
from superlower.passes.pipelines import apply
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target

Array = NDArray[np.generic]
Run = Callable[[TemporalModel, Sequence[Array]], list[Array]]


@contextmanager
def closed_loop(
    backend: Backend, target: Target, precision: Precision, options: BuildOptions
) -> Iterator[Run]:
    """A function that runs models over clips: each call reads the hidden states that the engines wrote.

    Args:
        backend: one that runs here.
        target, precision: of the engines.
        options: threads and time limit of the builds.
    """
    asked = replace(options, precision=precision, stateful=(), settings={})
    passes = backend.legalize(target, precision)
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, ExitStack() as stack:
        built: dict[str, Session] = {}

        def session(graph: ir.Model) -> Session:
            key = digest(clone(graph))
            if key not in built:
                workdir = Path(folder) / str(len(built))
                workdir.mkdir()
                legal, _ = apply(graph, passes)
                built[key] = backend.load(backend.compile(legal, target, asked, workdir), workdir)
                stack.callback(built[key].close)
            return built[key]

        def run(model: TemporalModel, frames: Sequence[Array]) -> list[Array]:
            sessions = {name: session(graph) for name, graph in model.graphs.items()}

            def call(graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
                return sessions[graph].run(feeds)

            return interpret(model.program, frames, call)

        yield run
