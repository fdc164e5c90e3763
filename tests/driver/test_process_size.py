"""What a process takes with a backend's runtime and next to nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from superlower.driver import memory, process_size
from superlower.driver.memory import MIB, RUNTIMES, predict
from superlower.errors import BuildFailedError
from support import models

NAME = "onnxruntime"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLOWER_CACHE", str(tmp_path))


def asked() -> int | None:
    return process_size.process_bytes.__wrapped__(NAME)


def test_a_fresh_process_is_measured() -> None:
    found = asked()
    assert found is not None
    # Python, NumPy and ONNX Runtime on one side; no model to speak of on the other.
    assert 50 * MIB < found < 400 * MIB


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([123 * MIB, 124 * MIB])
    monkeypatch.setattr(process_size, "_measured", lambda _: next(told))
    assert asked() == asked() == 123 * MIB
    (kept,) = (tmp_path / "process").iterdir()
    kept.write_text("{")
    assert asked() == 124 * MIB
    assert list(kept.parent.iterdir()) == [kept]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_size, "_measured", lambda _: 123 * MIB)
    (tmp_path / "process").write_text("a file in its place")
    assert asked() == 123 * MIB


def test_where_it_cannot_be_measured_a_known_figure_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: str) -> int:
        raise BuildFailedError("no room")

    monkeypatch.setattr(process_size, "_measured", failing)
    assert asked() is None
    monkeypatch.setattr(memory, "process_bytes", lambda _: None)
    assert predict(models.recurrent(), NAME, 5).process == RUNTIMES[NAME].process
    monkeypatch.setattr(memory, "process_bytes", lambda _: 200 * MIB)
    assert predict(models.recurrent(), NAME, 5).process == 200 * MIB - RUNTIMES[NAME].engine
