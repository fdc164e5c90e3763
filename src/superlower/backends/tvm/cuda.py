"""CUDA compilation on a machine without a GPU: a compiler that knows the architecture, and a stand-in driver.

TVM 0.27 keeps a module as CUDA source, without a word, unless its CUDA runtime library loads; that library
links libcuda.so.1, which only a driver installs. Building calls none of its functions, so a library of that
name with the right symbols is enough.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from superlower.errors import BuildFailedError, MissingSdkError

Compile = Callable[[str], bytes]

_DRIVER_SYMBOLS = (
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuLaunchKernelEx",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)
"""What libtvm_runtime_cuda.so of apache-tvm 0.27.0.post1 takes from libcuda.so.1."""


@dataclass(frozen=True)
class CudaCompiler:
    """A compiler that makes binaries for one architecture.

    Attributes:
        name: with version, for the record.
        holds: what its output is ("cubin and PTX in a fatbin", "cubin").
        compile: CUDA C++ source -> binary.
    """

    name: str
    holds: str
    compile: Compile


def find_compiler(arch: str, workdir: Path) -> CudaCompiler:
    """nvcc where it knows the architecture, else an NVRTC library.

    Args:
        arch: "sm_70", "sm_86", ...
        workdir: existing folder for intermediate files.

    Raises:
        MissingSdkError: neither is here, or neither knows the architecture.
    """
    tried = []
    for find in (_nvcc, _nvrtc):
        found = find(arch, workdir)
        if isinstance(found, CudaCompiler):
            return found
        tried.append(found)
    raise MissingSdkError(
        f"no CUDA compiler for {arch} ({'; '.join(tried)}): pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'"
    )


def provide_driver(folder: Path) -> str:
    """Load a driver library before TVM does: the machine's own, or a stand-in made in `folder`.

    Returns:
        "" for the machine's own driver, else what stands in.

    Raises:
        MissingSdkError: no driver and no C compiler.
    """
    try:
        ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
        return ""
    except OSError:
        pass
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingSdkError("building for CUDA without a driver needs a C compiler: install gcc")
    source, library = folder / "libcuda.c", folder / "libcuda.so.1"
    # 100 is CUDA_ERROR_NO_DEVICE.
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in _DRIVER_SYMBOLS))
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return "stand-in libcuda.so.1"


def provide_runtime() -> None:
    """Load CUDA 13's runtime library, from NVIDIA's wheel where the machine has none on its path.

    Raises:
        MissingSdkError: it is in neither.
    """
    for name in ["libcudart.so.13", *_in_wheels("*/lib/libcudart.so.13")]:
        try:
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
    raise MissingSdkError(
        "TVM's CUDA library needs libcudart.so.13, which isn't here: pip install 'nvidia-cuda-runtime==13.*'"
    )


def _in_wheels(pattern: str) -> list[str]:
    """Files of NVIDIA's wheels, which share the namespace package `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec.submodule_search_locations or []) if spec else []
    return [str(path) for root in roots for path in sorted(Path(root).glob(pattern))]


def _nvcc(arch: str, workdir: Path) -> CudaCompiler | str:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        return "no nvcc"
    version = _output([nvcc, "--version"]).partition("release ")[2].partition(",")[0] or "?"
    if arch not in _output([nvcc, "--list-gpu-code"]).split():
        return f"nvcc {version} has no {arch}"

    def compile_source(code: str) -> bytes:
        source, binary = workdir / "kernels.cu", workdir / "kernels.fatbin"
        source.write_text(code)
        virtual = arch.replace("sm_", "compute_")
        generate = f"-gencode=arch={virtual},code=[{arch},{virtual}]"
        _run([nvcc, "--fatbin", "-O3", "-w", generate, "-o", str(binary), str(source)])
        return binary.read_bytes()

    return CudaCompiler(f"nvcc {version}", "cubin and PTX", compile_source)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode != 0:
        reason = next(
            (line for line in done.stderr.splitlines() if "error" in line.lower()), "no reason given"
        )
        raise BuildFailedError(f"{Path(command[0]).name} failed: {reason}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _nvrtc(arch: str, workdir: Path) -> CudaCompiler | str:
    library = _nvrtc_library()
    if library is None:
        return "no NVRTC"
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    name = f"NVRTC {major.value}.{minor.value}"
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(known)
    if int(arch.removeprefix("sm_")) not in list(known):
        return f"{name} has no {arch}"
    return CudaCompiler(name, "cubin", lambda code: _nvrtc_compile(library, code, arch))


def _nvrtc_library() -> ctypes.CDLL | None:
    """NVRTC from NVIDIA's wheels (also those PyTorch brings), or from the machine's library path."""
    for name in [*_in_wheels("*/lib/libnvrtc.so.*"), "libnvrtc.so.12", "libnvrtc.so.13"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _nvrtc_compile(library: ctypes.CDLL, code: str, arch: str) -> bytes:
    # TVM's preamble asks libcu++ for these; NVRTC has no standard headers of its own.
    headers = {"cuda/std/cstdint": _CSTDINT, "cuda/std/type_traits": _TYPE_TRAITS}
    program = ctypes.c_void_p()
    sources = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    library.nvrtcCreateProgram(
        ctypes.byref(program), code.encode(), b"kernels.cu", len(headers), sources, names
    )
    flags = [f"--gpu-architecture={arch}".encode(), b"--std=c++17"]
    if "cuda_fp16.h" in code:
        if (include := _toolkit_headers()) is None:
            raise MissingSdkError("cuda_fp16.h isn't here: pip install 'nvidia-cuda-runtime-cu12==12.9.*'")
        flags.append(f"--include-path={include}".encode())
    status = library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    log = _nvrtc_text(library, program, "ProgramLog").decode(errors="replace")
    print(log)
    if status != 0:
        reason = next((line for line in log.splitlines() if "error" in line), f"status {status}")
        raise BuildFailedError(f"NVRTC failed: {reason}")
    binary = _nvrtc_text(library, program, "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return binary


def _nvrtc_text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _toolkit_headers() -> Path | None:
    """Where cuda_fp16.h is: half-precision kernels include it."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include" / "cuda_fp16.h"
    found = [*map(Path, _in_wheels("*/include/cuda_fp16.h")), toolkit]
    return next((header.parent for header in found if header.is_file()), None)


_CSTDINT = """
namespace cuda { namespace std {
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
} }
"""

_TYPE_TRAITS = """
namespace cuda { namespace std {
template <class T, T v> struct integral_constant { static constexpr T value = v; };
template <class A, class B> struct is_same : integral_constant<bool, false> {};
template <class A> struct is_same<A, A> : integral_constant<bool, true> {};
template <class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <class T> struct is_floating_point
    : integral_constant<bool, is_same_v<T, float> || is_same_v<T, double>> {};
template <class T> struct is_integral : integral_constant<bool, T(0.5) == T(0)> {};
template <class T> struct is_signed : integral_constant<bool, T(-1) < T(0)> {};
template <class T> struct is_unsigned : integral_constant<bool, !(T(-1) < T(0))> {};
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
} }
"""
