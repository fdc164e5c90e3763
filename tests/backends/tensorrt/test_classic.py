"""Classic TensorRT: from a graph to outputs, over modules that export what real bindings of a version do."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from superlower.backends.base import Artifact, Backend, BuildOptions, Support
from superlower.backends.tensorrt import classic
from superlower.backends.tensorrt.classic import TensorRt
from superlower.backends.tensorrt.layers import EngineLayers
from superlower.errors import BadInputError, BuildFailedError, MissingSdkError, UnsupportedOperatorError
from superlower.ir import save
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

OneNode = Callable[..., ir.Model]
Install = Callable[..., None]
Feeds = dict[str, np.ndarray[Any, Any]]
F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16
IMAGE = [1, 4, 8, 8]

VERSIONS = ("8.6.1", "10.4.0", "10.16.1", "11.4.0")
SM = {"8.6.1": 70, "10.4.0": 70, "10.16.1": 86, "11.4.0": 120}
"""An architecture that each version serves."""
TARGETS = {70: "v100", 80: "a100", 86: "rtx3090", 89: "rtx4090", 120: "rtx5090"}


@pytest.fixture(params=VERSIONS)
def sdk(request: pytest.FixtureRequest, classic_sdk: Install) -> tuple[str, Target]:
    """A version, installed, and a target that it serves, whose GPU is here."""
    version: str = request.param
    classic_sdk(version, SM[version])
    return version, target(TARGETS[SM[version]])


def _compile(model: ir.Model, of: Target, workdir: Path, **options: Any) -> Artifact:
    return TensorRt().compile(model, of, BuildOptions(timeout_s=120, **options), workdir)


def _plan(workdir: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((workdir / "engine.plan").read_bytes())
    return plan


def _fp16(model: ir.Model, of: Target) -> ir.Model:
    for each in TensorRt().legalize(of, Precision.FP16):
        each.run(model)
    return model


def test_it_is_a_backend() -> None:
    assert isinstance(TensorRt(), Backend)


def test_without_the_sdk_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "absent", lambda module, *rest: f"{module} isn't installed: {rest}")
    with pytest.raises(MissingSdkError, match=r"tensorrt isn't installed.*https://pypi.nvidia.com"):
        TensorRt().compile(
            ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), target("v100"), BuildOptions(), Path()
        )
    assert TensorRt().versions() == {}


def test_an_engine_is_built_loaded_and_run(
    sdk: tuple[str, Target],
    warp_step_model: ir.Model,
    warp_step_feeds: Feeds,
    fake_cuda: ctypes.CDLL,
    tmp_path: Path,
) -> None:
    version, of = sdk
    artifact = _compile(warp_step_model, of, tmp_path / "engine")
    folder = tmp_path / "engine"
    assert sorted(p.name for p in folder.iterdir()) == sorted(artifact.files.values())
    assert artifact.sdk == {"tensorrt": version}
    assert (artifact.facts["gpu"], artifact.facts["sm"]) == ("Fake GPU 0", of.compute_capability)
    assert artifact.facts["driver"] == "12.9"
    session = TensorRt().load(artifact, folder)
    found = session.run(warp_step_feeds)
    session.close()
    assert fake_cuda.fake_alive() == 0
    wanted = _reference(warp_step_model, warp_step_feeds, tmp_path)
    for name, value in wanted.items():
        # The made engine is ONNX Runtime: what is compared is that every array arrived where it belongs.
        np.testing.assert_array_equal(found[name], value)


def _reference(model: ir.Model, feeds: Feeds, folder: Path) -> Feeds:
    import onnxruntime

    save(model, folder / "reference.onnx")
    session = onnxruntime.InferenceSession(folder / "reference.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0"])
def test_a_build_has_a_process_of_its_own(
    classic_sdk: Install, warp_step_model: ir.Model, tmp_path: Path, version: str
) -> None:
    classic_sdk(version, SM[version], apart=True)
    of = target(TARGETS[SM[version]])
    _compile(warp_step_model, of, tmp_path)
    assert _plan(tmp_path)["version"].startswith(version)
    assert "timed" in (tmp_path / "build.log").read_text()
    assert "tensorrt" not in sys.modules
    assert [n.support for n in TensorRt().coverage(warp_step_model, of, Precision.FP32)].count(Support.NATIVE)
    assert "tensorrt" not in sys.modules


def test_what_the_builder_is_told(sdk: tuple[str, Target], warp_step_model: ir.Model, tmp_path: Path) -> None:
    version, of = sdk
    settings = {"optimization_level": "2", "version_compatible": "on", "lanes": "3"}
    artifact = _compile(warp_step_model, of, tmp_path, settings=settings, memory_bytes=1 << 20)
    plan = _plan(tmp_path)
    assert plan["limits"] == {"WORKSPACE": 1 << 20}
    assert (plan["level"], plan["verbosity"], plan["hardware"]) == (2, "DETAILED", "NONE")
    assert ("VERSION_COMPATIBLE" in plan["flags"], "TF32" in plan["flags"]) == (True, False)
    # Up to 8 instance normalisation is a plug-in unless told otherwise, and such an engine isn't portable.
    assert plan["native_norms"] == (version == "8.6.1")
    assert artifact.settings == {"lanes": "3"}
    assert artifact.facts["version_compatible"] == "on"


def test_tf32_is_asked_for(sdk: tuple[str, Target], warp_step_model: ir.Model, tmp_path: Path) -> None:
    artifact = _compile(warp_step_model, sdk[1], tmp_path, settings={"tf32": "on"})
    assert ("TF32" in _plan(tmp_path)["flags"], artifact.facts["tf32"]) == (True, "on")


def test_the_graph_decides_the_types(
    sdk: tuple[str, Target], warp_step_model: ir.Model, tmp_path: Path
) -> None:
    version, of = sdk
    model = _fp16(warp_step_model, of)
    _compile(model, of, tmp_path, precision=Precision.FP16)
    plan = _plan(tmp_path)
    if version != "8.6.1":
        assert plan["typed"]
        assert not {"FP16", "OBEY_PRECISION_CONSTRAINTS"} & set(plan["flags"])
        assert plan["pins"] == {}
        return
    assert not plan["typed"]
    assert {"FP16", "OBEY_PRECISION_CONSTRAINTS"} <= set(plan["flags"])
    types = {node.name: node.outputs[0].dtype for node in model.graph}
    convolutions = {node.name for node in model.graph if node.op_type == "Conv"}
    assert all(plan["pins"][name] == "HALF" for name in convolutions)
    # The warp's coordinates stay in fp32, and the sampling itself.
    assert plan["pins"]["warp.sample"] == "FLOAT"
    assert all((pin == "HALF") == (types[name] == ir.DataType.FLOAT16) for name, pin in plan["pins"].items())


def test_quantized_graphs_are_allowed_int8_where_flags_decide(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path
) -> None:
    classic_sdk("8.6.1", 70)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    _compile(model, target("v100"), tmp_path, precision=Precision.INT8)
    assert {"INT8", "OBEY_PRECISION_CONSTRAINTS"} <= set(_plan(tmp_path)["flags"])


def test_layers_come_from_the_inspector(
    sdk: tuple[str, Target], warp_step_model: ir.Model, tmp_path: Path
) -> None:
    artifact = _compile(warp_step_model, sdk[1], tmp_path)
    layers = msgspec.json.decode((tmp_path / "layers.json").read_bytes(), type=EngineLayers)
    assert [layer.nodes for layer in layers.layers] == [(node.name,) for node in warp_step_model.graph]
    assert layers.unread == ()
    # In a sentence up to 8, by name since; the made inspector calls every output half.
    assert {t.dtype for layer in layers.layers for t in layer.outputs} == {"float16"}
    assert [s.node for s in layers.samplers] == ["warp.sample"]
    assert artifact.facts["activation_bytes"] == layers.activation_bytes == 4096


@pytest.mark.parametrize("version", VERSIONS)
def test_opset_20_sampling_read_as_nearest_is_refused(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path, version: str
) -> None:
    classic_sdk(version, SM[version])
    inputs = {"x": (F32, IMAGE), "grid": (F32, [1, 8, 8, 2])}
    model = one_node("GridSample", inputs, {"y": (F32, IMAGE)}, opset=20, mode="linear")
    of = target(TARGETS[SM[version]])
    if version == "11.4.0":
        _compile(model, of, tmp_path)
        return
    with pytest.raises(UnsupportedOperatorError, match="mode LINEAR, padding FILL is read as NEAREST"):
        _compile(model, of, tmp_path)


def test_refused_nodes_are_all_named(sdk: tuple[str, Target], tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 19]>
        two (float[1, 4, 16] x, float[1, 4, 16] z) => (float[1, 4, 4, 4] y, float[1, 4, 4, 4] w)
        <int64[2] size = {4, 4}, int64[2] block = {1, 1}>
        { y = Col2Im(x, size, block) w = Col2Im(z, size, block) }
    """)
    # By name from 9 on; by number up to 8, which gives the same.
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    with pytest.raises(UnsupportedOperatorError, match=r"refuses 2 node.*at node first .*at node second "):
        _compile(ir.from_proto(model), sdk[1], tmp_path)


@pytest.mark.parametrize(("version", "taken"), [("8.6.1", False), ("10.4.0", True), ("11.4.0", True)])
def test_deform_conv_is_taken_from_10_1_on(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path, version: str, taken: bool
) -> None:
    classic_sdk(version, SM[version])
    inputs = {"x": (F32, IMAGE), "w": (F32, [4, 4, 3, 3]), "o": (F32, [1, 18, 8, 8])}
    model = one_node("DeformConv", inputs, {"y": (F32, IMAGE)}, pads=[1, 1, 1, 1])
    if not taken:
        with pytest.raises(UnsupportedOperatorError, match="DeformConv at node it"):
            _compile(model, target("v100"), tmp_path)
        return
    _compile(model, target(TARGETS[SM[version]]), tmp_path)
    assert _plan(tmp_path)["plugins"], "the parser finds plug-ins only once they are registered"


def test_timings_are_shared_between_engines_of_one_gpu_and_version(
    classic_sdk: Install, warp_step_model: ir.Model, tmp_path: Path
) -> None:
    classic_sdk("10.4.0", 70)
    folder = tmp_path / "cache" / "superlower" / "tensorrt"
    timed = []
    for index in range(2):
        _compile(warp_step_model, target("v100"), tmp_path / str(index))
        log = (tmp_path / str(index) / "build.log").read_text()
        timed.append(int(log.partition(" timed")[0].split()[-1]))
    assert timed == [len(list(warp_step_model.graph)), 0]
    assert [p.name for p in folder.glob("*.timing")] == ["sm70-fake-gpu-0-10.4.0.timing"]
    classic_sdk("10.16.1", 86)
    _compile(warp_step_model, target("rtx3090"), tmp_path / "other")
    assert len(list(folder.glob("*.timing"))) == 2


def test_a_size_is_open_within_its_profile(
    sdk: tuple[str, Target], one_node: OneNode, fake_cuda: ctypes.CDLL, tmp_path: Path
) -> None:
    model = one_node("Relu", {"x": (F32, [1, 4, "height", 8])}, {"y": (F32, [1, 4, "height", 8])})
    with pytest.raises(BadInputError, match=r"'x' has a symbolic size.*--set tensorrt.profile=x:MIN:OPT:MAX"):
        _compile(model, sdk[1], tmp_path / "none")
    artifact = _compile(model, sdk[1], tmp_path / "open", settings={"profile": "x:1x4x2x8:1x4x4x8:1x4x9x8"})
    assert _plan(tmp_path / "open")["profiles"] == [{"x": [[1, 4, 2, 8], [1, 4, 4, 8], [1, 4, 9, 8]]}]
    session = TensorRt().load(artifact, tmp_path / "open")
    for height in (9, 2, 5):
        x = np.random.default_rng(height).standard_normal((1, 4, height, 8)).astype(np.float32)
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))
    with pytest.raises(
        BadInputError, match=r"takes sizes from \[1, 4, 2, 8\] to \[1, 4, 9, 8\], not \[1, 4, 10, 8\]"
    ):
        session.run({"x": np.zeros((1, 4, 10, 8), np.float32)})
    session.close()
    assert fake_cuda.fake_alive() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tf23": "on"}, "unknown tensorrt setting 'tf23': did you mean tf32"),
        ({"tf32": "yes"}, "tf32=yes: write one of on, off"),
        ({"optimization_level": "9"}, "write one of 0, 1, 2, 3, 4, 5"),
        ({"profile": "x:1x4x8x8"}, "write INPUT:MIN:OPT:MAX"),
        ({"profile": "x:1x4x8x8:1x4x4x8:1x4x9x8"}, "must grow from MIN over OPT to MAX"),
        ({"profile": "w:1:1:1"}, "unknown input in tensorrt.profile 'w'"),
        ({"profile": "x:1x4x8x8:1x4x8x8:1x4x8x9"}, "has 1x4x8x9 for input 'x', which is 1x4x8x8"),
        ({"hardware_compatibility": "ampere_plus"}, "ampere_plus starts with SM80; v100 is SM70"),
    ],
)
def test_settings_are_checked_before_anything_is_built(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    classic_sdk("10.4.0", 70)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    with pytest.raises(BadInputError, match=message):
        _compile(model, target("v100"), tmp_path / "engine", settings=settings)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("version", "name", "needs"),
    [
        ("10.16.1", "v100", r"TensorRT 10.16.1 is here, and NVIDIA V100 SXM2 needs .*<10.5.*tensorrt-cu12"),
        ("10.4.0", "rtx5090", r"TensorRT 10.4.0 is here, and NVIDIA GeForce RTX 5090 needs >=10.8"),
    ],
)
def test_a_version_that_does_not_serve_the_target_is_told_with_the_range(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path, version: str, name: str, needs: str
) -> None:
    classic_sdk(version, SM[version])
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    with pytest.raises(BadInputError, match=needs):
        _compile(model, target(name), tmp_path)


def test_without_the_gpu_it_says_where_to_build(
    classic_sdk: Install, one_node: OneNode, fake_cuda: ctypes.CDLL, tmp_path: Path
) -> None:
    classic_sdk("10.16.1", 86)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    message = r"built where one is: the engine needs a GPU of SM80; GPUs here: Fake GPU 0 \(SM86\)"
    with pytest.raises(MissingSdkError, match=message):
        _compile(model, target("a100"), tmp_path)
    assert "GPU of SM80" in str(TensorRt().runnable(target("a100")))
    assert TensorRt().runnable(target("rtx3090")) is None


def test_ampere_plus_is_built_on_any_gpu_that_has_it(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path
) -> None:
    classic_sdk("10.16.1", 89)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    artifact = _compile(model, target("a100"), tmp_path, settings={"hardware_compatibility": "ampere_plus"})
    assert (artifact.facts["sm"], _plan(tmp_path)["hardware"]) == (89, "AMPERE_PLUS")
    classic_sdk("10.16.1", 86)
    TensorRt().load(artifact, tmp_path).close()


@pytest.mark.parametrize(("version", "known"), [("10.4.0", False), ("10.16.1", True)])
def test_a_level_the_version_lacks_is_told(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path, version: str, known: bool
) -> None:
    classic_sdk(version, 86)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    settings = {"hardware_compatibility": "same_compute_capability"}
    if known:
        _compile(model, target("rtx3090"), tmp_path, settings=settings)
        assert _plan(tmp_path)["hardware"] == "SAME_COMPUTE_CAPABILITY"
        return
    with pytest.raises(
        BuildFailedError, match=r"TensorRT 10.4.0 has no hardware compatibility level same_comp"
    ):
        _compile(model, target("rtx3090"), tmp_path, settings=settings)


def test_an_engine_of_another_architecture_is_refused(
    classic_sdk: Install, one_node: OneNode, tmp_path: Path
) -> None:
    classic_sdk("10.16.1", 86)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    artifact = _compile(model, target("rtx3090"), tmp_path)
    classic_sdk("10.16.1", 89)
    message = r"built on Fake GPU 0 for SM86, and here is Fake GPU 0 \(SM89\): .* or build with .*ampere_plus"
    with pytest.raises(MissingSdkError, match=message):
        TensorRt().load(artifact, tmp_path)


def test_an_engine_of_another_version_is_refused_unless_portable(
    classic_sdk: Install, one_node: OneNode, fake_cuda: ctypes.CDLL, tmp_path: Path
) -> None:
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    classic_sdk("10.4.0", 86)
    plain = _compile(model, target("rtx3090"), tmp_path / "plain")
    portable = _compile(
        model, target("rtx3090"), tmp_path / "portable", settings={"version_compatible": "on"}
    )
    classic_sdk("10.16.1", 86)
    with pytest.raises(BadInputError, match=r"built by TensorRT 10.4.0, and 10.16.1 is here"):
        TensorRt().load(plain, tmp_path / "plain")
    TensorRt().load(portable, tmp_path / "portable").close()
    classic_sdk("11.4.0", 86)
    with pytest.raises(BadInputError, match=r"built by TensorRT 10.4.0, and 11.4.0 is here"):
        TensorRt().load(portable, tmp_path / "portable")
    assert fake_cuda.fake_alive() == 0


def test_a_file_that_is_no_engine_is_refused(
    classic_sdk: Install, one_node: OneNode, fake_cuda: ctypes.CDLL, tmp_path: Path
) -> None:
    classic_sdk("10.4.0", 86)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    artifact = _compile(model, target("rtx3090"), tmp_path)
    (tmp_path / "engine.plan").write_bytes(b"hello")
    with pytest.raises(
        BadInputError, match=r"no engine that TensorRT 10.4.0 can read: Magic tag does not match"
    ):
        TensorRt().load(artifact, tmp_path)
    (tmp_path / "engine.plan").unlink()
    with pytest.raises(BadInputError, match="no such engine"):
        TensorRt().load(artifact, tmp_path)
    assert fake_cuda.fake_alive() == 0


@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [
        (
            "start",
            MissingSdkError,
            r"tensorrt 10.4.0 can't start on this machine: CUDA initialization failure",
        ),
        ("build", BuildFailedError, "built no engine: Could not find any implementation"),
    ],
)
def test_what_the_sdk_says_is_passed_on(
    classic_sdk: Install,
    one_node: OneNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    error: type[Exception],
    message: str,
) -> None:
    classic_sdk("10.4.0", 86)
    monkeypatch.setenv("FAKE_TENSORRT_FAILS", fails)
    model = one_node("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)})
    with pytest.raises(error, match=message):
        _compile(model, target("rtx3090"), tmp_path)


def test_coverage_asks_the_parser_where_a_gpu_is(
    sdk: tuple[str, Target], one_node: OneNode, warp_step_model: ir.Model
) -> None:
    found = TensorRt().coverage(warp_step_model, sdk[1], Precision.FP32)
    assert {(n.support, n.source) for n in found} == {(Support.NATIVE, "")}
    ints, bytes_ = TensorProto.INT64, TensorProto.UINT8
    # The document says that the one isn't supported, too; the made parser takes what it doesn't know of.
    refused = one_node(
        "DynamicQuantizeLinear",
        {"x": (F32, IMAGE)},
        {"y": (bytes_, IMAGE), "s": (F32, []), "z": (bytes_, [])},
    )
    (told,) = TensorRt().coverage(refused, sdk[1], Precision.FP32)
    assert (told.support, told.source) == (Support.UNSUPPORTED, "")
    taken = one_node("Unique", {"x": (ints, [4])}, {"y": (ints, ["n"])})
    (told,) = TensorRt().coverage(taken, sdk[1], Precision.FP32)
    assert (told.support, told.source) == (Support.NATIVE, "")


def test_coverage_without_a_gpu_is_the_document(
    classic_sdk: Install, warp_step_model: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    classic_sdk("10.4.0", 70, devices=0)
    found = TensorRt().coverage(warp_step_model, target("v100"), Precision.FP16)
    assert all(n.support in (Support.NATIVE, Support.REWRITTEN) for n in found)
    assert all("onnx-tensorrt, docs/operators.md, tensorrt 10.1" in n.source for n in found)
