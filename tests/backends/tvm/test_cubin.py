"""Device code is read without CUDA's tools, and as they wrote it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from superlower.backends.tvm import nvrtc
from superlower.backends.tvm.cubin import FATBIN, device_code, scan
from superlower.errors import BadInputError

SOURCE = """
extern "C" __global__ void plain(float* a, const float* b) { a[threadIdx.x] += b[threadIdx.x]; }
extern "C" __global__ void shared(float* a) {
    __shared__ float s[256];
    s[threadIdx.x] = a[threadIdx.x];
    __syncthreads();
    a[threadIdx.x] = s[255 - threadIdx.x];
}
"""
RESERVED = {90: 1024, 120: 1024}
"""Bytes of a block's shared memory that the system keeps, from sm_90 on."""


def _cubin(arch: str) -> bytes:
    library = next((found for found in nvrtc.libraries() if arch in found.archs), None)
    if library is None:
        pytest.skip(f"no NVRTC with {arch}: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'")
    return library.compile(SOURCE, arch=arch)


@pytest.mark.parametrize("number", [70, 75, 80, 86, 89, 90, 120])
def test_a_cubin_tells_its_architecture_and_kernels(number: int) -> None:
    cubin = _cubin(f"sm_{number}")
    # Whatever lies around it, and machine code of a host's before it.
    (code,) = scan(b"\x7fELF\x02\x01\x01\x00" + bytes(200) + cubin + b"\x7fELF and so on")
    assert (code.arch, code.kind, code.nbytes) == (f"sm_{number}", "cubin", len(cubin))
    kernels = {kernel.name: kernel for kernel in code.kernels}
    assert set(kernels) == {"plain", "shared"}
    assert kernels["shared"].shared_bytes == 1024 + RESERVED.get(number, 0)
    assert kernels["plain"].shared_bytes == 0
    assert all(0 < kernel.registers < 32 and kernel.code_bytes > 0 for kernel in code.kernels)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_registers_and_shared_memory_are_what_ptxas_reports(arch: str, tmp_path: Path) -> None:
    source, binary = tmp_path / "k.cu", tmp_path / "k.cubin"
    source.write_text(SOURCE)
    command = ["nvcc", "-cubin", f"-arch={arch}", "-Xptxas", "-v", "-o", binary, source]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    told = re.findall(
        r"entry function '(\w+)'.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", report, re.S
    )
    (code,) = device_code(binary)
    reserved = RESERVED.get(int(arch.removeprefix("sm_")), 0)
    found = {(k.name, k.registers, max(0, k.shared_bytes - reserved)) for k in code.kernels}
    assert found == {(name, int(registers), int(smem or 0)) for name, registers, smem in told}
    assert len(found) == 2


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_a_fatbin_of_nvcc_lists_its_ptx_too(tmp_path: Path) -> None:
    source, binary = tmp_path / "k.cu", tmp_path / "k.fatbin"
    source.write_text(SOURCE)
    generate = "-gencode=arch=compute_86,code=[sm_86,compute_86]"
    subprocess.run(["nvcc", "--fatbin", "--no-compress", generate, "-o", binary, source], check=True)
    cubin, ptx = device_code(binary)
    assert (cubin.arch, cubin.kind, len(cubin.kernels)) == ("sm_86", "cubin", 2)
    assert (ptx.arch, ptx.kind, ptx.kernels) == ("compute_86", "PTX", ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no device code",
        FATBIN,
        FATBIN + bytes(100),
        b"\x7fELF",
        b"\x7fELF" + bytes(14) + b"\xbe\x00" + b"\xff" * 64,
    ],
    ids=["empty", "text", "magic", "zeros", "elf", "garbage"],
)
def test_what_only_looks_like_device_code_is_passed_over(data: bytes) -> None:
    assert list(scan(data)) == []


def test_a_truncated_cubin_is_no_kernel_list() -> None:
    cubin = _cubin("sm_86")
    assert list(scan(cubin[: len(cubin) // 2])) == []
    assert [code.arch for code in scan(cubin[:100] + cubin)] == ["sm_86"]


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="can't be read"):
        device_code(tmp_path / "absent.so")
