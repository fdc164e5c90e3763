"""CUDA compilation on a machine without a GPU: a compiler that knows the architecture."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from superlower.backends.tvm import nvrtc
from superlower.backends.tvm.libraries import INSTALL
from superlower.errors import BuildFailedError, MissingSdkError

Compile = Callable[[str], bytes]


@dataclass(frozen=True)
class CudaCompiler:
    """A compiler that makes binaries for one architecture, or one for several.

    Attributes:
        name: with version, for the record.
        holds: what its output is ("cubin and PTX", "cubin", "cubins of sm_70, sm_86").
        compile: CUDA C++ source -> binary.
    """

    name: str
    holds: str
    compile: Compile


def find_compiler(archs: Sequence[str], workdir: Path) -> CudaCompiler:
    """nvcc where it knows an architecture, else an NVRTC library that does; several make one fatbin.

    Args:
        archs: "sm_70", "sm_86", ...: one or more, each once.
        workdir: existing folder for intermediate files.

    Raises:
        MissingSdkError: none is here or knows an architecture, or several are asked for without `fatbinary`.
    """
    found = [_find(arch, workdir, alone=len(archs) == 1) for arch in archs]
    if len(found) == 1:
        return found[0]
    tool = _toolkit("fatbinary")
    if tool is None:
        raise MissingSdkError(
            "several architectures in one engine need `fatbinary` of the CUDA toolkit, which isn't here: "
            "install the toolkit, or build an engine for each"
        )

    def compile_each(code: str) -> bytes:
        images, joined = [], workdir / "kernels.fatbin"
        for arch, one in zip(archs, found, strict=True):
            cubin = workdir / f"{arch}.cubin"
            cubin.write_bytes(one.compile(code))
            images.append(f"--image3=kind=elf,sm={arch.removeprefix('sm_')},file={cubin}")
        _run([tool, "-64", "--compress-mode=none", f"--create={joined}", *images])
        return joined.read_bytes()

    names = " and ".join(dict.fromkeys(one.name for one in found))
    return CudaCompiler(names, f"cubins of {', '.join(archs)}", compile_each)


@cache
def compilers() -> str:
    """Every CUDA compiler that `find_compiler` may choose, with its version."""
    nvcc = _toolkit("nvcc")
    text = [] if nvcc is None else _output([nvcc, "--version"]).strip().splitlines()[-1:]
    return "; ".join([*text, *(library.name for library in nvrtc.libraries())])


def _find(arch: str, workdir: Path, *, alone: bool) -> CudaCompiler:
    tried = []
    nvcc = _nvcc(arch, workdir, alone=alone)
    if isinstance(nvcc, CudaCompiler):
        return nvcc
    tried.append(nvcc)
    for library in nvrtc.libraries():
        if arch in library.archs:
            return CudaCompiler(library.name, "cubin", partial(library.compile, arch=arch))
        tried.append(f"{library.name} has no {arch}")
    if len(tried) == 1:
        tried.append("no NVRTC")
    raise MissingSdkError(f"no CUDA compiler for {arch} ({'; '.join(tried)}): pip install '{INSTALL}'")


def _toolkit(program: str) -> str | None:
    return shutil.which(program) or shutil.which(f"/usr/local/cuda/bin/{program}")


def _nvcc(arch: str, workdir: Path, *, alone: bool) -> CudaCompiler | str:
    nvcc = _toolkit("nvcc")
    if nvcc is None:
        return "no nvcc"
    version = _output([nvcc, "--version"]).partition("release ")[2].partition(",")[0] or "?"
    if arch not in _output([nvcc, "--list-gpu-code"]).split():
        return f"nvcc {version} has no {arch}"

    def compile_source(code: str) -> bytes:
        source, binary = workdir / "kernels.cu", workdir / "kernels.bin"
        source.write_text(code)
        virtual = arch.replace("sm_", "compute_")
        # Newer GPUs compile an engine's PTX; uncompressed, what it holds can be listed.
        both = ["--fatbin", "--no-compress", f"-gencode=arch={virtual},code=[{arch},{virtual}]"]
        what = both if alone else ["--cubin", f"-arch={arch}"]
        _run([nvcc, *what, "-O3", "-w", "-o", str(binary), str(source)])
        return binary.read_bytes()

    return CudaCompiler(f"nvcc {version}", "cubin and PTX" if alone else "cubin", compile_source)


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
