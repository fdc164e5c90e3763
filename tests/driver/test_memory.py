from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend as backend_of
from superlower.driver.export import frontend
from superlower.driver.memory import RUNTIMES, area_of, legalized, predict
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.program import analysis
from superlower.targets.catalog import target
from support import models
from support.peak import ARTIFACTS

EACH = pytest.mark.parametrize("backend", sorted(RUNTIMES))


@EACH
def test_a_larger_frame_takes_more_of_engines_and_streams_alone(backend: str) -> None:
    small, large = (predict(models.recurrent(side, side), backend, 5) for side in (64, 128))
    assert small.process == large.process
    assert small.engines < large.engines
    assert large.streams == 4 * small.streams == analysis.peak_bytes(models.recurrent().program, 5, 128, 128)
    assert large.total == large.process + large.engines + large.streams


@EACH
def test_a_frame_of_another_size_is_told_of_as_if_it_had_been_exported(backend: str) -> None:
    small, large = models.bidirectional(32, 48), models.bidirectional(96, 80)
    told = predict(legalized(small, backend), backend, 5, (96, 80))
    assert told == predict(legalized(large, backend), backend, 5)
    assert area_of(small.program.frame, 96, 80) == 5


@pytest.mark.slow
@EACH
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("basicvsr", 96, 128),
        ("basicvsr", 180, 320),
        ("sofvsr", 96, 128),
        ("edvr-m", 96, 128),
        ("frvsr", 96, 128),
        ("espcn", 180, 320),
        ("espcn", 720, 1280),
    ],
)
def test_a_process_takes_what_was_predicted(
    name: str, height: int, width: int, backend: str, tmp_path: Path
) -> None:
    """Within the bar of 10 %: a fresh process that loads a model's engines and calls each of them twice."""
    if (reason := backend_of(backend).missing()) is not None:
        pytest.skip(reason)
    pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
    architecture = frontend(name)
    weights = fetch_weights("random:0", architecture)
    request = ExportRequest(
        weights=weights.path, height=height, width=width, options={}, source=weights.source
    )
    model = legalized(architecture.export(request), backend)
    artifacts = {
        graph: backend_of(backend).compile(legal, target("cpu"), BuildOptions(threads=2), tmp_path / graph)
        for graph, legal in model.graphs.items()
    }
    (tmp_path / ARTIFACTS).write_bytes(msgspec.json.encode(artifacts))
    told = predict(model, backend, 1)
    command = [sys.executable, "-m", "support.peak", str(tmp_path), backend]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    measured, callers = map(int, ran.stdout.split())
    assert told.process + told.engines + callers == pytest.approx(measured, rel=0.1)
