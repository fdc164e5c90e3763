"""Every parity file through every engine of this machine, over the whole sequence it gives.

Graphs go the way `compile_bundle` takes them: default passes, the backend's, those that rules for known bugs
prescribe, each validated; then the engine, which is fed the states it made itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Session
from superlower.backends.registry import backend
from superlower.check.reference import reference_sessions
from superlower.driver.building import BuiltGraph, Job, build_graph
from superlower.driver.compile import plan_jobs
from superlower.passes.pipelines import apply, default_pipeline
from superlower.passes.validate import seeded_feeds
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.parity import PARITIES, Parity, parity

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

Feeds = Mapping[str, NDArray[np.generic]]

FILES = [pytest.param(name, marks=[] if name == "espcn_x4" else pytest.mark.slow) for name in PARITIES]
BACKENDS = ("onnxruntime", "openvino", "tvm")
PLANS = (("t4", Precision.FP16), ("rtx3090", Precision.FP32), ("rtx5090", Precision.FP16))


@pytest.fixture(scope="module")
def reference(
    request: pytest.FixtureRequest, oracles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Parity:
    return parity(oracles, request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def captured(reference: Parity) -> dict[str, Feeds]:
    """What each graph is called with last, in ONNX Runtime on the graphs as exported."""
    seen: dict[str, Feeds] = {}
    with reference_sessions(reference.model) as sessions:

        def call(graph: str, feeds: Feeds) -> Feeds:
            seen[graph] = feeds
            return sessions[graph].run(feeds)

        assert reference.error(call) < reference.tolerance
    return seen


def test_no_parity_file_is_left_out(oracles: Path) -> None:
    assert {path.stem for path in (oracles / "parity").glob("*.npz")} == PARITIES.keys()


def _job(name: str, where: str, precision: Precision) -> Job:
    if (reason := backend(name).missing()) is not None:
        pytest.skip(reason)
    (job,) = plan_jobs([target(where)], [precision], [name])
    return job


def _build(
    job: Job, reference: Parity, captured: dict[str, Feeds], folder: Path
) -> dict[str, tuple[BuiltGraph, Path]]:
    """Every graph's engine and its folder."""
    found = {}
    for name, graph in reference.model.graphs.items():
        feeds = [seeded_feeds(graph, 0), *([captured[name]] if name in captured else [])]
        clean, _ = apply(graph, default_pipeline(), feeds)
        place = folder / name
        place.mkdir()
        found[name] = build_graph(job, clean, feeds, BuildOptions(threads=1), place), place
    return found


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("reference", FILES, indirect=True)
def test_engines_equal_the_published_code(
    reference: Parity, captured: dict[str, Feeds], name: str, tmp_path: Path
) -> None:
    job = _job(name, "cpu", Precision.FP32)
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for graph, (built, folder) in _build(job, reference, captured, tmp_path).items():
            sessions[graph] = job.backend.load(built.artifact, folder)
            stack.callback(sessions[graph].close)
        error = reference.error(lambda graph, feeds: sessions[graph].run(feeds))
    print(f"{name}: {error:.1e} of the reference's standard deviation")
    assert error < reference.tolerance


@pytest.mark.parametrize(("where", "precision"), PLANS)
@pytest.mark.parametrize("reference", FILES, indirect=True)
def test_plans_build(
    reference: Parity, captured: dict[str, Feeds], where: str, precision: Precision, tmp_path: Path
) -> None:
    built = _build(_job("tensorrt-rtx", where, precision), reference, captured, tmp_path)
    for artifact, folder in ((engine.artifact, folder) for engine, folder in built.values()):
        assert (folder / artifact.files["engine"]).stat().st_size > 0
