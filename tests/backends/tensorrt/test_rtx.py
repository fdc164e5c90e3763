"""TensorRT-RTX as a backend: plans without a GPU, refusals by node, and loading up to the driver."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest
from onnx import TensorProto

from superlower.backends import tables
from superlower.backends.base import Backend, BuildOptions, NodeSupport, Support
from superlower.backends.process import build_in_subprocess
from superlower.backends.tensorrt import cuda, rtx
from superlower.backends.tensorrt.layers import EngineLayers
from superlower.backends.tensorrt.rtx import TensorRtRtx
from superlower.errors import (
    BadInputError,
    BuildFailedError,
    MissingSdkError,
    UnsupportedOperatorError,
)
from superlower.targets.base import Precision, Target

OneNode = Callable[..., ir.Model]
Targets = dict[int, Target]
F32 = TensorProto.FLOAT
IMAGE = [1, 4, 8, 8]

needs_sdk = pytest.mark.skipif(
    TensorRtRtx().missing() is not None,
    reason="TensorRT-RTX isn't installed: pip install superlower[tensorrt-rtx]",
)


@pytest.fixture(autouse=True)
def _logs_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "engine"


def _deform_conv(one_node: OneNode) -> ir.Model:
    inputs = {"x": (F32, IMAGE), "w": (F32, [4, 4, 3, 3]), "o": (F32, [1, 18, 8, 8])}
    return one_node("DeformConv", inputs, {"y": (F32, IMAGE)}, pads=[1, 1, 1, 1])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_a_backend_and_listing_it_imports_no_sdk() -> None:
    assert isinstance(TensorRtRtx(), Backend)
    code = (
        "import sys; from superlower.backends.tensorrt.rtx import TensorRtRtx as B; b = B(); b.missing();"
        "b.versions();"
        "sys.exit('tensorrt_rtx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_sdk
@pytest.mark.parametrize("sm", [75, 120])
def test_a_build_leaves_a_plan_its_layers_and_the_log(
    make_warp_step: Callable[..., ir.Model], targets: Targets, workdir: Path, sm: int
) -> None:
    model = make_warp_step(64, 64)
    artifact = TensorRtRtx().compile(model, targets[sm], BuildOptions(), workdir)
    assert sorted(path.name for path in workdir.iterdir()) == sorted(artifact.files.values())
    layers = msgspec.json.decode((workdir / artifact.files["layers"]).read_bytes(), type=EngineLayers)
    assert layers.unread == ()
    fused = {node for layer in layers.layers for node in layer.nodes}
    # What the log drops are no-ops: the hidden state's Identity.
    assert {node.name for node in model.graph} - fused <= {"hidden_state"}
    last = next(layer for layer in layers.layers if "base.add" in layer.nodes)
    assert "last" in last.nodes, "the base is added in the last convolution's kernel"
    outputs = {tensor.name: tensor.shape for layer in layers.layers for tensor in layer.outputs}
    assert outputs["output"] == (1, 3, 256, 256)
    assert outputs["hidden_out"] == (1, 8, 64, 64)
    assert artifact.facts["sm"] == sm
    assert artifact.facts["plan_bytes"] == (workdir / artifact.files["engine"]).stat().st_size
    assert artifact.facts["layers"] == len(layers.layers) == artifact.facts["float_layers"]
    # At the least, the largest tensor between two kernels: 8 channels of 256x256 floats.
    assert artifact.facts["activation_bytes"] >= 8 * 256 * 256 * 4
    weights = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.name.endswith("weight")
    )
    assert artifact.facts["weights_bytes"] >= weights
    assert msgspec.json.decode(msgspec.json.encode(artifact), type=type(artifact)) == artifact


@needs_sdk
def test_builds_repeat_and_tf32_is_asked_for(
    make_warp_step: Callable[..., ir.Model], targets: Targets, tmp_path: Path
) -> None:
    digests = []
    for index, settings in enumerate(({}, {}, {"tf32": "on"})):
        folder = tmp_path / str(index)
        options = BuildOptions(settings=settings)
        TensorRtRtx().compile(make_warp_step(32, 32, channels=64, blocks=1), targets[86], options, folder)
        digests.append(_digest(folder / "engine.plan"))
    assert digests[0] == digests[1] != digests[2]


@needs_sdk
def test_compiling_leaves_the_callers_model_alone(
    warp_step_model: ir.Model, targets: Targets, workdir: Path
) -> None:
    for node in warp_step_model.graph:
        node.name = None
    TensorRtRtx().compile(warp_step_model, targets[86], BuildOptions(), workdir)
    assert all(node.name is None for node in warp_step_model.graph)


@needs_sdk
def test_refused_nodes_are_all_named(one_node: OneNode, targets: Targets, workdir: Path) -> None:
    model = _deform_conv(one_node)
    first = next(iter(model.graph))
    again = ir.Node("", "DeformConv", first.inputs, attributes=first.attributes.values(), name="second")
    again.outputs[0].name = "z"
    model.graph.append(again)
    model.graph.outputs.append(again.outputs[0])
    again.outputs[0].dtype, again.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(IMAGE)
    with pytest.raises(
        UnsupportedOperatorError, match=r"takes no plug-ins \(DeformConv at it, second\): rewrite it"
    ):
        TensorRtRtx().compile(model, targets[86], BuildOptions(), workdir)
    assert not (workdir / "engine.plan").exists()


@needs_sdk
def test_bytes_that_are_no_model_are_refused_though_the_parser_takes_them(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello")
    request = {"sdk": "tensorrt_rtx", "title": "it", "capability": "SM86"}
    with pytest.raises(BadInputError, match="is not a valid ONNX model"):
        build_in_subprocess(
            "superlower.backends.tensorrt.builder:build", request, tmp_path, backend="it", timeout_s=60
        )


@needs_sdk
def test_an_architecture_the_sdk_does_not_know_is_refused(tmp_path: Path, warp_step_model: ir.Model) -> None:
    from superlower.ir import save

    save(warp_step_model, tmp_path / "model.onnx")
    for capability in ("SM70", "NONE"):
        request = {"sdk": "tensorrt_rtx", "title": "it", "capability": capability}
        with pytest.raises(BuildFailedError, match=f"does not build for {capability}: choose another target"):
            build_in_subprocess(
                "superlower.backends.tensorrt.builder:build", request, tmp_path, backend="it", timeout_s=60
            )


@needs_sdk
def test_the_memory_limit_is_kept_and_named(
    warp_step_model: ir.Model, targets: Targets, workdir: Path
) -> None:
    with pytest.raises(BuildFailedError, match=r"limited to 1024 bytes: raise it\); log: ") as failed:
        TensorRtRtx().compile(warp_step_model, targets[86], BuildOptions(memory_bytes=1024), workdir)
    log = Path(str(failed.value).rpartition("log: ")[2])
    assert "no tactics to implement the operation within workspace limit" in log.read_text()


@needs_sdk
def test_the_time_limit_is_kept(warp_step_model: ir.Model, targets: Targets, workdir: Path) -> None:
    with pytest.raises(BuildFailedError, match=r"time limit of 0.05 s"):
        TensorRtRtx().compile(warp_step_model, targets[86], BuildOptions(timeout_s=0.05), workdir)
    assert not (workdir / "engine.plan").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(settings={"tf23": "on"}), r"unknown tensorrt-rtx setting 'tf23': did you mean tf32\?"),
        (BuildOptions(settings={"tf32": "yes"}), r"setting tf32=yes: write one of off, on"),
        (BuildOptions(stateful=(("hidden_in", "hidden"),)), "must name an output and an input"),
        (BuildOptions(precision=Precision.INT8), "silently run as FP32"),
    ],
)
@needs_sdk
def test_options_it_does_not_take(
    warp_step_model: ir.Model, targets: Targets, workdir: Path, options: BuildOptions, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        TensorRtRtx().compile(warp_step_model, targets[75], options, workdir)


@needs_sdk
def test_int8_as_float_is_built_when_allowed(
    warp_step_model: ir.Model, targets: Targets, workdir: Path
) -> None:
    options = BuildOptions(precision=Precision.INT8, settings={"int8_as_float": "allow"})
    artifact = TensorRtRtx().compile(warp_step_model, targets[75], options, workdir)
    assert (workdir / artifact.files["engine"]).is_file()


@needs_sdk
def test_symbolic_sizes_are_refused(one_node: OneNode, targets: Targets, workdir: Path) -> None:
    model = one_node("Relu", {"x": (F32, [1, "n"])}, {"y": (F32, [1, "n"])})
    with pytest.raises(BadInputError, match="input 'x' has a symbolic size"):
        TensorRtRtx().compile(model, targets[86], BuildOptions(), workdir)


@needs_sdk
def test_coverage_of_a_model_it_takes(warp_step_model: ir.Model, targets: Targets) -> None:
    found = TensorRtRtx().coverage(warp_step_model, targets[75], Precision.FP32)
    assert [n.node for n in found] == [node.name for node in warp_step_model.graph]
    assert {n.support for n in found} == {Support.NATIVE}


@needs_sdk
def test_coverage_names_what_the_parser_refuses(one_node: OneNode, targets: Targets) -> None:
    model = one_node("Det", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE[:2])})
    found = TensorRtRtx().coverage(model, targets[86], Precision.FP32)
    reason = "refused by the parser's checkDet"
    assert found == [NodeSupport("it", "Det", Support.UNSUPPORTED, reason)]
    found = TensorRtRtx().coverage(_deform_conv(one_node), targets[86], Precision.FP32)
    assert found == [NodeSupport("it", "DeformConv", Support.REWRITTEN, "select-lowering")]


@needs_sdk
def test_coverage_asks_the_compiler_too(one_node: OneNode, targets: Targets) -> None:
    inputs = {"x": (F32, [4, 8]), "w": (F32, [8, 16])}
    model = one_node("MatMul", inputs, {"y": (F32, [4, 16])})
    (turing,) = TensorRtRtx().coverage(model, targets[75], Precision.FP32)
    assert (turing.support, turing.detail) == (
        Support.UNSUPPORTED,
        "FP32 matrix products are not built for Turing",
    )
    (ada,) = TensorRtRtx().coverage(model, targets[89], Precision.FP32)
    assert ada.support is Support.NATIVE


@needs_sdk
def test_coverage_names_the_pass_that_cures(one_node: OneNode, targets: Targets) -> None:
    product = one_node("MatMul", {"x": (F32, [4, 8]), "w": (F32, [8, 16])}, {"y": (F32, [4, 16])})
    (found,) = TensorRtRtx().coverage(product, targets[75], Precision.FP16)
    assert found == NodeSupport("it", "MatMul", Support.REWRITTEN, "convert-precision")
    half = {"x": (TensorProto.FLOAT16, IMAGE), "grid": (F32, [1, 8, 8, 2])}
    sample = one_node("GridSample", half, {"y": (TensorProto.FLOAT16, IMAGE)})
    (found,) = TensorRtRtx().coverage(sample, targets[86], Precision.FP16)
    assert found == NodeSupport("it", "GridSample", Support.REWRITTEN, "guard-grid-sample")


@needs_sdk
def test_coverage_of_a_type_nothing_is_built_for(one_node: OneNode, targets: Targets) -> None:
    inputs = {"x": (F32, IMAGE), "w": (F32, [4, 4, 3, 3])}
    model = one_node("ConvTranspose", inputs, {"y": (F32, [1, 4, 10, 10])})
    (found,) = TensorRtRtx().coverage(model, targets[89], Precision.BF16)
    assert found.support is Support.UNSUPPORTED
    assert "BF16 transposed convolutions are not built" in found.detail


def test_coverage_of_a_target_it_does_not_serve(warp_step_model: ir.Model, targets: Targets) -> None:
    found = TensorRtRtx().coverage(warp_step_model, targets[70], Precision.FP32)
    assert {(n.support, n.detail) for n in found} == {
        (Support.UNSUPPORTED, TensorRtRtx().serves(targets[70], Precision.FP32))
    }


def test_without_the_sdk_a_table_answers_and_says_so(
    one_node: OneNode, targets: Targets, monkeypatch: pytest.MonkeyPatch, workdir: Path
) -> None:
    monkeypatch.setattr(rtx, "SDK", "no_such_sdk")
    backend = TensorRtRtx()
    assert "pip install 'superlower[tensorrt-rtx]'" in (backend.missing() or "")
    assert backend.versions() == {}
    assert backend.runnable(targets[86]) == backend.missing()
    (deform,) = backend.coverage(_deform_conv(one_node), targets[86], Precision.FP32)
    table = tables.table_for("tensorrt-rtx", targets[86])
    assert table is not None
    told = f"table: {table.title}, sm_86"
    assert deform.support is Support.REWRITTEN
    assert deform.source == told
    relu = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    assert backend.coverage(relu, targets[86], Precision.FP32) == [
        NodeSupport("it", "Relu", Support.NATIVE, source=told)
    ]
    product = one_node("MatMul", {"x": (F32, [4, 8]), "w": (F32, [8, 2])}, {"y": (F32, [4, 2])})
    (at_fp32,) = backend.coverage(product, targets[75], Precision.FP32)
    (at_fp16,) = backend.coverage(product, targets[75], Precision.FP16)
    assert at_fp32.support is Support.UNSUPPORTED
    assert (at_fp16.support, at_fp16.detail) == (Support.REWRITTEN, "convert-precision")
    custom = one_node("Warp", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)}, domain="my.ops")
    assert backend.coverage(custom, targets[86], Precision.FP32)[0].support is Support.UNSUPPORTED
    with pytest.raises(MissingSdkError, match="no_such_sdk isn't installed"):
        backend.compile(relu, targets[86], BuildOptions(), workdir)


def test_where_it_runs_is_told_exactly(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, fake_cuda_library: Path, fake_cuda: object
) -> None:
    monkeypatch.setattr(rtx, "SDK", "json")
    backend = TensorRtRtx()
    assert "NVIDIA doesn't support running it there" in (backend.runnable(targets[80]) or "")
    monkeypatch.setattr(rtx, "Driver", lambda: cuda.Driver("libnothing.so.1"))
    assert (backend.runnable(targets[86]) or "").startswith("no NVIDIA driver (libnothing.so.1)")
    monkeypatch.setattr(rtx, "Driver", lambda: cuda.Driver(str(fake_cuda_library)))
    assert backend.runnable(targets[86]) is None
    assert backend.runnable(targets[89]) == "the engine needs a GPU of SM89; GPUs here: Fake GPU 0 (SM86)"


@needs_sdk
def test_loading_goes_as_far_as_the_driver(
    warp_step_model: ir.Model, targets: Targets, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TensorRtRtx()
    artifact = backend.compile(warp_step_model, targets[86], BuildOptions(), workdir)
    monkeypatch.setattr(rtx, "Driver", lambda: cuda.Driver("libnothing.so.1"))
    with pytest.raises(MissingSdkError, match="no NVIDIA driver"):
        backend.load(artifact, workdir)
    other = msgspec.structs.replace(artifact, backend="openvino")
    with pytest.raises(BadInputError, match="built by openvino"):
        backend.load(other, workdir)
    with pytest.raises(BadInputError, match="no such engine"):
        backend.load(artifact, workdir / "elsewhere")


@needs_sdk
def test_a_plan_the_sdk_cannot_read_is_a_clear_error(
    warp_step_model: ir.Model,
    targets: Targets,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_cuda_library: Path,
    fake_cuda: object,
) -> None:
    backend = TensorRtRtx()
    artifact = backend.compile(warp_step_model, targets[86], BuildOptions(), workdir)
    (workdir / "engine.plan").write_bytes(b"not a plan")
    monkeypatch.setattr(rtx, "Driver", lambda: cuda.Driver(str(fake_cuda_library)))
    with pytest.raises(
        BadInputError, match=r"is no engine that TensorRT for RTX \S+ can read: .*compile it again"
    ):
        backend.load(artifact, workdir)
    assert fake_cuda.fake_alive() == 0  # type: ignore[attr-defined]


@needs_sdk
def test_layers_json_is_plain_json(warp_step_model: ir.Model, targets: Targets, workdir: Path) -> None:
    TensorRtRtx().compile(warp_step_model, targets[86], BuildOptions(), workdir)
    written = json.loads((workdir / "layers.json").read_text())
    assert written["samplers"] == [
        {"node": "warp.sample", "mode": "LINEAR", "padding": "FILL", "input": "float32", "grid": "float32"}
    ]
