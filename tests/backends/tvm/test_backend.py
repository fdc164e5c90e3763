"""TVM on the CPU: builds agree with ONNX Runtime, run in a fresh process, and refuse what they must."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.base import Artifact, Backend, BuildOptions, Support
from superlower.backends.process import LOG
from superlower.backends.session import PooledSession
from superlower.backends.tvm.backend import Tvm
from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.ir import serialize
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

Array = NDArray[np.generic]

# Along any path the step has 7 convolutions of gain 0.9, each a sum of up to 99 products: two orders of
# summation differ by sqrt(99) 2^-24 = 6e-7 of its size on average, 5 times that at the worst of 50,000
# outputs. The warp adds 32 px * 2^-23 = 4e-6 px of coordinate error times differences of a few a pixel.
RELATIVE = 7 * 5 * 6e-7 + 4 * 4e-6

pytestmark = pytest.mark.skipif(Tvm().missing() is not None, reason=str(Tvm().missing()))


def reference(model: ir.Model, feeds: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_close(found: dict[str, Array], expected: dict[str, Array], relative: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        size = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=relative * size, err_msg=name)


@pytest.fixture(scope="module")
def step(
    tmp_path_factory: pytest.TempPathFactory,
    make_warp_step: Callable[..., ir.Model],
    make_warp_step_inputs: Callable[..., dict[str, Array]],
) -> tuple[Artifact, Path, ir.Model, dict[str, Array]]:
    """One build for the tests that only run it."""
    folder = tmp_path_factory.mktemp("tvm-step")
    model, feeds = make_warp_step(), make_warp_step_inputs()
    return Tvm().compile(model, target("cpu"), BuildOptions(threads=2), folder), folder, model, feeds


@pytest.fixture
def session(step: tuple[Artifact, Path, ir.Model, dict[str, Array]]) -> Iterator[PooledSession]:
    loaded = Tvm().load(step[0], step[1])
    yield loaded  # type: ignore[misc]
    loaded.close()


Step = tuple[Artifact, Path, ir.Model, dict[str, Array]]


def test_it_is_a_backend() -> None:
    assert isinstance(Tvm(), Backend)
    assert Tvm().versions()["apache-tvm"]


def test_a_step_agrees_with_onnxruntime(step: Step, session: PooledSession) -> None:
    _, _, model, feeds = step
    assert_close(session.run(feeds), reference(model, feeds), RELATIVE)


def test_the_artifact_says_what_it_is(step: Step) -> None:
    artifact, folder, _, _ = step
    assert artifact.facts["opt_level"] == 3
    assert artifact.facts["calls"] == 1
    assert artifact.facts["tuned"] == "no"
    assert artifact.facts["unscheduled_functions"] == 0
    assert artifact.facts["mcpu"] == target("cpu").tvm["mcpu"]
    assert {path.name for path in folder.iterdir()} == set(artifact.files.values())
    assert msgspec.json.decode(msgspec.json.encode(artifact), type=Artifact) == artifact


def test_outputs_belong_to_the_caller(step: Step, session: PooledSession) -> None:
    first = session.run(step[3])
    kept = {name: value.copy() for name, value in first.items()}
    session.run({name: value + 1 for name, value in step[3].items()})
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


def test_states_stay_inside_and_are_forgotten_on_reset(step: Step, session: PooledSession) -> None:
    """The engine is the same: whether a state stays inside is the session's business."""
    artifact, folder, _, feeds = step
    kept = Tvm().load(msgspec.structs.replace(artifact, stateful=(("hidden_out", "hidden"),)), folder)
    fed = {name: value for name, value in feeds.items() if name != "hidden"}
    try:
        for _ in range(2):
            state = np.zeros_like(feeds["hidden"])
            for t in range(3):
                now = {name: value * (1 + 0.1 * t) for name, value in fed.items()}
                expected = session.run({**now, "hidden": state})
                state = expected.pop("hidden_out")
                found = kept.run({name: value.astype(np.float32) for name, value in now.items()})
                assert found.keys() == expected.keys()
                for name, value in expected.items():
                    np.testing.assert_array_equal(found[name], value)
            kept.reset()
        with pytest.raises(BadInputError, match="unknown engine input 'hidden'"):
            kept.run(feeds)
    finally:
        kept.close()


def test_calls_from_many_threads_stay_apart(step: Step, session: PooledSession) -> None:
    feeds = [{name: value * k for name, value in step[3].items()} for k in (1.0, 0.5, -1.0)]
    alone = [session.run(each) for each in feeds]
    found: dict[int, dict[str, Array]] = {}

    def call(i: int) -> None:
        found[i] = session.submit(feeds[i % 3]).result()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 9
    for i, outputs in found.items():
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, alone[i % 3][name])


def test_throughput_runs_calls_side_by_side(step: Step) -> None:
    artifact, folder, _, feeds = step
    loaded = Tvm().load(msgspec.structs.replace(artifact, mode="throughput"), folder)
    try:
        futures = [loaded.submit(feeds) for _ in range(4)]
        results = [future.result() for future in futures]
    finally:
        loaded.close()
    for outputs in results[1:]:
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, results[0][name])


def test_a_fresh_process_runs_it_with_the_runtime_alone(step: Step, tmp_path: Path) -> None:
    artifact, folder, model, feeds = step
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    np.savez(tmp_path / "expected.npz", **reference(model, feeds))  # type: ignore[arg-type]
    (tmp_path / "artifact.json").write_bytes(msgspec.json.encode(artifact))
    script = f"""
import json, os, sys
from pathlib import Path
import msgspec, numpy as np
from superlower.backends.base import Artifact
from superlower.backends.tvm.backend import Tvm
here = Path({str(tmp_path)!r})
artifact = msgspec.json.decode((here / "artifact.json").read_bytes(), type=Artifact)
session = Tvm().load(artifact, Path({str(folder)!r}))
outputs = session.run(dict(np.load(here / "feeds.npz")))
expected = dict(np.load(here / "expected.npz"))
session.close()
maps = Path("/proc/self/maps").read_text()
print(json.dumps({{
    "error": max(float(np.abs(outputs[n] - v).max() / max(1, np.abs(v).max())) for n, v in expected.items()),
    "compiler": "libtvm_compiler" in maps,
    "left_behind": os.environ.get("TVM_USE_RUNTIME_LIB", ""),
}}))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TVM_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["error"] <= RELATIVE
    assert not told["compiler"]
    assert told["left_behind"] == ""


def test_a_build_repeated_is_the_same_file(
    step: Step, tmp_path: Path, make_warp_step: Callable[..., ir.Model]
) -> None:
    artifact, folder, _, _ = step
    again = Tvm().compile(make_warp_step(), target("cpu"), BuildOptions(threads=2), tmp_path)
    for role in ("engine", "io"):
        once, twice = (
            (folder / artifact.files[role]).read_bytes(),
            (tmp_path / again.files[role]).read_bytes(),
        )
        assert hashlib.sha256(once).hexdigest() == hashlib.sha256(twice).hexdigest(), role


def test_an_engine_in_anothers_place_is_the_one_that_runs(tmp_path: Path) -> None:
    """The system's loader takes a path that it knows for what it once loaded from there."""
    x = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    for kind, expected in (("Relu", x), ("Neg", -x), ("Exp", np.exp(x))):
        node = helper.make_node(kind, ["x"], ["y"])
        graph = _model(node, types={"x": (TensorProto.FLOAT, [1, 3, 8, 8])}, outputs=["y"])
        artifact = Tvm().compile(graph, target("cpu"), BuildOptions(threads=1), tmp_path)
        session = Tvm().load(artifact, tmp_path)
        try:
            np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5)
        finally:
            session.close()


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"frame": np.zeros((1, 3, 32, 32), np.float32)}, "is not fed"),
        ({"frame": np.zeros((1, 3, 16, 32), np.float32)}, "takes float32"),
        ({"frames": np.zeros((1, 3, 32, 32), np.float32)}, "did you mean frame"),
    ],
)
def test_wrong_feeds_are_named(session: PooledSession, feeds: dict[str, Array], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        session.run(feeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdk": {"apache-tvm": "0.1"}}, "built by apache-tvm 0.1"),
        ({"backend": "openvino"}, "built by openvino"),
        ({"facts": {"mcpu": "novel", "cpu_features": "avx avx9"}}, "this processor has no avx9"),
    ],
)
def test_an_engine_that_cannot_run_here_is_refused(
    step: Step, change: dict[str, object], message: str
) -> None:
    if "facts" in change and "flags" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("/proc/cpuinfo of this processor lists no flags")
    with pytest.raises(BadInputError, match=message):
        Tvm().load(msgspec.structs.replace(step[0], **change), step[1])


def test_a_damaged_engine_is_refused(step: Step, tmp_path: Path) -> None:
    artifact, folder, _, _ = step
    with pytest.raises(BadInputError, match="compile the model again"):
        Tvm().load(artifact, tmp_path)
    (tmp_path / artifact.files["io"]).write_bytes((folder / artifact.files["io"]).read_bytes())
    (tmp_path / artifact.files["engine"]).write_bytes(b"not a library")
    with pytest.raises(BadInputError, match="isn't an engine"):
        Tvm().load(artifact, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(settings={"opt-levle": "1"}), "did you mean opt-level"),
        (BuildOptions(settings={"opt-level": "9"}), "takes 0, 1, 2 or 3"),
        (BuildOptions(settings={"tensor-cores": "no"}), "tensor-cores takes on or off, not 'no'"),
        (BuildOptions(stateful=(("hidden_in", "hidden"),)), "must name an output and an input"),
    ],
)
def test_what_it_does_not_take_is_said(
    warp_step_model: ir.Model, options: BuildOptions, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=message):
        Tvm().compile(warp_step_model, target("cpu"), options, tmp_path)


def test_targets_it_serves(cpu_target: Target) -> None:
    backend = Tvm()
    assert backend.serves(cpu_target, Precision.FP32) is None
    assert backend.serves(target("v100"), Precision.FP16) is None
    assert "OpenCL" in str(backend.serves(target("intel-gpu"), Precision.FP32))
    assert backend.serves(target("t4"), Precision.INT8) is None
    assert "bf16" in str(backend.serves(target("a100"), Precision.BF16))


def _model(
    *nodes: onnx.NodeProto, types: dict[str, tuple[int, list[int | str]]], outputs: list[str]
) -> ir.Model:
    values = [helper.make_tensor_value_info(name, *typed) for name, typed in types.items()]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "small", values, found)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def _deformable() -> ir.Model:
    return _model(
        helper.make_node("Relu", ["x"], ["r"], name="before"),
        helper.make_node("DeformConv", ["r", "w", "offset"], ["y"], name="align", kernel_shape=[3, 3]),
        types={
            "x": (TensorProto.FLOAT, [1, 4, 8, 8]),
            "w": (TensorProto.FLOAT, [4, 4, 3, 3]),
            "offset": (TensorProto.FLOAT, [1, 18, 6, 6]),
        },
        outputs=["y"],
    )


def test_an_operator_the_importer_lacks_is_named_with_its_node(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"tvm on cpu: .* \(DeformConv at align\): "):
        Tvm().compile(_deformable(), target("cpu"), BuildOptions(), tmp_path)


def test_coverage_asks_the_importer_node_by_node(warp_step_model: ir.Model) -> None:
    pytest.importorskip("superlower.passes.guard_grid_sample")
    found = Tvm().coverage(_deformable(), target("cpu"), Precision.FP32)
    assert [(n.node, n.support, n.detail) for n in found] == [
        ("before", Support.NATIVE, ""),
        ("align", Support.REWRITTEN, "select-lowering"),
    ]
    lacking = helper.make_node("Det", ["x"], ["y"], name="area")
    model = _model(lacking, types={"x": (TensorProto.FLOAT, [1, 4, 8, 8])}, outputs=["y"])
    (found_of_it,) = Tvm().coverage(model, target("cpu"), Precision.FP32)
    assert found_of_it.support is Support.UNSUPPORTED
    assert "Det" in found_of_it.detail
    step = Tvm().coverage(warp_step_model, target("cpu"), Precision.FP32)
    assert [n.op for n in step] == [node.op_type for node in warp_step_model.graph]
    assert {n.support for n in step} == {Support.NATIVE}


def test_coverage_knows_the_operators_the_importer_lacks() -> None:
    one_step = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4]),
        ],
    )
    sizes: dict[str, tuple[int, list[int | str]]] = {
        "v": (TensorProto.FLOAT, [4]),
        "columns": (TensorProto.FLOAT, [1, 5, 5]),
        "image": (TensorProto.INT64, [2]),
        "block": (TensorProto.INT64, [2]),
        "times": (TensorProto.INT64, []),
    }
    model = _model(
        helper.make_node("Loop", ["times", "", "v"], ["y0"], name="loop", body=one_step),
        helper.make_node("Col2Im", ["columns", "image", "block"], ["y1"], name="fold"),
        helper.make_node("Neg", ["v"], ["y2"], name="neg"),
        types=sizes,
        outputs=["y0", "y1", "y2"],
    )
    found = {n.node: n for n in Tvm().coverage(model, target("cpu"), Precision.FP32)}
    assert {name for name, n in found.items() if n.support is Support.UNSUPPORTED} == {"loop", "fold"}
    assert "Loop" in found["loop"].detail
    assert "Col2Im" in found["fold"].detail


def test_symbolic_sizes_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = _model(node, types={"x": (TensorProto.FLOAT, [1, 3, "H", "W"])}, outputs=["y"])
    with pytest.raises(BadInputError, match="fixed sizes: input 'x'"):
        Tvm().compile(model, target("cpu"), BuildOptions(), tmp_path)


def test_names_that_are_no_identifiers_survive(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sub", ["0/in.a", "in b"], ["out-1"]),
        helper.make_node("Mul", ["0/in.a", "out-1"], ["main"]),
    ]
    types: dict[str, tuple[int, list[int | str]]] = {
        "in b": (TensorProto.FLOAT, [4]),
        "0/in.a": (TensorProto.FLOAT, [4]),
    }
    model = _model(*nodes, types=types, outputs=["main", "out-1"])
    artifact = Tvm().compile(model, target("cpu"), BuildOptions(threads=1), tmp_path)
    loaded = Tvm().load(artifact, tmp_path)
    a, b = np.arange(4, dtype=np.float32), np.full(4, 5, np.float32)
    outputs = loaded.run({"0/in.a": a, "in b": b})
    loaded.close()
    np.testing.assert_array_equal(outputs["out-1"], a - b)
    np.testing.assert_array_equal(outputs["main"], a * (a - b))


def test_half_precision_sums_in_float32(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weight = (rng.random((4, 64, 3, 3)) / 8).astype(np.float16)
    x = rng.random((1, 64, 8, 16)).astype(np.float16)
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="sum", pads=[1, 1, 1, 1])],
        "half",
        [helper.make_tensor_value_info("x", half, list(x.shape))],
        [helper.make_tensor_value_info("y", half, [1, 4, 8, 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    )
    options = BuildOptions(precision=Precision.FP16, threads=1)
    artifact = Tvm().compile(model, target("cpu"), options, tmp_path)
    loaded = Tvm().load(artifact, tmp_path)
    found = loaded.run({"x": x})["y"]
    loaded.close()
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    exact = np.einsum("chwij,ocij->ohw", windows, weight.astype(np.float64))
    assert found.dtype == np.float16
    # Half a unit in the last place of float16 at the sum's size, and 576 float32 roundings of it. A sum kept
    # in float16 is off by tens of units: terms of 1/16 added to a sum near 18 are rounded to 1/64.
    bound = np.abs(exact) * (2.0**-11 + 576 * 2.0**-24)
    assert np.all(np.abs(found[0] - exact) <= bound)


def test_the_importers_chatter_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedOperatorError):
        Tvm().compile(_deformable(), target("cpu"), BuildOptions(raw=True), tmp_path)
    assert capfd.readouterr().out == ""
    assert (tmp_path / LOG).is_file()
