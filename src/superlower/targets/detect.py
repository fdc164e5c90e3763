"""The `cpu` target: this machine's processor, read from /proc, so that listing targets imports no SDK."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from superlower.targets.base import Figure, Precision, Target

# LLVM processor names by the features LLVM would use on them, most capable first; names as of LLVM 12, the
# oldest that knows them all. A processor of another make with the same features runs the same code.
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_V3 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_X86 = (
    ("sapphirerapids", _V3 | _AVX512 | {"avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"}),
    ("cooperlake", _V3 | _AVX512 | {"avx512_vnni", "avx512_bf16"}),
    ("cascadelake", _V3 | _AVX512 | {"avx512_vnni"}),
    ("x86-64-v4", _V3 | _AVX512),
    ("x86-64-v3", _V3),
    ("x86-64-v2", frozenset({"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"})),
    ("x86-64", frozenset[str]()),
)
_ARM = (
    ("neoverse-n2", frozenset({"sve2", "bf16", "i8mm"})),
    ("neoverse-v1", frozenset({"sve", "bf16", "i8mm"})),
    ("neoverse-n1", frozenset({"asimddp", "asimdhp", "atomics"})),
    ("generic", frozenset[str]()),
)
_X86_REPORTED = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16")
_AMX_REPORTED = ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
_ARM_REPORTED = ("asimd", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16")
_IMPLEMENTERS = {"0x41": "Arm", "0x46": "Fujitsu", "0x48": "HiSilicon", "0x61": "Apple", "0xc0": "Ampere"}
_ARM_PARTS = {
    "0xd08": "Cortex-A72",
    "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1",
    "0xd49": "Neoverse N2",
    "0xd4f": "Neoverse V2",
}


@dataclass(frozen=True)
class Cpu:
    """A processor as Linux describes it.

    Attributes:
        machine: "x86_64" or "aarch64", as `platform.machine` says.
        model: the product's name, or what can be told of it.
        cores: physical cores this process may run on, at least 1.
        flags: instruction-set flags, in /proc/cpuinfo's spelling.
        memory_bytes: memory of the machine; 0 if unknown.
    """

    machine: str
    model: str
    cores: int
    flags: frozenset[str]
    memory_bytes: int


def read_cpu(cpuinfo: str, meminfo: str, machine: str, usable: int) -> Cpu:
    """Describe a processor from the text of /proc/cpuinfo and /proc/meminfo.

    Args:
        machine: "x86_64" or "aarch64".
        usable: logical processors this process may run on (its affinity mask's size).
    """
    blocks = [block for block in map(_fields, cpuinfo.split("\n\n")) if "processor" in block]
    first = blocks[0] if blocks else {}
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    model = first.get("model name") or _arm_model(first) or f"{machine} processor"
    # Two hardware threads share one core's vector units: more threads than cores only contend for them.
    physical = {(b["physical id"], b["core id"]) for b in blocks if "physical id" in b and "core id" in b}
    cores = min(usable, len(physical)) if physical else usable
    total = next((line for line in meminfo.splitlines() if line.startswith("MemTotal:")), "MemTotal: 0 kB")
    return Cpu(machine, " ".join(model.split()), max(cores, 1), flags, int(total.split()[1]) * 1024)


def describe(cpu: Cpu) -> Target:
    """The target a processor is.

    Precisions are those its instructions run faster than fp32: int8 with dot products, or AVX2's sums of
    neighbouring products (OpenVINO: 1.9 times fp32's speed), fp16 with half-precision vectors, bf16 with
    matrix instructions. AVX512_BF16 without AMX is left out: OpenVINO runs bf16 convolutions slower than fp32
    ones on it. Where not every backend's kernels are so, that backend says so.
    """
    arm = cpu.machine == "aarch64"
    fast = {
        Precision.FP32: True,
        Precision.FP16: bool(cpu.flags & ({"asimdhp"} if arm else {"amx_fp16", "avx512_fp16"})),
        Precision.BF16: bool(cpu.flags & ({"bf16"} if arm else {"amx_bf16"})),
        Precision.INT8: bool(cpu.flags & ({"asimddp", "i8mm"} if arm else {"avx2"})),
    }
    reported = [flag for flag in (*_X86_REPORTED, *_AMX_REPORTED, *_ARM_REPORTED) if flag in cpu.flags]
    return Target(
        name="cpu",
        title=f"{cpu.model}, {cpu.cores} core{'s' if cpu.cores > 1 else ''}",
        kind="cpu",
        architecture=cpu.machine,
        precisions=tuple(precision for precision, yes in fast.items() if yes),
        memory_gb=Figure(value=round(cpu.memory_bytes / 1e9, 1), source="MemTotal in /proc/meminfo")
        if cpu.memory_bytes
        else None,
        backends={"onnxruntime": ">=1.24", "openvino": ">=2026.4", "tvm": ">=0.27"},
        unserved={
            "tensorrt": "TensorRT compiles for NVIDIA GPUs only",
            "tensorrt-rtx": "TensorRT-RTX compiles for NVIDIA GPUs only",
        },
        tvm=_tvm(cpu),
        notes=(
            f"Instruction sets: {', '.join(reported) or 'none known'}.",
            "The machine superlower runs on: an engine built here may not run on an older processor.",
        ),
    )


def cpu_target() -> Target:
    """The `cpu` target of this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return describe(read_cpu(_text("/proc/cpuinfo"), _text("/proc/meminfo"), platform.machine(), usable))


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this machine's processor, in /proc/cpuinfo's spelling; empty where unknown."""
    return read_cpu(_text("/proc/cpuinfo"), "", platform.machine(), 1).flags


def required_flags(target: Target) -> frozenset[str]:
    """The flags that code compiled for a CPU target's `mcpu` uses; empty for a generic processor."""
    table = dict((*_X86, *_ARM))
    return frozenset(table.get(str(target.tvm.get("mcpu")), frozenset()))


def _tvm(cpu: Cpu) -> dict[str, str | int]:
    table = _ARM if cpu.machine == "aarch64" else _X86 if cpu.machine == "x86_64" else ()
    mcpu = next((name for name, needs in table if needs <= cpu.flags), "generic")
    triple = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}.get(cpu.machine)
    host: dict[str, str | int] = {"mtriple": triple} if triple else {}
    return {"kind": "llvm", **host, "mcpu": mcpu, "num-cores": cpu.cores}


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _arm_model(block: dict[str, str]) -> str:
    """An Arm core's name; /proc/cpuinfo has only its implementer and part numbers."""
    code, part = block.get("CPU implementer"), block.get("CPU part")
    if code is None or part is None:
        return ""
    known = _ARM_PARTS.get(part) if code == "0x41" else None
    return f"{_IMPLEMENTERS.get(code, f'implementer {code}')} {known or f'part {part}'}"


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""
