"""The libraries that TVM's CUDA runtime links, and what stands in where they aren't, or don't serve.

`libcuda.so.1` is the driver's. TVM 0.27 keeps a module as CUDA source, without a word, unless its CUDA
library loads; building calls none of the driver's functions, so a library of that name with the right symbols
is enough.

`libcudart.so.13` is CUDA 13's runtime, which needs a driver of CUDA 13 and no longer supports Volta. What TVM
calls of it has the same arguments in CUDA 12, whose runtime supports Volta and takes drivers from R525 on:
there a library of that name stands in which passes each call on to libcudart.so.12.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from superlower.backends.tvm import nvrtc
from superlower.errors import MissingSdkError

INSTALL = "superlower[tvm-cuda]"

DRIVER = (
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

_RUNTIME = """
DeviceGetAttribute EventCreate EventDestroy EventElapsedTime EventRecord EventSynchronize Free FreeHost
GetDevice GetDeviceCount GetErrorName GetErrorString GetLastError GraphDestroy GraphExecDestroy
GraphInstantiate GraphLaunch Malloc MallocHost MemGetInfo MemcpyAsync MemcpyPeerAsync PeekAtLastError
SetDevice StreamBeginCapture StreamCreate StreamCreateWithFlags StreamDestroy StreamEndCapture
StreamSynchronize StreamWaitEvent
"""
RUNTIME = tuple(f"cuda{name}" for name in _RUNTIME.split())
"""What it takes from libcudart.so.13 with the same arguments in CUDA 12: six at most, no floating point."""

CHANGED = ("cudaGetDeviceProperties",)
"""What it takes that hasn't: cudaDeviceProp lost fields. Running a module doesn't call it; it is refused."""

_FIRST_OF_13 = 75
"""Compute capability of the oldest GPUs that CUDA 13 supports: Turing."""


def provide_for_builds(folder: Path) -> str:
    """Load what TVM's CUDA library links before TVM does, where nothing is run.

    Returns:
        "" for the machine's own driver, else what stands in; see `provide_driver` and `provide_runtime`.
    """
    provide_runtime()
    return provide_driver(folder)


def provide_driver(folder: Path) -> str:
    """Load a driver library before TVM does: the machine's own, or a stand-in made in `folder`.

    Returns:
        "" for the machine's own driver, else what stands in.

    Raises:
        MissingSdkError: no driver and no C compiler.
    """
    if _load("libcuda.so.1"):
        return ""
    # 100 is CUDA_ERROR_NO_DEVICE.
    source = "".join(f"int {name}(void) {{ return 100; }}\n" for name in DRIVER)
    ctypes.CDLL(str(_made(folder, "libcuda.so.1", source)), ctypes.RTLD_GLOBAL)
    return "stand-in libcuda.so.1"


def provide_runtime(gpus: Sequence[int] = ()) -> str:
    """Load CUDA's runtime library before TVM does.

    CUDA 13's, from the library path or NVIDIA's wheel; CUDA 12's behind a stand-in where the driver is older
    than CUDA 13, where a GPU is, or where CUDA 13's isn't here.

    Args:
        gpus: compute capabilities of the GPUs that code will run on (70, 86, ...); none for a build.

    Returns:
        "" for CUDA 13's, else what stands in.

    Raises:
        MissingSdkError: neither is here, or a stand-in is needed and there is no C compiler.
    """
    if _loads_thirteen(gpus):
        return ""
    with tempfile.TemporaryDirectory(prefix="superlower-cudart-") as folder:
        made = _stand_in(Path(folder), gpus)
        ctypes.CDLL(str(made), ctypes.RTLD_GLOBAL)
    return "stand-in libcudart.so.13, over CUDA 12's"


def runtime_folder(folder: Path, gpus: Sequence[int]) -> Path | None:
    """What another process needs in its library path, as it finds CUDA's runtime there when it loads TVM.

    Args:
        folder: existing, for a stand-in that lasts as long as the process.

    Returns:
        None where nothing is needed.

    Raises:
        MissingSdkError: as `provide_runtime`.
    """
    if not _loads_thirteen(gpus):
        return _stand_in(folder, gpus).parent
    wheels = nvrtc.in_wheels("*/lib/libcudart.so.13")
    return Path(wheels[0]).parent if wheels else None


def _loads_thirteen(gpus: Sequence[int]) -> bool:
    """Whether CUDA 13's runtime serves the GPUs and is here; it is loaded then."""
    return not _old(gpus) and _load("libcudart.so.13", *nvrtc.in_wheels("*/lib/libcudart.so.13"))


def _old(gpus: Sequence[int]) -> bool:
    return bool(gpus) and (min(gpus) < _FIRST_OF_13 or 0 < driver_version() < 13000)


def _stand_in(folder: Path, gpus: Sequence[int]) -> Path:
    """A libcudart.so.13 made in `folder` that passes calls on to CUDA 12's."""
    twelve = next(
        (name for name in (*nvrtc.in_wheels("*/lib/libcudart.so.12"), "libcudart.so.12") if _load(name)), None
    )
    if twelve is None:
        old = "libcudart.so.12 (its GPU or driver is older than CUDA 13)"
        wanted = old if _old(gpus) else "libcudart.so.13"
        raise MissingSdkError(f"TVM's CUDA library needs {wanted}, which isn't here: pip install '{INSTALL}'")
    return _made(folder, "libcudart.so.13", _forwarding(twelve), versioned=True)


def driver_version() -> int:
    """The CUDA version of the machine's driver (13000 for 13.0); 0 where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def _forwarding(library: str) -> str:
    """C source of functions that pass their arguments, all in integer registers, on to another library's."""
    # 801 is cudaErrorNotSupported.
    passed = "".join(f"FORWARD({name})\n" for name in RUNTIME)
    refused = "".join(f"int {name}(void) {{ return 801; }}\n" for name in CHANGED)
    return f"""#include <dlfcn.h>
typedef long (*call)(long, long, long, long, long, long);
#define FORWARD(name) \\
  long name(long a, long b, long c, long d, long e, long f) {{ \\
    static call found; \\
    if (!found) found = (call)dlsym(dlopen({json.dumps(library)}, RTLD_NOW), #name); \\
    return found(a, b, c, d, e, f); \\
  }}
{passed}{refused}"""


def _load(*names: str) -> bool:
    for name in names:
        try:
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            return True
        except OSError:
            continue
    return False


def _made(folder: Path, name: str, source: str, *, versioned: bool = False) -> Path:
    """Compile C source to a library of that name in a folder, its symbols of that version if asked."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingSdkError(f"a stand-in for {name} needs a C compiler: install gcc")
    code, library, script = folder / "library.c", folder / name, folder / "library.map"
    code.write_text(source)
    script.write_text(f"{name} {{ global: cu*; local: *; }};\n")
    versions = [f"-Wl,--version-script={script}"] if versioned else []
    command = [compiler, "-O1", "-shared", "-fPIC", f"-Wl,-soname,{name}", *versions]
    subprocess.run([*command, "-o", str(library), str(code), "-ldl"], check=True)
    return library
