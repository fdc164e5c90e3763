"""Engines from the cache: only ever what the very same build would give."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import onnx_ir
import pytest

from superlower import ir
from superlower.backends.base import Artifact, BuildOptions
from superlower.driver import engine_cache
from superlower.driver.engine_cache import EngineCache
from superlower.errors import BuildFailedError
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target
from support.models import upscaler
from support.wrong import Wrong

OPTIONS = BuildOptions(threads=1)


@dataclass(frozen=True)
class Counting(Wrong):
    """Counts its builds; depends on what `inputs` says."""

    factor: float = 1.0
    builds: list[int] = field(default_factory=list, hash=False)
    inputs: dict[str, str] = field(default_factory=dict, hash=False)
    sdk: str = "1.0"

    def versions(self) -> dict[str, str]:
        return {"wrong": self.sdk}

    def build_inputs(self, _: Target, options: BuildOptions) -> dict[str, str]:
        return self.inputs

    def compile(self, model: onnx_ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        self.builds.append(1)
        return super().compile(model, target, options, workdir)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def build(cache: EngineCache, tmp_path: Path) -> Callable[..., Path]:
    """Builds through the cache in a folder of its own; that folder."""

    def built(
        sdk: Counting,
        options: BuildOptions = OPTIONS,
        where: Target | None = None,
        seed: int = 0,
    ) -> Path:
        folder = tmp_path / f"build{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        model = onnx_ir.from_proto(upscaler(seed=seed))
        artifact = cache.compile(sdk, model, where or target("cpu"), options, folder)
        assert artifact.backend == sdk.name
        return folder / artifact.files["engine"]

    return built


def test_the_same_build_is_made_once(build: Callable[..., Path], cache: EngineCache) -> None:
    sdk = Counting()
    first, second = build(sdk), build(sdk)
    assert len(sdk.builds) == 1
    assert first.read_bytes() == second.read_bytes()
    assert (cache.built, cache.hits) == (1, 1)
    # The time limit isn't part of what is built.
    build(sdk, replace(OPTIONS, timeout_s=7))
    assert len(sdk.builds) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"options": replace(OPTIONS, precision=Precision.FP16)},
        {"options": replace(OPTIONS, mode="throughput")},
        {"options": replace(OPTIONS, threads=2)},
        {"options": replace(OPTIONS, memory_bytes=1)},
        {"options": replace(OPTIONS, stateful=(("a", "b"),))},
        {"options": replace(OPTIONS, settings={"level": "2"})},
        {"options": replace(OPTIONS, raw=True)},
        {"where": target("t4")},
        {"where": msgspec.structs.replace(target("cpu"), title="Another processor, 2 cores")},
        {"seed": 1},
    ],
    ids=lambda changed: " ".join(map(str, changed)),
)
def test_whatever_a_build_depends_on_makes_another_entry(
    build: Callable[..., Path], changed: dict[str, object]
) -> None:
    sdk = Counting()
    build(sdk)
    build(sdk, **changed)
    assert len(sdk.builds) == 2
    build(sdk, **changed)
    assert len(sdk.builds) == 2


def test_versions_and_what_a_backend_reads_are_of_the_key(build: Callable[..., Path]) -> None:
    builds: list[int] = []
    for sdk in (
        Counting(builds=builds),
        Counting(builds=builds, sdk="1.1"),
        Counting(builds=builds, inputs={"schedules": "one"}),
        Counting(builds=builds, inputs={"schedules": "two"}),
        Counting(builds=builds, name="other"),
    ):
        before = len(builds)
        build(sdk)
        build(sdk)
        assert len(builds) == before + 1


def test_another_processor_and_another_superlower(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = Counting()
    build(sdk)
    monkeypatch.setattr(engine_cache, "cpu_flags", lambda: frozenset({"sse9"}))
    build(sdk)
    monkeypatch.setattr(engine_cache, "own_code", lambda: "changed")
    build(sdk)
    assert len(sdk.builds) == 3


@pytest.mark.parametrize("damage", ["altered", "cut", "gone", "entry"])
def test_a_damaged_entry_is_built_anew(
    build: Callable[..., Path], cache: EngineCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sdk = Counting()
    right = build(sdk).read_bytes()
    ((folder, entry, _),) = cache.entries()
    (name,) = entry.files
    kept = folder / engine_cache.FILES / name
    if damage == "altered":
        kept.write_bytes(bytes([right[0] ^ 1]) + right[1:])
    elif damage == "cut":
        kept.write_bytes(right[:-1])
    elif damage == "gone":
        kept.unlink()
    else:
        (folder / engine_cache.ENTRY).write_text("{")
    assert build(sdk).read_bytes() == right
    assert len(sdk.builds) == 2
    assert "damaged engine in the cache is built anew" in caplog.text
    assert build(sdk).read_bytes() == right
    assert len(sdk.builds) == 2


def test_failures_are_not_kept(build: Callable[..., Path], cache: EngineCache) -> None:
    class Failing(Counting):
        def compile(self, *_: object) -> Artifact:
            raise BuildFailedError("out of tactics")

    for _ in range(2):
        with pytest.raises(BuildFailedError, match="out of tactics"):
            build(Failing())
    assert cache.entries() == []


def test_the_least_used_go_first(build: Callable[..., Path], cache: EngineCache) -> None:
    sdk = Counting()
    for seed in range(3):
        build(sdk, seed=seed)
    entries = cache.entries()
    size = entries[0][1].bytes
    for age, (folder, _, _) in enumerate(sorted(entries, key=lambda one: one[1].created)):
        os.utime(folder / engine_cache.ENTRY, (age, age))
    build(sdk, seed=0)  # used again, so the first isn't the oldest any more
    assert len(sdk.builds) == 3
    cache.limit_bytes = 3 * size
    build(sdk, seed=3)
    assert [len(cache.entries()), len(sdk.builds)] == [3, 4]
    build(sdk, seed=0)
    assert len(sdk.builds) == 4
    build(sdk, seed=1)
    assert len(sdk.builds) == 5, "the one that was used longest ago had gone"


def test_the_newest_stays_and_all_can_be_removed(build: Callable[..., Path], cache: EngineCache) -> None:
    cache.limit_bytes = 1
    build(Counting())
    assert len(cache.entries()) == 1
    assert cache.trim(0) == 1
    assert cache.entries() == []


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "build").mkdir()
    sdk, cache = Counting(), EngineCache(tmp_path / "file" / "engines")
    cache.compile(sdk, onnx_ir.from_proto(upscaler()), target("cpu"), OPTIONS, tmp_path / "build")
    assert len(sdk.builds) == 1
    assert "isn't kept" in caplog.text


def test_the_graph_is_left_as_it_was(cache: EngineCache, tmp_path: Path) -> None:
    model = onnx_ir.from_proto(upscaler())
    before = ir.serialize(ir.clone(model))
    cache.compile(Counting(), model, target("cpu"), OPTIONS, tmp_path)
    assert ir.serialize(model) == before
