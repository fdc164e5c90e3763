"""The reference side: a model's graphs in ONNX Runtime, as given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.targets.catalog import target

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]


@contextmanager
def reference_sessions(model: TemporalModel) -> Iterator[dict[str, Session]]:
    """ONNX Runtime sessions of a model's graphs, closed at the end of the block."""
    sdk, cpu = backend("onnxruntime"), target("cpu")
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name, graph in model.graphs.items():
            workdir = Path(folder) / name
            workdir.mkdir()
            sessions[name] = sdk.load(sdk.compile(graph, cpu, BuildOptions(), workdir), workdir)
            stack.callback(sessions[name].close)
        yield sessions


def reference_outputs(
    model: TemporalModel, frames: Sequence[Array], on_call: Callable[[str], None] = lambda _: None
) -> list[Array]:
    """The output stream over a clip, by the naive interpreter and ONNX Runtime."""
    with reference_sessions(model) as sessions:

        def call(graph: str, feeds: Feeds) -> Mapping[str, Array]:
            on_call(graph)
            return sessions[graph].run(feeds)

        return interpret(model.program, frames, call)
