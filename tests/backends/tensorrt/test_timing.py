"""The timing cache: kept, shared by builds at the same time, and never one GPU's times for another's."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from superlower.backends.tensorrt.cuda import Device
from superlower.backends.tensorrt.timing import TimingCache, timing_file


class Cache:
    """What the SDK calls a timing cache: names of kernels, and the device they were timed on."""

    def __init__(self, content: bytes) -> None:
        told = json.loads(content) if content else {}
        self.device, self.names = told.get("device", "V100"), set(told.get("names", ()))

    def serialize(self) -> bytes:
        return json.dumps({"device": self.device, "names": sorted(self.names)}).encode()

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.names |= other.names
        return True


class Config:
    """A builder's configuration for a V100."""

    cache: Cache

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.device != "V100" and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache:
        return self.cache


def _build(path: Path, kernels: Sequence[str]) -> set[str]:
    """Time kernels in a build and keep them; those known before it."""
    config: Any = Config()
    timing = TimingCache(config, path)
    known = set(config.cache.names)
    config.cache.names |= set(kernels)
    timing.keep()
    return known


def _names(path: Path) -> set[str]:
    return set(json.loads(path.read_bytes())["names"])


def test_a_build_begins_with_what_earlier_ones_measured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.timing"
    assert _build(path, ["a", "b"]) == set()
    assert _build(path, ["b", "c"]) == {"a", "b"}
    assert _names(path) == {"a", "b", "c"}


def test_builds_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    start = threading.Barrier(6)

    def build(index: int) -> None:
        config: Any = Config()
        timing = TimingCache(config, path)
        start.wait(20)  # All have read the file before any writes it.
        config.cache.names.add(f"kernel{index}")
        timing.keep()

    threads = [threading.Thread(target=build, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert _names(path) == {f"kernel{index}" for index in range(6)}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x.timing.lock", "x.timing"]


def test_another_devices_times_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    path.write_bytes(json.dumps({"device": "A100", "names": ["a"]}).encode())
    assert _build(path, ["b"]) == set()


@pytest.mark.parametrize("make_unwritable", [True, False])
def test_a_cache_that_can_not_be_written_is_no_error(tmp_path: Path, make_unwritable: bool) -> None:
    if make_unwritable:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "x.timing"  # A file stands where the folder should.
    else:
        path = tmp_path / "x.timing"
        path.mkdir()
    assert _build(path, ["a"]) == set()


def test_files_are_told_apart_by_gpu_and_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = timing_file(Device(0, "NVIDIA A100-SXM4-80GB", 80), "10.4.0")
    assert first == tmp_path / "superlower" / "tensorrt" / "sm80-nvidia-a100-sxm4-80gb-10.4.0.timing"
    others = {
        timing_file(Device(1, "NVIDIA A100-SXM4-80GB", 80), "10.4.0"),
        timing_file(Device(0, "NVIDIA A30", 80), "10.4.0"),
        timing_file(Device(0, "NVIDIA A100-SXM4-80GB", 80), "10.16.1"),
    }
    assert len(others) == 3
    assert first in others
