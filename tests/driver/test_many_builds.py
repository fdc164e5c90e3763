"""Builds one by one and several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.process import build_in_subprocess
from superlower.backends.registry import backend
from superlower.driver.building import Job
from superlower.driver.compile import Compiled, compile_bundle
from superlower.driver.engine_cache import EngineCache
from superlower.driver.export import golden_for
from superlower.driver.many_builds import Builds, make
from superlower.errors import BuildFailedError, SuperlowerError
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.models import bidirectional

CHILDREN = {"PYTHONPATH": str(Path(__file__).parents[1] / "backends")}


def fails() -> int:
    raise BuildFailedError("no tactic")


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_results_come_in_the_tasks_order(at_once: int) -> None:
    done: list[str] = []
    tasks: dict[str, Callable[[], int]] = {"a": lambda: time.sleep(0.1) or 1, "b": lambda: 2, "c": lambda: 3}
    made = make(tasks, at_once, keep_going=False, on_done=done.append)
    assert list(made.items()) == [("a", 1), ("b", 2), ("c", 3)]
    assert sorted(done) == ["a", "b", "c"]


@pytest.mark.parametrize("at_once", [1, 3])
def test_failures_are_kept_or_end_it(at_once: int) -> None:
    made = make({"a": fails, "b": lambda: 2}, at_once, keep_going=True)
    assert isinstance(made["a"], BuildFailedError)
    assert made["b"] == 2
    with pytest.raises(BuildFailedError, match="no tactic"):
        make({"a": fails, "b": lambda: 2}, at_once, keep_going=False)


def test_as_many_run_at_a_time_as_were_asked_for() -> None:
    both = threading.Barrier(2)
    made = make({name: lambda: both.wait(10) for name in "abcd"}, 2, keep_going=False)
    assert sorted(made.values()) == [0, 0, 1, 1]


def test_a_failure_kills_the_builds_that_still_run(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()

    def slow() -> dict[str, object]:
        return build_in_subprocess(
            "child_functions:hang", {}, tmp_path / "slow", backend="slow", timeout_s=600, env=CHILDREN
        )

    def late() -> int:
        # Once the other hangs.
        while not (tmp_path / "slow" / "pids").exists():
            time.sleep(0.01)
        return fails()

    began = time.monotonic()
    with pytest.raises(BuildFailedError, match="no tactic"):
        make({"slow": slow, "late": late}, 2, keep_going=False)
    assert time.monotonic() - began < 60


def _compiled(folder: Path, builds: Builds) -> Compiled:
    model = bidirectional()
    jobs = [Job(backend("onnxruntime"), target("cpu"), p) for p in (Precision.FP32, Precision.FP16)]
    golden, options = golden_for(model, None, None), BuildOptions(threads=1)
    return compile_bundle(model, jobs, golden, folder, options=options, builds=builds)


def test_a_bundle_is_the_same_however_many_builds_run_at_a_time(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache")
    one = _compiled(tmp_path / "one", Builds()).bundle
    many = _compiled(tmp_path / "many", Builds(3, cache)).bundle
    cached = _compiled(tmp_path / "cached", Builds(3, cache)).bundle
    assert (cache.built, cache.hits) == (4, 4)
    for other in (many, cached):
        assert other.manifest.files == one.manifest.files
        assert [v.name for v in other.manifest.variants] == [v.name for v in one.manifest.variants]
        assert [v.measured for v in other.manifest.variants] == [v.measured for v in one.manifest.variants]


def test_what_a_task_raises_beside_superlowers_errors_comes_through() -> None:
    def broken() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        make({"a": broken, "b": lambda: 1}, 2, keep_going=True)
    assert not issubclass(ValueError, SuperlowerError)
