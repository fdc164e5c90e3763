"""A CUDA driver over host memory, the catalog's targets, and tiny graphs of one operator."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.backends import process
from superlower.backends.tensorrt import building, classic, cuda, probes
from superlower.backends.tensorrt.cuda import Driver
from superlower.backends.tensorrt.loading import runtime_sdk
from superlower.backends.tensorrt.network import process_sdk
from superlower.ir import IR_VERSION, OPSET
from superlower.targets.base import Target
from superlower.targets.catalog import load_catalog

Tensors = Mapping[str, tuple[int, Sequence[int]]]


@pytest.fixture(scope="session")
def targets() -> dict[int, Target]:
    """SM number -> a target of the catalog."""
    return {t.compute_capability: t for t in load_catalog().values() if t.compute_capability is not None}


@pytest.fixture(scope="session")
def fake_cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fake_cuda.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the CUDA driver over host memory with")
    library = tmp_path_factory.mktemp("cuda") / "libfakecuda.so"
    source = Path(__file__).parent / "fake_cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
    return library


@pytest.fixture
def fake_cuda(fake_cuda_library: Path) -> ctypes.CDLL:
    """The fake driver with its own controls, in its first state."""
    library = ctypes.CDLL(str(fake_cuda_library))
    library.fake_enqueue.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    library.fake_allocations_left(-1)
    library.fake_devices(1, 86)
    return library


def _here(function: str, request: dict[str, Any], workdir: Path, **_: object) -> dict[str, object]:
    """What `build_in_subprocess` does, in this process."""
    module, _, name = function.partition(":")
    made = getattr(importlib.import_module(module), name)
    with (workdir / process.LOG).open("a") as log, contextlib.redirect_stdout(log):
        result: dict[str, object] = made(json.loads(json.dumps(request)), workdir)
    return result


@pytest.fixture
def classic_sdk(
    fake_cuda: ctypes.CDLL, fake_cuda_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Puts a made TensorRT of a version on a made GPU: `classic_sdk("10.4.0", sm=70)`; see `fake`.

    Builds run in the test's own process, which is quicker, unless it says `apart=True`.
    """
    here = Path(__file__).parent
    site, libraries = tmp_path / "site", tmp_path / "lib"
    for folder in (site, libraries):
        folder.mkdir()
    (libraries / "libcuda.so.1").symlink_to(fake_cuda_library)
    for source in (here / "fake").glob("*.py"):
        shutil.copy(source, site)
    names = [path.stem for path in site.glob("*.py")]

    def forget() -> None:
        runtime_sdk.cache_clear()
        process_sdk.cache_clear()
        for name in names:
            sys.modules.pop(name, None)

    def install(version: str, sm: int = 86, devices: int = 1, apart: bool = False) -> None:
        forget()
        for old in site.glob("*.dist-info"):
            shutil.rmtree(old)
        info = site / f"tensorrt-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
        monkeypatch.setenv("FAKE_TENSORRT", str(here / "bindings" / f"{version}.json"))
        monkeypatch.setenv("FAKE_CUDA_SM", str(sm))
        fake_cuda.fake_devices(devices, sm)
        for module in (building, probes):
            monkeypatch.setattr(
                module, "build_in_subprocess", process.build_in_subprocess if apart else _here
            )
        importlib.invalidate_caches()

    monkeypatch.setenv("FAKE_CUDA", str(fake_cuda_library))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(site)
    for module in (classic, cuda):
        monkeypatch.setattr(module, "Driver", functools.partial(Driver, str(fake_cuda_library)))
    yield install
    forget()


@pytest.fixture
def one_node() -> Callable[..., ir.Model]:
    """A model of one node: `one_node("Relu", {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])})`."""

    def make(
        op: str,
        inputs: Tensors,
        outputs: Tensors,
        initializers: Sequence[Any] = (),
        *,
        opset: int = OPSET,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Model:
        held = [tensor.name for tensor in initializers]
        node = helper.make_node(op, [*inputs, *held], list(outputs), name="it", domain=domain, **attributes)

        def infos(tensors: Tensors) -> list[Any]:
            return [helper.make_tensor_value_info(n, t, shape) for n, (t, shape) in tensors.items()]

        graph = helper.make_graph([node], "one", infos(inputs), infos(outputs), list(initializers))
        imports = [helper.make_opsetid("", opset)]
        if domain:
            imports.append(helper.make_opsetid(domain, 1))
        return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION))

    return make


@pytest.fixture
def float_types() -> dict[str, int]:
    """Short names of ONNX element types."""
    return {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
