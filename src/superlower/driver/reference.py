"""Inputs that passes are validated on, captured on the reference's way through a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from superlower.check.reference import reference_sessions
from superlower.passes.validate import seeded_feeds
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]

CAPTURED_FRAMES = 3
"""Frames that passes are validated on: enough that every state has been written and read."""


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
