"""What several packages' tests share: models, and bundles built once a session."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from superlower.backends import onnxruntime, registry
from superlower.backends.process import build_in_subprocess
from superlower.backends.tvm.tuning import store
from support.command import superlower
from support.models import recurrent, save_program, save_upscaler
from support.wrong import Wrong, install


def pytest_configure() -> None:
    """Take Ctrl-C back: a suite started in the background has it ignored, and so has all that it starts.

    A hang-up that nohup has ignored stays without effect here, but what is started gets it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    # Nor may what was tuned on this machine change what is built.
    os.environ[store.FOLDER] = "off"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, or one process would be at it long after the others are done."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Load TVM's compiler where a module asks it in this process: an engine brings the runtime alone."""
    asking = (getattr(getattr(item, "module", None), "ASKS_TVM", False) for item in session.items)
    if any(asking) and importlib.util.find_spec("tvm") is not None:
        importlib.import_module("tvm")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of reference inputs and outputs."""
    default = Path(__file__).parents[2] / "shared" / "oracles"
    folder = Path(os.environ.get("SUPERLOWER_ORACLES", default))
    if not folder.is_dir():
        pytest.skip(f"no oracles at {folder}: set SUPERLOWER_ORACLES")
    return folder


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    """A lone ONNX upscaler, 16x16 to 32x32."""
    return save_upscaler(tmp_path / "upscaler.onnx")


@pytest.fixture(scope="session")
def upscaler_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lone upscaler, compiled by ONNX Runtime through the command line. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("upscaler")
    return _compiled(save_upscaler(folder / "upscaler.onnx"), folder / "bundle", "--frames", 3)


@pytest.fixture(scope="session")
def recurrent_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a hidden state, compiled by ONNX Runtime. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("recurrent")
    return _compiled(save_program(recurrent(), folder / "program"), folder / "bundle")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Makes a copy of a bundle to damage."""
    return lambda bundle: Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def basicvsr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BasicVSR of one block with seeded weights at 64x64, exported by the command. Not to be changed."""
    pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
    # Test processes share it: tracing is the longest part of many a test.
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / "basicvsr" / "program"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            options = ("--size", "64x64", "-w", "random:0", "--set", "blocks=1")
            outcome = superlower("export", "basicvsr", "-o", folder, *options)
            assert outcome.code == 0, outcome.stderr
    return folder


def _in_this_process(function: str, request: dict[str, Any], workdir: Path, **_: object) -> dict[str, object]:
    return onnxruntime.try_session(request, workdir)


@pytest.fixture(scope="session", autouse=True)
def quick_builds() -> Iterator[None]:
    """ONNX Runtime tries its sessions in this process, which takes a second less a graph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "build_in_subprocess", _in_this_process)
        yield


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries them in processes of their own, as it does outside of tests."""
    monkeypatch.setattr(onnxruntime, "build_in_subprocess", build_in_subprocess)


@pytest.fixture
def install_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Wrong], None]]:
    """Puts a backend beside the installed ones for the length of a test."""
    yield lambda backend: install(monkeypatch, backend)
    registry.backend.cache_clear()


def _compiled(model: Path, output: Path, *options: object) -> Path:
    common = ("-t", "cpu", "-b", "onnxruntime", "--threads", 1)
    outcome = superlower("compile", model, "-o", output, *common, *options)
    assert outcome.code == 0, outcome.stderr
    return output
