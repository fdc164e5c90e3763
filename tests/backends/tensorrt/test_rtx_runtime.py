"""Compiled kernels are kept from one load to the next, and never cost a load."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from superlower.backends.tensorrt.rtx_runtime import RtxContexts, kernel_cache


class Kernels:
    """A runtime cache: refuses what doesn't begin with "kernels", as the SDK refuses another driver's."""

    def __init__(self) -> None:
        self.content = b"kernels:"

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"kernels:"):
            return False
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content


class Engine:
    """Compiles one kernel a context that isn't in the cache yet."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.compiled = 0

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(cache=None, create_runtime_cache=Kernels)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        self.configs.append(config)
        return config

    def create_execution_context(self, config: Any) -> str:
        if b"conv" not in config.cache.content:
            self.compiled += 1
            config.cache.content += b"conv"
        return "context"


SDK: Any = SimpleNamespace(
    module=SimpleNamespace(CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")),
    first_error=lambda: "none",
)


def _load(path: Path, **options: bool) -> Engine:
    engine = Engine()
    contexts = RtxContexts(SDK, path, cuda_graph=options.get("cuda_graph", False))
    assert [contexts.create(engine), contexts.create(engine)] == ["context", "context"]
    contexts.close()
    contexts.close()
    return engine


def test_the_second_load_compiles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kernels.cache"
    assert _load(path).compiled == 1
    assert path.read_bytes() == b"kernels:conv"
    assert _load(path).compiled == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_contexts_of_an_engine_share_the_kernels(tmp_path: Path) -> None:
    engine = _load(tmp_path / "c")
    assert engine.configs[0].cache is engine.configs[1].cache


def test_a_foreign_cache_is_compiled_anew_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"of another driver")
    assert _load(path).compiled == 1
    assert path.read_bytes() == b"kernels:conv"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert _load(tmp_path / "file" / "c").compiled == 1


def test_a_cuda_graph_is_asked_for_only_when_set(tmp_path: Path) -> None:
    assert not hasattr(_load(tmp_path / "a").configs[0], "cuda_graph_strategy")
    assert _load(tmp_path / "b", cuda_graph=True).configs[0].cuda_graph_strategy == "whole"


def test_the_cache_is_named_after_plan_and_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = {kernel_cache(plan, sm) for plan in (b"a", b"b") for sm in (86, 89)}
    assert len(names) == 4
    assert all(name.is_relative_to(tmp_path) for name in names)
