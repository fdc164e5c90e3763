"""The reference side: graphs run in ONNX Runtime by the naive interpreter, and inputs captured on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.passes.validate import seeded_feeds
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.targets.catalog import target

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]

CAPTURED_FRAMES = 3
"""Frames that passes are validated on: enough that every state has been written and read."""


@contextmanager
def reference_sessions(model: TemporalModel) -> Iterator[dict[str, Session]]:
    """ONNX Runtime sessions of a model's graphs, as given."""
    sdk, cpu = backend("onnxruntime"), target("cpu")
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder:
        try:
            for name, graph in model.graphs.items():
                workdir = Path(folder) / name
                workdir.mkdir()
                sessions[name] = sdk.load(sdk.compile(graph, cpu, BuildOptions(), workdir), workdir)
            yield sessions
        finally:
            for session in sessions.values():
                session.close()


def reference_outputs(
    model: TemporalModel, frames: Sequence[Array], on_call: Callable[[str], None] = lambda _: None
) -> list[Array]:
    """The output stream over a clip, by the naive interpreter and ONNX Runtime."""
    with reference_sessions(model) as sessions:

        def call(graph: str, feeds: Feeds) -> Mapping[str, Array]:
            on_call(graph)
            return sessions[graph].run(feeds)

        return interpret(model.program, frames, call)


def validation_feeds(model: TemporalModel, frames: Sequence[Array], seed: int = 0) -> dict[str, list[Feeds]]:
    """What each graph is validated on: one seeded input, and one from the model's own run on real frames.

    The real one is the graph's last call over the first frames, when hidden states are no longer zeros.
    """
    captured: dict[str, Feeds] = {}
    with reference_sessions(model) as sessions:

        def call(graph: str, feeds: Feeds) -> Mapping[str, Array]:
            captured[graph] = dict(feeds)
            return sessions[graph].run(feeds)

        interpret(model.program, frames[:CAPTURED_FRAMES], call)
    return {
        name: [seeded_feeds(graph, seed), *([captured[name]] if name in captured else [])]
        for name, graph in model.graphs.items()
    }
