"""Cross-compiling for NVIDIA GPUs on machines without one."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.tvm import cuda, engine, nvrtc
from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.cubin import DeviceCode, device_code, scan
from superlower.errors import BadInputError, BuildFailedError, MissingSdkError
from superlower.frontends import onnx_files
from superlower.ir import infer_shapes
from superlower.passes.pipelines import default_pipeline
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.gpu_schedules import legalized, model
from support.tensor_core_schedules import FITTING

ADD = 'extern "C" __global__ void add(float* a, const float* b) { a[threadIdx.x] += b[threadIdx.x]; }'
FATBIN_MAGIC = bytes.fromhex("50ed55ba")


ARCHS = {"v100": 70, "t4": 75, "a100": 80, "rtx3090": 86, "rtx4090": 89, "h100": 90, "rtx5090": 120}
"""A target of each architecture."""


def _compiler(*archs: str, folder: Path) -> cuda.CudaCompiler:
    try:
        return cuda.find_compiler(archs, folder)
    except MissingSdkError as error:
        pytest.skip(str(error))


def test_the_compiler_found_makes_device_code(tmp_path: Path) -> None:
    compiler = _compiler("sm_86", folder=tmp_path)
    binary = compiler.compile(ADD)
    assert binary.startswith(FATBIN_MAGIC if compiler.name.startswith("nvcc") else b"\x7fELF")
    with pytest.raises(BuildFailedError, match="failed"):
        compiler.compile("this is no CUDA")


def _nvrtc(arch: str) -> nvrtc.Nvrtc:
    found = next((library for library in nvrtc.libraries() if arch in library.archs), None)
    return found or pytest.skip(f"no NVRTC with {arch}: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'")


@pytest.mark.parametrize("arch", ["sm_70", "sm_86"])
def test_nvrtc_knows_the_preamble_that_tvm_writes(arch: str) -> None:
    preamble = (
        "#include <cuda/std/cstdint>\n#include <cuda/std/type_traits>\n"
        "using cuda::std::int64_t;\n"
        'static_assert(cuda::std::is_integral<int>::value && !cuda::std::is_integral<float>::value, "");\n'
        'static_assert(cuda::std::is_same_v<cuda::std::conditional<false, int, float>::type, float>, "");\n'
        'static_assert(sizeof(int64_t) == 8 && cuda::std::is_signed<int64_t>::value, "");\n'
    )
    (code,) = scan(_nvrtc(arch).compile(preamble + ADD, arch=arch))
    assert (code.arch, [kernel.name for kernel in code.kernels]) == (arch, ["add"])


def test_half_precision_takes_the_headers_of_the_compilers_own_version() -> None:
    library = _nvrtc("sm_70")
    half = '#include <cuda_fp16.h>\nextern "C" __global__ void h(half* a) { a[0] = __hadd(a[1], a[2]); }'
    try:
        (code,) = scan(library.compile(half, arch="sm_70"))
    except MissingSdkError as error:
        pytest.skip(str(error))
    assert code.arch == "sm_70"
    with pytest.raises(MissingSdkError, match=r"cuda_fp16.h of CUDA 99"):
        replace(library, version=(99, 0)).compile(half, arch="sm_70")


def test_the_compiler_is_chosen_by_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """nvcc 13, NVRTC 13 and NVRTC 12.9 side by side: only the last knows sm_70."""

    class Library:
        def __init__(self, version: str, *archs: str) -> None:
            self.name, self.archs = f"NVRTC {version}", frozenset(archs)

        def compile(self, code: str, *, arch: str) -> bytes:
            return f"{self.name} {arch}".encode()

    libraries = [Library("13.0", "sm_75", "sm_86"), Library("12.9", "sm_70", "sm_75", "sm_86")]
    monkeypatch.setattr(nvrtc, "libraries", lambda: libraries)
    tools: dict[str, str] = {}
    monkeypatch.setattr(shutil, "which", tools.get)
    assert cuda.find_compiler(["sm_70"], tmp_path).compile("") == b"NVRTC 12.9 sm_70"
    assert cuda.find_compiler(["sm_75"], tmp_path).compile("") == b"NVRTC 13.0 sm_75"
    with pytest.raises(MissingSdkError, match="fatbinary"):
        cuda.find_compiler(["sm_70", "sm_86"], tmp_path)
    tools["fatbinary"] = "fatbinary"
    both = cuda.find_compiler(["sm_70", "sm_86"], tmp_path)
    assert both.name == "NVRTC 12.9 and NVRTC 13.0"
    assert both.holds == "cubins of sm_70, sm_86"
    with pytest.raises(MissingSdkError, match=r"sm_50 \(no nvcc; NVRTC 13.0 has no sm_50; NVRTC 12.9 has no"):
        cuda.find_compiler(["sm_50"], tmp_path)


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(nvrtc, "libraries", list)
    with pytest.raises(
        MissingSdkError, match=r"sm_70 \(no nvcc; no NVRTC\): pip install 'superlower\[tvm-cuda\]'"
    ):
        cuda.find_compiler(["sm_70"], tmp_path)


def test_a_warp_step_becomes_device_code_for_a_gpu_that_is_not_here(
    make_warp_step: Callable[..., ir.Model], tmp_path: Path
) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    compiler = _compiler("sm_86", folder=tmp_path)
    backend, gpu = Tvm(), target("rtx3090")
    try:
        artifact = backend.compile(make_warp_step(channels=4, blocks=1), gpu, BuildOptions(), tmp_path)
    except MissingSdkError as error:
        pytest.skip(str(error))
    assert artifact.facts["arch"] == "sm_86"
    assert artifact.facts["compiler"] == compiler.name
    assert artifact.facts["tiled_convolutions"] == 6
    engine_file = tmp_path / artifact.files["engine"]
    code = next(code for code in device_code(engine_file) if code.kind == "cubin")
    assert code.arch == "sm_86"
    assert sum("fused_conv2d" in kernel.name for kernel in code.kernels) == 6
    assert b"__global__" not in engine_file.read_bytes(), "no kernel is left as source"
    if isinstance(engine.nvidia_gpus(), str):
        with pytest.raises(MissingSdkError, match="NVIDIA GPU"):
            backend.load(artifact, tmp_path)


def _device_code(
    graph: ir.Model, gpu: str, folder: Path, *archs: str, precision: Precision = Precision.FP32
) -> list[DeviceCode]:
    options = BuildOptions(precision=precision, settings={"archs": ",".join(archs)})
    try:
        artifact = Tvm().compile(graph, target(gpu), options, folder)
    except MissingSdkError as error:
        pytest.skip(str(error))
    return device_code(folder / artifact.files["engine"])


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["v100", "rtx5090"])
def test_half_precision_convolutions_go_to_tensor_cores_unless_told_otherwise(
    gpu: str, tmp_path: Path
) -> None:
    found, graph = {}, legalized(FITTING["trunk"], gpu, Precision.FP16)
    for choice in ("on", "off"):
        options = BuildOptions(precision=Precision.FP16, settings={"tensor-cores": choice, "tuning": "off"})
        folder = tmp_path / choice
        try:
            artifact = Tvm().compile(graph, target(gpu), options, folder)
        except MissingSdkError as error:
            pytest.skip(str(error))
        found[choice] = artifact.facts
        code = next(code for code in device_code(folder / artifact.files["engine"]) if code.kind == "cubin")
        # A block's window of pixels, weights and sums; what an architecture keeps for itself comes on top.
        least = 24_000 if choice == "on" else 0
        assert least <= max(kernel.shared_bytes for kernel in code.kernels) <= 48 * 1024
    assert (found["on"]["on_tensor_cores"], found["on"]["tensor_core_share"]) == (1, 1.0)
    assert (found["on"]["tiled_convolutions"], found["off"]["tiled_convolutions"]) == (0, 1)
    assert "on_tensor_cores" not in found["off"]


@pytest.mark.slow
@pytest.mark.parametrize(("gpu", "graph"), [("v100", "flow"), *((gpu, "forward") for gpu in ARCHS)])
def test_a_basicvsr_step_builds_for_every_architecture(
    gpu: str, graph: str, basicvsr_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    step = onnx_files.load(basicvsr_folder).graphs[graph]
    for each in (*default_pipeline(), *Tvm().legalize(target(gpu), Precision.FP32)):
        each.run(step)
    codes = _device_code(infer_shapes(step), gpu, tmp_path)
    (cubin,) = (code for code in codes if code.kind == "cubin")
    assert cubin.arch == f"sm_{ARCHS[gpu]}"
    # Distinct convolutions: of SPyNet's six levels, and of a sweep, whose block's second has the residual.
    tiled = [kernel for kernel in cubin.kernels if "conv2d" in kernel.name]
    assert len(tiled) == {"flow": 30, "forward": 8}[graph]
    assert all(kernel.shared_bytes > 0 for kernel in tiled)
    for kernel in cubin.kernels:
        # What a block may have everywhere, and a thread.
        assert kernel.shared_bytes <= 48 * 1024
        assert kernel.registers <= 255


def test_one_engine_for_several_architectures(
    make_warp_step: Callable[..., ir.Model], tmp_path: Path
) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    graph = make_warp_step(channels=4, blocks=1)
    codes = _device_code(graph, "v100", tmp_path, "sm_86", "sm_75")
    assert [(code.arch, code.kind) for code in codes] == [
        ("sm_70", "cubin"),
        ("sm_75", "cubin"),
        ("sm_86", "cubin"),
    ]
    assert len({tuple(sorted(kernel.name for kernel in code.kernels)) for code in codes}) == 1


@pytest.mark.parametrize(
    ("gpu", "archs", "message"),
    [
        ("cpu", "sm_70", "archs is for NVIDIA GPUs, and cpu is none"),
        ("v100", "70", "takes sm_70,sm_86 and the like, not '70'"),
        ("v100", "sm_70,compute_86", "not 'compute_86'"),
    ],
)
def test_architectures_are_checked(
    gpu: str, archs: str, message: str, warp_step_model: ir.Model, tmp_path: Path
) -> None:
    pytest.importorskip("tvm", reason="apache-tvm isn't installed")
    with pytest.raises(BadInputError, match=message):
        Tvm().compile(warp_step_model, target(gpu), BuildOptions(settings={"archs": archs}), tmp_path)


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


@pytest.mark.slow
def test_grouped_convolutions_build(tmp_path: Path) -> None:
    """TVM's rules for reductions give their sums to many threads, and its own lowering fails on that."""
    _compiler("sm_90", folder=tmp_path)
    grouped = model(("Conv", ((1, 3, 32, 32), (6, 1, 3, 3)), {"group": 3, "pads": [1] * 4}))
    artifact = Tvm().compile(grouped, target("h100"), BuildOptions(), tmp_path)
    assert artifact.facts["arch"] == "sm_90"
    assert device_code(tmp_path / artifact.files["engine"])
