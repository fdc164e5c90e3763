"""NVRTC, NVIDIA's compiler as a library: from its wheels, which outlive the toolkit's support of a GPU.

nvcc of CUDA 13 no longer compiles for Volta (sm_70); the NVRTC wheel of CUDA 12.9 does, for sm_50 to sm_121.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from superlower.errors import BuildFailedError, MissingSdkError


@dataclass(frozen=True)
class Nvrtc:
    """One NVRTC library.

    Attributes:
        library: loaded.
        version: (major, minor) of CUDA.
        archs: that it compiles for ("sm_70", ...).
    """

    library: ctypes.CDLL
    version: tuple[int, int]
    archs: frozenset[str]

    @property
    def name(self) -> str:
        """With version, for the record."""
        return f"NVRTC {self.version[0]}.{self.version[1]}"

    def compile(self, code: str, *, arch: str) -> bytes:
        """A cubin from CUDA C++ that includes no more than TVM's preamble does.

        Raises:
            MissingSdkError: the code wants cuda_fp16.h or mma.h, and it isn't here.
            BuildFailedError: a compiler error, quoted.
        """
        # TVM's preamble asks libcu++ for these; NVRTC has no standard headers of its own.
        headers = {"cuda/std/cstdint": _CSTDINT, "cuda/std/type_traits": _TYPE_TRAITS}
        program = ctypes.c_void_p()
        sources = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
        names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
        self.library.nvrtcCreateProgram(
            ctypes.byref(program), code.encode(), b"kernels.cu", len(headers), sources, names
        )
        flags = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--disable-warnings"]
        if "cuda_fp16.h" in code:
            flags.append(f"--include-path={self._headers()}".encode())
        if "mma.h" in code:
            flags.append(f"--include-path={self._tensor_core_headers()}".encode())
        status = self.library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
        if log:
            print(log)
        if status != 0:
            reason = next((line for line in log.splitlines() if "error" in line), f"status {status}")
            raise BuildFailedError(f"{self.name} failed: {reason}")
        binary = self._text(program, "CUBIN")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return binary

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw

    def _headers(self) -> Path:
        """Folder with a cuda_fp16.h of the library's own major version; half-precision kernels include it."""
        toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include" / "cuda_fp16.h"
        for header in (*map(Path, in_wheels("*/include/cuda_fp16.h")), toolkit):
            if header.is_file() and _major(header.with_name("cuda_runtime_api.h")) == self.version[0]:
                return header.parent
        raise MissingSdkError(
            f"{self.name} needs cuda_fp16.h of CUDA {self.version[0]}, which isn't here: "
            f"pip install 'superlower[tvm-cuda]'"
        )

    def _tensor_core_headers(self) -> Path:
        """Folder of the crt/mma.h that mma.h includes: compiler's headers, which come with nvcc."""
        toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
        wheels = [Path(file).parents[1] for file in in_wheels("*/include/crt/mma.h")]
        for folder in (*wheels, toolkit):
            # CUDA 12's wheels have a folder each, those of 13 share one with the runtime's headers.
            major = _major(folder / "cuda_runtime_api.h") or (12 if folder.parent.name == "cuda_nvcc" else 0)
            if (folder / "crt" / "mma.h").is_file() and major == self.version[0]:
                return folder
        raise MissingSdkError(
            f"{self.name} needs crt/mma.h of CUDA {self.version[0]} for tensor cores, which isn't here: "
            f"pip install 'superlower[tvm-cuda]'"
        )


def libraries() -> list[Nvrtc]:
    """Every NVRTC here, newest first: of NVIDIA's wheels (PyTorch's too), and on the library path."""
    found: dict[tuple[int, int], Nvrtc] = {}
    for name in [*in_wheels("*/lib/libnvrtc.so.*"), "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        library.nvrtcGetSupportedArchs(known)
        version = major.value, minor.value
        found.setdefault(version, Nvrtc(library, version, frozenset(f"sm_{arch}" for arch in known)))
    return [found[version] for version in sorted(found, reverse=True)]


def in_wheels(pattern: str) -> list[str]:
    """Files of NVIDIA's wheels, which share the namespace package `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec.submodule_search_locations or []) if spec else []
    return [str(path) for root in roots for path in sorted(Path(root).glob(pattern))]


def _major(header: Path) -> int | None:
    """CUDA's major version, as its cuda_runtime_api.h says (12090 for 12.9)."""
    if not header.is_file():
        return None
    found = re.search(r"^#define CUDART_VERSION +([0-9]+)", header.read_text(errors="replace"), re.MULTILINE)
    return int(found[1]) // 1000 if found else None


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
