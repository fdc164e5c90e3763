"""BasicVSR through TVM: whole clips, with the states TVM itself made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions
from superlower.backends.tvm.backend import Tvm
from superlower.ir import infer_shapes, serialize
from superlower.program.interpret import CallGraph, interpret
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision
from superlower.targets.catalog import target

Array = NDArray[np.generic]

pytestmark = pytest.mark.skipif(Tvm().missing() is not None, reason=str(Tvm().missing()))

# Sums of 576 products in two orders differ by sqrt(576) 2^-24 = 1.4e-6 of their size, and a frame's value
# passes some 70 of them in a step, where errors of either sign add as sqrt(70), and T steps add as at most T.
STEP = np.sqrt(576) * 2.0**-24 * np.sqrt(70)


def _export(size: int, blocks: int) -> TemporalModel:
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    from superlower.frontends.base import ExportRequest
    from superlower.frontends.zoo.basicvsr import BasicVsr
    from superlower.passes.pipelines import default_pipeline

    request = ExportRequest(
        weights=Path("random:0"), height=size, width=size, options={"blocks": str(blocks)}, source="random:0"
    )
    model = BasicVsr().export(request)
    graphs = {}
    for name, graph in model.graphs.items():
        for each in (*default_pipeline(), *Tvm().legalize(target("cpu"), Precision.FP32)):
            each.run(graph)
        graphs[name] = infer_shapes(graph)
    return model.with_graphs(graphs)


def _onnxruntime(model: TemporalModel) -> CallGraph:
    sessions = {name: onnxruntime.InferenceSession(serialize(graph)) for name, graph in model.graphs.items()}

    def call(graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [output.name for output in sessions[graph].get_outputs()]
        return dict(zip(names, sessions[graph].run(names, dict(feeds)), strict=True))

    return call


def _compare(model: TemporalModel, frames: int, folder: Path) -> float:
    """Largest difference from ONNX Runtime, by the largest value."""
    backend, cpu = Tvm(), target("cpu")
    height, width = model.program.frame.padded
    rng = np.random.default_rng(0)
    still = rng.random((1, 3, height + 2 * frames, width + 2 * frames), dtype=np.float32)
    clip = [still[:, :, t : t + height, 2 * t : 2 * t + width] for t in range(frames)]
    clip = [np.ascontiguousarray(frame) for frame in clip]
    artifacts = {
        name: backend.compile(graph, cpu, BuildOptions(threads=2), folder / name)
        for name, graph in model.graphs.items()
    }
    # TVM's naive loops take a step tens of times as long as these schedules do: none may be left to them.
    assert [artifact.facts["unscheduled_functions"] for artifact in artifacts.values()] == [0, 0, 0]
    sessions = {name: backend.load(artifact, folder / name) for name, artifact in artifacts.items()}
    try:
        found = interpret(model.program, clip, lambda graph, feeds: sessions[graph].run(feeds))
    finally:
        for session in sessions.values():
            session.close()
    expected = interpret(model.program, clip, _onnxruntime(model))
    assert len(found) == frames
    size = max(float(np.abs(frame).max()) for frame in expected)
    assert size > 0.1
    error = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    return error / max(1.0, size)


@pytest.mark.slow
def test_one_block_over_three_frames(tmp_path: Path) -> None:
    assert _compare(_export(32, blocks=1), 3, tmp_path) <= 3 * STEP


@pytest.mark.slow
def test_thirty_blocks_over_eight_frames(tmp_path: Path) -> None:
    assert _compare(_export(64, blocks=30), 8, tmp_path) <= 8 * STEP
