"""Ways to run a program are those it has, and each is measured beside the first."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle
from superlower.driver.export import golden_for
from superlower.driver.progress import Silent
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.clips import save_video
from support.models import recurrent

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("pipeline")
    for name in ("common", "pipeline"):
        sys.modules.pop(name, None)


def test_every_way_of_a_small_model(pipeline, tmp_path: Path) -> None:
    clip = save_video(tmp_path / "in.mp4", 9, 16, 16)
    job = Job(backend("onnxruntime"), target("cpu"), Precision.FP32)
    golden = golden_for(recurrent(), None, clip)
    options = BuildOptions(threads=1)
    bundle = compile_bundle(recurrent(), [job], golden, tmp_path / "bundle", options=options).bundle
    rows = pipeline.measure(bundle, bundle.pick(), 1, "", Silent())
    assert [row.way for row in rows] == [
        "one call after another",
        "two calls in flight",
        "two calls in flight, half the threads each",
        "tail cut off",
        "tail cut off, two in flight, half the threads",
        "step_tail by 4",
        "pixels in the graphs",
        "two clips, each with half the threads",
    ]
    for row in rows[1:]:
        assert not row.refused
        assert len(row.ratios) == 1
        assert row.error is None or row.error < 1e-6
    assert [row.way for row in pipeline.measure(bundle, bundle.pick(), 1, "pixels", Silent())][1:] == [
        "pixels in the graphs"
    ]


def test_ways_timed_again_take_their_rows_places(pipeline, tmp_path: Path) -> None:
    """With `--add`; what one call after another took stays that of the run of all ways."""

    def result(end_to_end: object, **ms: float) -> dict[str, object]:
        rows = [{"way": pipeline.BASE if way == "base" else way, "ms": one} for way, one in ms.items()]
        return {"rows": rows, "end_to_end": end_to_end}

    assert pipeline.beside(result(None, base=1.0), tmp_path / "none.json") == result(None, base=1.0)
    (tmp_path / "one.json").write_bytes(
        msgspec.json.encode(result("whole", base=4.0, states=5.0, pixels=6.0))
    )
    merged = pipeline.beside(result(None, base=9.0, pixels=7.0, batch=8.0), tmp_path / "one.json")
    assert merged == result("whole", base=4.0, states=5.0, pixels=7.0, batch=8.0)
