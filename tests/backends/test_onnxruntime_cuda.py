"""ONNX Runtime for NVIDIA GPUs: built without one, covered by the registry, and never on the CPU instead."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from superlower.backends import onnxruntime_cuda as cuda
from superlower.backends import tables
from superlower.backends.base import Artifact, BuildOptions, Support
from superlower.backends.onnxruntime import OnnxRuntime
from superlower.backends.tensorrt.cuda import Device
from superlower.errors import BadInputError, MissingSdkError
from superlower.ir import IR_VERSION, infer_shapes
from superlower.probes.tables import Table, Verdict, stored
from superlower.targets.base import Precision
from superlower.targets.catalog import target

BACKEND = OnnxRuntime()
F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


class Session:
    """An ONNX Runtime session on the CPU that calls itself what it is told to."""

    given: Any = None
    running: tuple[str, ...] = (cuda.PROVIDER, "CPUExecutionProvider")
    fallback = True

    def __init__(self, source: str, options: Any, providers: list[Any]) -> None:
        type(self).given = providers
        self._real = REAL(source, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return list(self.running)

    def disable_fallback(self) -> None:
        type(self).fallback = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


REAL = onnxruntime.InferenceSession


class Driver:
    """A driver with a V100 behind another GPU."""

    def device_of(self, sm: int) -> Device:
        if sm != 70:
            raise MissingSdkError(f"the engine needs a GPU of SM{sm}; GPUs here: Fake (SM70)")
        return Device(1, "Fake", 70)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """A machine whose ONNX Runtime, 1.26, has a CUDA provider."""
    monkeypatch.setattr(Session, "given", None)
    monkeypatch.setattr(Session, "fallback", True)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda.PROVIDER])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load"), raising=False)
    monkeypatch.setattr(OnnxRuntime, "versions", lambda _: {"onnxruntime": "1.26.0"})
    monkeypatch.setattr(cuda, "Driver", Driver)
    return Session


def _compile(model: ir.Model, workdir: Path, name: str = "v100", **settings: str) -> Artifact:
    return BACKEND.compile(model, target(name), BuildOptions(timeout_s=120, settings=settings), workdir)


def test_an_engine_for_a_gpu_is_built_without_one(warp_step_model: ir.Model, tmp_path: Path) -> None:
    artifact = _compile(warp_step_model, tmp_path)
    assert (tmp_path / artifact.files["engine"]).is_file()
    assert artifact.facts == {"provider": cuda.PROVIDER, "sm": 70}


def test_it_is_loaded_onto_the_gpu_of_its_architecture(
    warp_step_model: ir.Model,
    warp_step_feeds: dict[str, np.ndarray[Any, Any]],
    gpu: type[Session],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    artifact = _compile(warp_step_model, tmp_path, cudnn_conv_algo_search="HEURISTIC", enable_mem_pattern="0")
    session = BACKEND.load(artifact, tmp_path)
    assert capfd.readouterr().out == "", "stdout is for data"
    assert gpu.given == [
        (cuda.PROVIDER, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}),
        "CPUExecutionProvider",
    ]
    assert not gpu.fallback, "a run that fails on the GPU must not be repeated on the CPU"
    assert set(session.run(warp_step_feeds)) == {"hidden_out", "output"}
    session.close()


def test_tf32_is_asked_for(warp_step_model: ir.Model, gpu: type[Session], tmp_path: Path) -> None:
    BACKEND.load(_compile(warp_step_model, tmp_path, use_tf32="1"), tmp_path).close()
    assert gpu.given[0][1]["use_tf32"] == "1"


def test_a_provider_that_does_not_start_is_no_session(
    warp_step_model: ir.Model, gpu: type[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = _compile(warp_step_model, tmp_path)
    monkeypatch.setattr(gpu, "running", ("CPUExecutionProvider",))
    with pytest.raises(MissingSdkError, match="did not start its CUDA provider, only CPUExecutionProvider"):
        BACKEND.load(artifact, tmp_path)


def test_settings_of_the_cuda_provider_are_for_gpus(warp_step_model: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="unknown onnxruntime setting 'use_tf32'"):
        BACKEND.compile(warp_step_model, target("cpu"), BuildOptions(settings={"use_tf32": "0"}), tmp_path)
    with pytest.raises(BadInputError, match="unknown onnxruntime setting 'use_tf23': did you mean use_tf32"):
        _compile(warp_step_model, tmp_path, use_tf23="0")


def test_what_a_machine_lacks_is_told(gpu: type[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    assert BACKEND.runnable(target("v100")) is None
    assert "GPU of SM75" in str(BACKEND.runnable(target("t4")))
    monkeypatch.setattr(OnnxRuntime, "versions", lambda _: {"onnxruntime": "1.31.1"})
    told = str(BACKEND.runnable(target("v100")))
    assert "1.31.1 is here, and NVIDIA V100 SXM2 needs >=1.24,<1.27" in told
    # cuDNN 9.11 holds no code for Volta.
    assert "'nvidia-cudnn-cu12<9.11' 'onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27'" in told
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "has no CUDA provider: pip uninstall onnxruntime" in str(BACKEND.runnable(target("rtx4090")))


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        (Precision.FP32, None),
        (Precision.FP16, None),
        (Precision.BF16, "bf16 kernels"),
        (Precision.INT8, "no int8 convolutions"),
        (Precision.FP8, "no fp8 convolutions"),
    ],
)
def test_precisions(precision: Precision, reason: str | None) -> None:
    found = BACKEND.serves(target("h100"), precision)
    assert found is None if reason is None else reason in str(found)


def _one(op: str, inputs: dict[str, Any], outputs: dict[str, Any], **attributes: Any) -> ir.Model:
    node = helper.make_node(op, list(inputs), list(outputs), name="it", **attributes)

    def infos(tensors: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(n, t, shape) for n, (t, shape) in tensors.items()]

    graph = helper.make_graph([node], "one", infos(inputs), infos(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=IR_VERSION)
    return ir.from_proto(model)


def _grid_sample(kind: int) -> ir.Model:
    inputs = {"x": (kind, [1, 4, 8, 8]), "grid": (kind, [1, 8, 8, 2])}
    return _one("GridSample", inputs, {"y": (kind, [1, 4, 8, 8])}, mode="bilinear")


def test_a_node_without_a_cuda_kernel_falls_back() -> None:
    inputs = {"x": (F32, [1, 4, 16]), "s": (TensorProto.INT64, [2]), "b": (TensorProto.INT64, [2])}
    model = _one("Col2Im", inputs, {"y": (F32, [1, 4, 4, 4])})
    for name in ("v100", "rtx4090"):
        (found,) = BACKEND.coverage(model, target(name), Precision.FP32)
        assert found.support is Support.FALLBACK
        assert found.detail == "no CUDA kernel for fp32 at version 18: computed on the CPU, between copies"
        assert "the CUDA provider's kernel registry, onnxruntime-gpu 1." in found.source


def test_a_warp_in_an_fp16_graph_stays_on_the_gpu(warp_step_model: ir.Model) -> None:
    # There is no fp16 kernel of GridSample: legalized graphs sample in fp32.
    table = cuda.kernels(target("rtx4090"))
    assert list(cuda.without_kernel(infer_shapes(_grid_sample(F16)), table)) == ["it"]
    assert cuda.without_kernel(infer_shapes(_grid_sample(F32)), table) == {}
    found = BACKEND.coverage(warp_step_model, target("rtx4090"), Precision.FP16)
    assert {node.support for node in found} <= {Support.NATIVE, Support.REWRITTEN}


def test_tables_answer_for_a_gpu_on_demand(
    warp_step_model: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tables.FORCED, "1")
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    found = BACKEND.coverage(warp_step_model, target("v100"), Precision.FP32)
    assert {node.support for node in found} == {Support.NATIVE}


def test_a_foreign_operator_is_not_native_on_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tables.FORCED, "1")
    model = _one("Relu", {"x": (F32, [1, 3, 8, 8])}, {"y": (F32, [1, 3, 8, 8])})
    model.graph[0].domain = "acme"
    model.opset_imports["acme"] = 1
    (found,) = BACKEND.coverage(model, target("t4"), Precision.FP32)
    assert found.support is Support.UNSUPPORTED
    assert found.detail == "acme::Relu isn't among the kernels listed"
    assert found.source.startswith("table: the CUDA provider's kernel registry")


def test_pre_turing_gpus_are_answered_by_the_last_release_for_them() -> None:
    assert cuda.kernels(target("v100")).sdk == {"onnxruntime-gpu": "1.26.0"}
    assert cuda.kernels(target("t4")).sdk == {"onnxruntime-gpu": "1.31.1"}


@pytest.fixture(scope="module")
def cpu_kernels() -> list[dict[str, Any]]:
    """The CPU provider's registry, in the form that the tool reads the CUDA provider's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return [
        {
            "op": kernel.op_name,
            "first": kernel.version_range[0],
            "last": kernel.version_range[1],
            "types": kernel.type_constraints,
        }
        for kernel in state.get_all_opkernel_def()
        if kernel.domain == "" and kernel.provider == "CPUExecutionProvider"
    ]


@pytest.mark.parametrize(
    ("op", "opset", "refused"),
    [
        ("Abs", 22, set()),
        ("Erf", 24, set()),
        ("NonZero", 19, {"int8"}),
        ("NonZero", 24, {"int8"}),
        ("Relu", 16, {"int64"}),
        ("Relu", 22, {"int64"}),
        ("Sign", 19, set()),
    ],
)
def test_a_registry_is_read_as_onnx_runtime_reads_it(
    cpu_kernels: list[dict[str, Any]], op: str, opset: int, refused: set[str]
) -> None:
    """The tool's reading of the CPU's registry, against sessions that are made or refused."""
    tool, schema = _tool(), onnx.defs.get_schema(op, opset)
    allowed = next(c for c in schema.type_constraints if c.type_param_str == "T").allowed_type_strs
    said, made = {}, {}
    # No halves: for them a session is made without a kernel of the type, by casts.
    kinds = {"fp32": F32, "int8": TensorProto.INT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64}
    for dtype, kind in kinds.items():
        if tool.TYPES[dtype] in allowed:
            said[dtype] = any(tool.serves(k, schema, dtype) for k in cpu_kernels if k["op"] == op)
            made[dtype] = _session_is_made(op, opset, kind)
    assert said == made
    assert {dtype for dtype, taken in made.items() if not taken} == refused


def _session_is_made(op: str, opset: int, kind: int) -> bool:
    infos = [helper.make_tensor_value_info("x", kind, [2]), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "one", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return False
    return True


def _tool() -> Any:
    folder = Path(__file__).parents[1] / "tools"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module("onnxruntime_kernels")


@pytest.mark.parametrize("name", ["cuda", "cuda12"])
def test_the_shipped_tables_hold_what_the_releases_were_found_to_have(name: str) -> None:
    table: Table | None = stored("onnxruntime", name)
    assert table is not None
    verdicts = {result.key: result.verdict for result in table.results}
    assert len(verdicts) == len(table.results), "a key has one answer"
    for key in ("Conv-11 fp32", "Conv-11 fp16", "GridSample-16 fp32", "DeformConv-19 fp16", "Resize-19 fp16"):
        assert verdicts[key] is Verdict.BUILT
    for key in ("GridSample-16 fp16", "Col2Im-18 fp32", "QLinearConv-10 uint8", "DepthToSpace-13 bf16"):
        assert verdicts[key] is Verdict.REFUSED
