"""Cross-compiling for NVIDIA GPUs on machines without one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.tvm import cuda, engine
from superlower.backends.tvm.backend import Tvm
from superlower.errors import BuildFailedError, MissingSdkError
from superlower.targets.catalog import target

ADD = 'extern "C" __global__ void add(float* a, const float* b) { a[threadIdx.x] += b[threadIdx.x]; }'
FATBIN_MAGIC = bytes.fromhex("50ed55ba")


def _compiler(arch: str, folder: Path) -> cuda.CudaCompiler:
    try:
        return cuda.find_compiler(arch, folder)
    except MissingSdkError as error:
        pytest.skip(str(error))


def test_the_compiler_found_makes_device_code(tmp_path: Path) -> None:
    compiler = _compiler("sm_86", tmp_path)
    binary = compiler.compile(ADD)
    assert binary.startswith(FATBIN_MAGIC if compiler.name.startswith("nvcc") else b"\x7fELF")
    with pytest.raises(BuildFailedError, match="failed"):
        compiler.compile("this is no CUDA")


def test_nvrtc_knows_the_preamble_that_tvm_writes(tmp_path: Path) -> None:
    compiler = cuda._nvrtc("sm_86", tmp_path)
    if isinstance(compiler, str):
        pytest.skip(f"{compiler}: pip install nvidia-cuda-nvrtc-cu12")
    preamble = (
        "#include <cuda/std/cstdint>\n#include <cuda/std/type_traits>\n"
        "using cuda::std::int64_t;\n"
        'static_assert(cuda::std::is_integral<int>::value && !cuda::std::is_integral<float>::value, "");\n'
        'static_assert(cuda::std::is_same_v<cuda::std::conditional<false, int, float>::type, float>, "");\n'
        'static_assert(sizeof(int64_t) == 8 && cuda::std::is_signed<int64_t>::value, "");\n'
    )
    assert compiler.compile(preamble + ADD).startswith(b"\x7fELF")


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(cuda, "_nvrtc_library", lambda: None)
    with pytest.raises(
        MissingSdkError, match=r"sm_70 \(no nvcc; no NVRTC\): pip install 'nvidia-cuda-nvrtc-cu12"
    ):
        cuda.find_compiler("sm_70", tmp_path)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_stand_in_has_every_symbol_tvms_library_takes_from_the_driver(tmp_path: Path) -> None:
    spec = pytest.importorskip("importlib.util").find_spec("tvm")
    if spec is None or shutil.which("nm") is None:
        pytest.skip("apache-tvm or nm isn't here")
    library = Path(spec.origin).parent / "lib" / "libtvm_runtime_cuda.so"
    if not library.is_file():
        pytest.skip(f"no {library.name} in this apache-tvm")
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    )
    wanted = {line.split()[-1] for line in listing.stdout.splitlines()}
    driver = {name for name in wanted if name.startswith("cu") and not name.startswith("cuda")}
    assert driver == set(cuda._DRIVER_SYMBOLS)


def test_a_warp_step_becomes_device_code_for_a_gpu_that_is_not_here(
    make_warp_step: Callable[..., ir.Model], tmp_path: Path
) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    compiler = _compiler("sm_86", tmp_path)
    backend, gpu = Tvm(), target("rtx3090")
    try:
        artifact = backend.compile(make_warp_step(channels=4, blocks=1), gpu, BuildOptions(), tmp_path)
    except MissingSdkError as error:
        pytest.skip(str(error))
    assert artifact.facts["arch"] == "sm_86"
    assert artifact.facts["compiler"] == compiler.name
    code = (tmp_path / artifact.files["engine"]).read_bytes()
    # The library itself and, inside, each GPU binary; and no kernel as source.
    assert code.count(b"\x7fELF") >= 2
    assert b"__global__" not in code
    assert "fused_conv2d" in _names(code)
    if isinstance(engine.nvidia_gpus(), str):
        with pytest.raises(MissingSdkError, match="NVIDIA GPU"):
            backend.load(artifact, tmp_path)


def _names(code: bytes) -> str:
    return code.decode("latin-1")


def test_what_runs_here_follows_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    monkeypatch.setattr(engine, "nvidia_gpus", lambda: [86])
    assert Tvm().runnable(target("rtx3090")) is None
    assert "sm_70; this machine has sm_86" in str(Tvm().runnable(target("v100")))

    def no_library(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.undo()
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert "no NVIDIA driver" in str(Tvm().runnable(target("rtx3090")))
