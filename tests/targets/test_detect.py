"""The `cpu` target, from fabricated /proc text and from this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from superlower.targets.base import Precision
from superlower.targets.catalog import target
from superlower.targets.detect import Cpu, cpu_flags, cpu_target, describe, read_cpu, required_flags

V3 = "fpu sse4_1 sse4_2 ssse3 cx16 popcnt avx avx2 bmi1 bmi2 f16c fma abm movbe"
AVX512 = "avx512f avx512bw avx512cd avx512dq avx512vl"
MEMINFO = "MemTotal:       32768000 kB\nMemFree:         1000000 kB\n"


def x86(flags: str, cores: int = 2, threads: int = 1, sockets: int = 1) -> str:
    cpus = [(s, c) for _ in range(threads) for s in range(sockets) for c in range(cores)]
    blocks = [
        f"processor\t: {n}\nmodel name\t: Test  CPU @ 3.00GHz\n"
        f"physical id\t: {socket}\ncore id\t\t: {core}\nflags\t\t: {flags}\n"
        for n, (socket, core) in enumerate(cpus)
    ]
    return "\n".join(blocks)


def arm(features: str, implementer: str = "0x41", part: str = "0xd40", cores: int = 4) -> str:
    blocks = [
        f"processor\t: {n}\nBogoMIPS\t: 50.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU part\t: {part}\n"
        for n in range(cores)
    ]
    return "\n".join(blocks)


@pytest.mark.parametrize(
    ("flags", "mcpu", "precisions"),
    [
        ("fpu sse2", "x86-64", {"fp32"}),
        ("sse4_1 sse4_2 ssse3 cx16 popcnt", "x86-64-v2", {"fp32"}),
        (V3, "x86-64-v3", {"fp32", "int8"}),
        (f"{V3} avx_vnni", "x86-64-v3", {"fp32", "int8"}),
        (f"{V3} {AVX512}", "x86-64-v4", {"fp32", "int8"}),
        (f"{V3} {AVX512} avx512_vnni", "cascadelake", {"fp32", "int8"}),
        (f"{V3} {AVX512} avx512_vnni avx512_bf16", "cooperlake", {"fp32", "int8"}),
        (
            f"{V3} {AVX512} avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16",
            "sapphirerapids",
            {"fp32", "fp16", "bf16", "int8"},
        ),
    ],
)
def test_x86_features_choose_the_llvm_processor_and_the_precisions(flags, mcpu, precisions):
    target = describe(read_cpu(x86(flags), MEMINFO, "x86_64", usable=2))
    assert target.tvm == {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu, "num-cores": 2}
    assert set(target.precisions) == precisions


def test_one_missing_feature_keeps_the_processor_below_its_level():
    short = f"{V3} {AVX512} avx512_vnni".replace(" avx512vl", "")
    assert describe(read_cpu(x86(short), MEMINFO, "x86_64", 2)).tvm["mcpu"] == "x86-64-v3"


@pytest.mark.parametrize(
    ("features", "mcpu", "precisions"),
    [
        ("fp asimd crc32", "generic", {"fp32"}),
        ("fp asimd atomics asimdhp asimddp", "neoverse-n1", {"fp32", "fp16", "int8"}),
        ("asimd atomics asimdhp asimddp sve i8mm bf16", "neoverse-v1", {"fp32", "fp16", "bf16", "int8"}),
        ("asimd atomics asimdhp asimddp sve sve2 i8mm bf16", "neoverse-n2", {"fp32", "fp16", "bf16", "int8"}),
    ],
)
def test_aarch64_features_choose_the_llvm_processor_and_the_precisions(features, mcpu, precisions):
    target = describe(read_cpu(arm(features), MEMINFO, "aarch64", usable=4))
    assert target.tvm == {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "num-cores": 4}
    assert set(target.precisions) == precisions
    assert target.title == "Arm Neoverse V1, 4 cores"


def test_an_unknown_arm_core_is_named_by_its_numbers():
    assert (
        read_cpu(arm("asimd", "0x99", "0x123"), MEMINFO, "aarch64", 1).model == "implementer 0x99 part 0x123"
    )


@pytest.mark.parametrize(
    ("cores", "threads", "sockets", "usable", "expected"),
    [(4, 1, 1, 4, 4), (4, 2, 1, 8, 4), (4, 2, 2, 16, 8), (4, 2, 1, 3, 3), (1, 1, 1, 1, 1)],
)
def test_cores_are_physical_and_within_the_affinity_mask(cores, threads, sockets, usable, expected):
    assert read_cpu(x86(V3, cores, threads, sockets), MEMINFO, "x86_64", usable).cores == expected


def test_memory_model_and_instruction_sets_are_reported():
    cpu = read_cpu(x86(f"{V3} {AVX512} avx512_vnni"), MEMINFO, "x86_64", 2)
    assert cpu == Cpu("x86_64", "Test CPU @ 3.00GHz", 2, cpu.flags, 32768000 * 1024)
    target = describe(cpu)
    assert target.title == "Test CPU @ 3.00GHz, 2 cores"
    assert target.memory_gb is not None
    assert target.memory_gb.value == 33.6
    assert target.notes[0] == "Instruction sets: avx2, avx512f, avx512_vnni."


def test_a_machine_without_proc_is_still_a_target():
    target = describe(read_cpu("", "", "riscv64", usable=0))
    assert target.title == "riscv64 processor, 1 core"
    assert target.memory_gb is None
    assert target.tvm == {"kind": "llvm", "mcpu": "generic", "num-cores": 1}
    assert target.precisions == (Precision.FP32,)


def test_this_machine_is_described_without_an_sdk():
    code = (
        "import sys; from superlower.targets.catalog import target; target('cpu'); "
        "print([m for m in ('tvm', 'openvino', 'onnxruntime', 'torch', 'onnx') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert 1 <= int(cpu_target().tvm["num-cores"]) <= (os.cpu_count() or 1)


def test_the_flags_a_target_requires_are_those_it_was_chosen_by():
    chosen = describe(read_cpu(x86(f"{V3} {AVX512} avx512_vnni hypervisor"), MEMINFO, "x86_64", 2))
    assert required_flags(chosen) == set(f"{AVX512} avx512_vnni".split()) | {
        "avx2",
        "bmi1",
        "bmi2",
        "f16c",
        "fma",
        "abm",
        "movbe",
    }
    assert required_flags(target("v100")) == frozenset()
    assert required_flags(cpu_target()) <= cpu_flags()


def test_code_for_the_detected_processor_runs_on_it():
    """A processor name with a feature too many would end in SIGILL, so in a process of its own."""
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    code = (
        "import numpy as np, tvm; from tvm import te; from superlower.targets.detect import cpu_target\n"
        "a = te.placeholder((64, 64)); b = te.placeholder((64, 64)); k = te.reduce_axis((0, 64))\n"
        "c = te.compute((64, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k))\n"
        "f = tvm.compile(te.create_prim_func([a, b, c]), target=tvm.target.Target(dict(cpu_target().tvm)))\n"
        "x = np.arange(4096, dtype=np.float32).reshape(64, 64) % 7\n"
        "out = tvm.runtime.tensor(np.zeros((64, 64), np.float32))\n"
        "f(tvm.runtime.tensor(x), tvm.runtime.tensor(x), out)\n"
        "assert np.array_equal(out.numpy(), x @ x)\n"  # sums of small integers are exact
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
