"""Engines against PyTorch eager over recurrent frames of a real clip, each with the states it made itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.export import Exported, export
from superlower.frontends.base import ExportRequest
from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.media.samples import SAMPLES
from superlower.runtime.load import open_runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.published import fetched

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
# The quick suite has README's commands, whose checks hold engines to PyTorch over a clip, too.
pytestmark = pytest.mark.slow

SIDE, FRAMES = 40, 8
TOLERANCE = 1e-3
"""A quarter of an 8-bit step: no pixel moves but by rounding."""

Images = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Network:
    """An exported network, the middle of carphone's first frames, and what PyTorch makes of them."""

    exported: Exported
    frames: Images
    expected: Images


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({"blocks": "2"}, id="seeded weights"),
        pytest.param({}, id="published weights"),
    ],
)
def network(request: pytest.FixtureRequest) -> Network:
    options: dict[str, str] = request.param
    clip = fetched(SAMPLES["carphone"])
    weights = "random:0" if options else str(fetched(BasicVsr.checkpoints[0]))
    exported = export("basicvsr", weights, SIDE, SIDE, options=options, clip=clip, golden_frames=FRAMES)
    frames = list(exported.golden.frames)
    reference = BasicVsr().reference(ExportRequest(Path(weights), SIDE, SIDE, options, weights))
    expected = reference(frames)
    # An engine that lost its states would be seen.
    alone = [reference([frame])[0] for frame in frames]
    assert all(np.abs(a - b).max() > 3 * TOLERANCE for a, b in zip(expected, alone, strict=True))
    return Network(exported, frames, expected)


@pytest.fixture(scope="module")
def bundle(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """By each backend that is here and quick to build: passes, the longest part, run once for them all."""
    here = [name for name in ("onnxruntime", "openvino") if backend(name).missing() is None]
    return compiled(network, here, tmp_path_factory.mktemp("recurrence"))


def compiled(network: Network, names: list[str], folder: Path) -> Bundle:
    jobs = plan_jobs([target("cpu")], [Precision.FP32], names)
    exported, options = network.exported, BuildOptions(threads=1)
    return compile_bundle(exported.model, jobs, exported.golden, folder / "bundle", options=options).bundle


def hold(network: Network, bundle: Bundle, name: str) -> None:
    with open_runner(bundle, bundle.pick(backend_name=name)) as runner:
        found = list(runner.run(network.frames, total=FRAMES))
    assert len(found) == FRAMES
    errors = [float(np.abs(a - b).max()) for a, b in zip(found, network.expected, strict=True)]
    print(name, [f"{error:.1e}" for error in errors])
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_agree_with_pytorch(network: Network, bundle: Bundle, name: str) -> None:
    if (reason := backend(name).missing()) is not None:
        pytest.skip(reason)
    hold(network, bundle, name)


def test_tvm_agrees_with_pytorch(tmp_path: Path, network: Network) -> None:
    if (reason := backend("tvm").missing()) is not None:
        pytest.skip(reason)
    hold(network, compiled(network, ["tvm"], tmp_path), "tvm")
