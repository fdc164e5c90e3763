"""Both CPU backends against PyTorch and each other, on BasicVSR's own graphs over recurrent frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Feeds, Outputs, Support
from superlower.backends.registry import backend
from superlower.frontends.base import ExportRequest
from superlower.program.interpret import interpret
from superlower.targets.base import Precision, Target

pytest.importorskip("torch")
pytest.importorskip("openvino")

# Each of some 60 layers rounds sums of 600 products by 2^-24 of their size, at random: sqrt(60 * 600) * 2^-24
# = 1.1e-5 of the values' size, and eight frames feed one another: sqrt(8) times that, 3e-5; three times that
# for the tail of a million values. Outputs are of order one; hidden states are held relative to their size.
TOLERANCE = 1e-4
FRAMES = 8


@pytest.fixture(scope="module")
def clip() -> list[NDArray[np.float32]]:
    """A smooth texture that moves by a pixel and a half a frame, so that there is a flow to be found."""
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    phases = np.array([0.0, 2.0, 4.0], np.float32)[:, None, None]
    return [
        (0.5 + 0.25 * np.sin(0.3 * (x - 1.5 * t) + phases) + 0.25 * np.cos(0.2 * (y + t) + phases))[None]
        for t in range(FRAMES)
    ]


@pytest.mark.slow  # acceptance/test_recurrence does it through all that compile does.
def test_backends_agree_with_pytorch_over_frames(
    clip: list[NDArray[np.float32]], cpu_target: Target, tmp_path: Path
) -> None:
    from superlower.frontends.zoo.basicvsr import BasicVsr

    request = ExportRequest(
        weights=Path("random:3"), height=64, width=64, options={"blocks": "2"}, source="random:3"
    )
    model = BasicVsr().export(request)
    expected = np.concatenate(BasicVsr().reference(request)(clip))
    results: dict[str, NDArray[np.generic]] = {}
    hidden: dict[str, list[NDArray[np.generic]]] = {}
    for name in ("onnxruntime", "openvino"):
        chosen, sessions = backend(name), {}
        for graph, onnx in model.graphs.items():
            found = chosen.coverage(onnx, cpu_target, Precision.FP32)
            assert {node.support for node in found} == {Support.NATIVE}
            folder = tmp_path / name / graph
            artifact = chosen.compile(onnx, cpu_target, BuildOptions(threads=1, timeout_s=300), folder)
            sessions[graph] = chosen.load(artifact, folder)

        states = hidden.setdefault(name, [])

        def call(graph: str, feeds: Feeds, sessions: dict = sessions, states: list = states) -> Outputs:
            outputs: Outputs = sessions[graph].run(feeds)
            states += [outputs[key] for key in outputs if key != "output"]
            return outputs

        results[name] = np.concatenate(interpret(model.program, clip, call))
        for session in sessions.values():
            session.close()
    assert expected.shape == (FRAMES, 3, 256, 256)
    for array in results.values():
        np.testing.assert_allclose(array, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(results["openvino"], results["onnxruntime"], rtol=0, atol=TOLERANCE)
    assert len(hidden["openvino"]) == 4 * FRAMES - 2  # Two states a frame, and two flows but for the ends.
    for mine, theirs in zip(hidden["openvino"], hidden["onnxruntime"], strict=True):
        size = np.abs(theirs).max()
        assert size > 0.01
        np.testing.assert_allclose(mine / size, theirs / size, rtol=0, atol=TOLERANCE)
