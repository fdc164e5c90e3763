"""The reference side: a model's graphs in ONNX Runtime, as given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.bundle.golden import GoldenClip
from superlower.errors import BadInputError
from superlower.program.interpret import evaluate
from superlower.program.model import TemporalModel
from superlower.program.routes import choice_streams
from superlower.program.unroll import Element
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
    known = _evaluate(model, frames, on_call)
    return [known[Element(model.program.output, t)] for t in range(len(frames))]


def with_choices(model: TemporalModel, golden: GoldenClip) -> GoldenClip:
    """A golden clip with what the model's routes choose over it: as it says, or else as ONNX Runtime does.

    Raises:
        BadInputError: what it says isn't of the program's shapes, or not for every frame.
    """
    program, frames = model.program, len(golden.frames)
    streams = choice_streams(program)
    choices = {stream: golden.choices[stream] for stream in streams if stream in golden.choices}
    for stream, given in choices.items():
        wanted = (frames, *program.sizes(stream))
        if np.shape(given) != wanted:
            raise BadInputError(
                f"choices.{stream} of the golden clip are {list(np.shape(given))}, "
                f"the program's {list(wanted)}"
            )
    if len(choices) < len(streams):
        known = _evaluate(model, golden.frames, lambda _: None)
        for stream in streams:
            nothing = np.zeros(program.sizes(stream), np.int32)
            made = (known.get(Element(stream, t), nothing) for t in range(frames))
            choices.setdefault(stream, tuple(element.astype(np.int32) for element in made))
    return replace(golden, choices=choices)


def _evaluate(
    model: TemporalModel, frames: Sequence[Array], on_call: Callable[[str], None]
) -> dict[Element, Array]:
    with reference_sessions(model) as sessions:

        def call(graph: str, feeds: Feeds) -> Mapping[str, Array]:
            on_call(graph)
            return sessions[graph].run(feeds)

        return evaluate(model.program, frames, call)
