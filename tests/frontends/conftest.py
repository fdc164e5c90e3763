"""Shared by the frontends' tests: ONNX Runtime on a graph, a cache that outlives a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from superlower import ir
from superlower.program.model import TemporalModel

Array = NDArray[np.generic]


@pytest.fixture(scope="session")
def caller() -> Callable[[TemporalModel], Callable[[str, Mapping[str, Array]], Mapping[str, Array]]]:
    """Makes the function `interpret` calls a model's graphs with, on ONNX Runtime with one thread."""

    def make(model: TemporalModel) -> Callable[[str, Mapping[str, Array]], Mapping[str, Array]]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        sessions = {
            name: ort.InferenceSession(ir.serialize(graph), options, providers=["CPUExecutionProvider"])
            for name, graph in model.graphs.items()
        }

        def call(graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            session = sessions[graph]
            names = [value.name for value in session.get_outputs()]
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))

        return call

    return make
