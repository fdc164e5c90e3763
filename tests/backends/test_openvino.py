"""OpenVINO: against ONNX Runtime over frames, its states, its precision, and in how it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from superlower.backends.base import Artifact, BuildOptions, Session, Support
from superlower.backends.onnxruntime import OnnxRuntime
from superlower.backends.openvino import OpenVino
from superlower.backends.openvino_build import compute_in, parsed
from superlower.backends.openvino_deform import shared_core
from superlower.errors import BadInputError, MissingSdkError, UnsupportedOperatorError
from superlower.ir import serialize
from superlower.passes.pipelines import apply
from superlower.targets.base import TYPES, Precision, Target
from support.graphs import GraphBuilder

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.usefixtures("private_cache")

Arrays = Mapping[str, NDArray[np.float32]]
ONE_THREAD = BuildOptions(threads=1, timeout_s=120)
BACKEND = OpenVino()

# As in test_onnxruntime.py: rounding by 2^-24 of values up to 8, of random sign, over sums of at most 99
# products in 8 layers: sqrt(99 * 8) * 8 * 2^-24 = 1.4e-5; seven times that for the tail of 50,000 outputs.
FP32_ROUNDING = 1e-4


def text(body: str, inputs: str = "float[1,4,8,8] x", outputs: str = "float[1,4,8,8] y") -> ir.Model:
    opsets = '<ir_version: 10, opset_import: ["": 19, "my": 1]>'
    return ir.from_onnx_text(f"{opsets} g ({inputs}) => ({outputs}) {{ {body} }}")


@contextmanager
def loaded(artifact: Artifact, folder: Path, backend: OnnxRuntime | OpenVino = BACKEND) -> Iterator[Session]:
    session = backend.load(artifact, folder)
    try:
        yield session
    finally:
        session.close()


@pytest.fixture
def built(warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path) -> Artifact:
    """The warp step's engine, in tmp_path."""
    return BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path)


def test_agrees_with_onnx_runtime_over_recurrent_frames(
    warp_step_model: ir.Model,
    make_warp_step_inputs: Callable[..., Arrays],
    cpu_target: Target,
    tmp_path: Path,
) -> None:
    sessions: list[Session] = []
    for backend in (OnnxRuntime(), BACKEND):
        folder = tmp_path / backend.name
        artifact = backend.compile(warp_step_model, cpu_target, ONE_THREAD, folder)
        sessions.append(backend.load(artifact, folder))
    states = [make_warp_step_inputs(seed=0)["hidden"]] * 2
    for frame in range(8):
        feeds = make_warp_step_inputs(seed=frame)
        outputs = [s.run({**feeds, "hidden": h}) for s, h in zip(sessions, states, strict=True)]
        states = [each["hidden_out"] for each in outputs]
        for name in ("hidden_out", "output"):
            np.testing.assert_allclose(outputs[1][name], outputs[0][name], rtol=0, atol=FP32_ROUNDING)
    for session in sessions:
        session.close()


def test_runs_and_loads_repeat_bit_for_bit(built: Artifact, warp_step_feeds: Arrays, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        with loaded(built, tmp_path) as session:
            results += [session.run(warp_step_feeds) for _ in range(3)]
    for name, array in results[0].items():
        assert all(np.array_equal(other[name], array) for other in results[1:])


def test_outputs_are_the_callers(
    built: Artifact, warp_step_feeds: Arrays, make_warp_step_inputs: Callable[..., Arrays], tmp_path: Path
) -> None:
    with loaded(built, tmp_path) as session:
        first = session.run(warp_step_feeds)
        kept = {name: array.copy() for name, array in first.items()}
        for seed in range(2, 6):
            assert not np.array_equal(session.run(make_warp_step_inputs(seed=seed))["output"], kept["output"])
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)
        assert first[name].flags.owndata


def test_feeds_are_read_and_never_written(built: Artifact, warp_step_feeds: Arrays, tmp_path: Path) -> None:
    frozen = {name: array.copy() for name, array in warp_step_feeds.items()}
    for array in frozen.values():
        array.flags.writeable = False
    with loaded(built, tmp_path) as session:
        expected = session.run(warp_step_feeds)["output"]
        np.testing.assert_array_equal(session.run(frozen)["output"], expected)
        with pytest.raises(BadInputError, match=r"'frame' takes float32 \[1, 3, 32, 32\], not float64"):
            session.run({**warp_step_feeds, "frame": warp_step_feeds["frame"].astype(np.float64)})


def test_calls_in_flight_do_not_mix(
    warp_step_model: ir.Model,
    make_warp_step_inputs: Callable[..., Arrays],
    cpu_target: Target,
    tmp_path: Path,
) -> None:
    options = replace(ONE_THREAD, mode="throughput", threads=2)
    artifact = BACKEND.compile(warp_step_model, cpu_target, options, tmp_path)
    assert artifact.settings["PERFORMANCE_HINT"] == "THROUGHPUT"
    feeds = [make_warp_step_inputs(seed=seed) for seed in range(12)]
    with loaded(artifact, tmp_path) as session:
        futures = [session.submit(each) for each in feeds]
        together = [future.result(60)["output"] for future in futures]
        alone = [session.run(each)["output"] for each in feeds]
    for mine, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_artifact_tells_what_was_built(built: Artifact, warp_step_model: ir.Model, tmp_path: Path) -> None:
    assert built.files == {"engine": "model.xml", "weights": "model.bin", "blob": "model.blob"}
    assert {path.name for path in tmp_path.iterdir()} == {*built.files.values(), "build.log"}
    assert built.sdk.keys() == {"openvino"}
    assert built.settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert built.settings["INFERENCE_NUM_THREADS"] == "1"
    assert msgspec.json.decode(msgspec.json.encode(built), type=Artifact) == built
    weight = warp_step_model.graph.initializers["trunk.0.conv1.weight"].const_value
    assert weight is not None
    assert weight.tobytes() in (tmp_path / "model.bin").read_bytes()  # In fp32, not compressed to fp16.


@pytest.mark.parametrize(("threads", "pinned"), [(1, "NO"), (2, None), (0, None)])
def test_engines_of_some_of_the_cores_are_not_pinned_to_the_same_ones(
    threads: int, pinned: str | None, cpu_target: Target, warp_step_model: ir.Model, tmp_path: Path
) -> None:
    two_cores = msgspec.structs.replace(cpu_target, tvm={**cpu_target.tvm, "num-cores": 2})
    options = BuildOptions(threads=threads, timeout_s=120)
    artifact = OpenVino().compile(warp_step_model, two_cores, options, tmp_path)
    assert artifact.settings.get("ENABLE_CPU_PINNING") == pinned


def test_calls_in_flight_have_a_stream_each(
    cpu_target: Target, warp_step_model: ir.Model, tmp_path: Path
) -> None:
    four_cores = msgspec.structs.replace(cpu_target, tvm={**cpu_target.tvm, "num-cores": 4})
    options = BuildOptions(threads=2, calls=2, timeout_s=120)
    artifact = OpenVino().compile(warp_step_model, four_cores, options, tmp_path)
    told = {"INFERENCE_NUM_THREADS": "4", "NUM_STREAMS": "2", "ENABLE_CPU_PINNING": "NO"}
    assert artifact.settings.items() >= told.items()
    assert artifact.threads == 2


def run_once(artifact: Artifact, folder: Path, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
    with loaded(artifact, folder) as session:
        return dict(session.run(feeds))


def test_blob_is_taken_up_on_its_own_machine_and_version_only(
    built: Artifact, warp_step_feeds: Arrays, tmp_path: Path
) -> None:
    expected = run_once(built, tmp_path, warp_step_feeds)["output"]
    (tmp_path / "model.xml").rename(tmp_path / "aside.xml")
    from_blob = run_once(built, tmp_path, warp_step_feeds)["output"]
    np.testing.assert_array_equal(from_blob, expected)
    for other in (
        msgspec.structs.replace(built, sdk={"openvino": "2020.1.0"}),
        msgspec.structs.replace(built, facts={**built.facts, "processor": "Another CPU"}),
    ):
        with pytest.raises(BadInputError, match=r"no such engine: .*model.xml"):
            BACKEND.load(other, tmp_path)
    (tmp_path / "aside.xml").rename(tmp_path / "model.xml")
    from_ir = run_once(msgspec.structs.replace(built, sdk={}), tmp_path, warp_step_feeds)["output"]
    np.testing.assert_array_equal(from_ir, expected)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_bad_blob_costs_time_only(
    content: bytes | None, built: Artifact, warp_step_feeds: Arrays, tmp_path: Path
) -> None:
    expected = run_once(built, tmp_path, warp_step_feeds)["output"]
    blob = tmp_path / "model.blob"
    blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2] if content is None else content)
    np.testing.assert_array_equal(run_once(built, tmp_path, warp_step_feeds)["output"], expected)


@pytest.mark.parametrize("damage", ["xml cut", "xml foreign", "weights cut", "xml gone"])
def test_a_damaged_engine_is_one_clear_error(damage: str, built: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.blob").unlink()
    xml, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    if damage == "xml cut":
        xml.write_bytes(xml.read_bytes()[:3000])
    elif damage == "xml foreign":
        xml.write_text("<html>not found</html>")
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        xml.unlink()
    with pytest.raises(BadInputError, match=r"model\.xml.*compile it again") as caught:
        BACKEND.load(built, tmp_path)
    assert "\n" not in str(caught.value)


def test_another_backends_engine_is_refused(built: Artifact, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="built by tvm, not by openvino"):
        BACKEND.load(msgspec.structs.replace(built, backend="tvm"), tmp_path)


STATE = (("hidden_out", "hidden"),)


def test_states_inside_the_engine_are_those_of_the_host(
    warp_step_model: ir.Model,
    make_warp_step_inputs: Callable[..., Arrays],
    cpu_target: Target,
    tmp_path: Path,
) -> None:
    host = BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path / "host")
    options = replace(ONE_THREAD, stateful=STATE)
    inner = BACKEND.compile(warp_step_model, cpu_target, options, tmp_path / "inner")
    assert inner.stateful == STATE
    frames = [make_warp_step_inputs(seed=seed) for seed in range(6)]
    hidden = np.zeros_like(frames[0]["hidden"])
    expected = []
    with loaded(host, tmp_path / "host") as session:
        for frame in frames:
            outputs = session.run({**frame, "hidden": hidden})
            hidden = outputs["hidden_out"]
            expected.append(outputs["output"])
    stateless = [{name: f[name] for name in ("frame", "flow")} for f in frames]
    with loaded(inner, tmp_path / "inner") as session:
        for attempt in range(2):
            if attempt:
                session.reset()
            futures = [
                session.submit(feeds) for feeds in stateless
            ]  # At once: order is the session's matter.
            for future, array in zip(futures, expected, strict=True):
                outputs = future.result(60)
                assert outputs.keys() == {"output"}
                np.testing.assert_array_equal(outputs["output"], array)
        carried = session.run(stateless[0])["output"]
        assert not np.array_equal(
            carried, expected[0]
        )  # Without a reset the last clip's state is still there.
        with pytest.raises(BadInputError, match="unknown engine input 'hidden'"):
            session.run(frames[0])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((("hidden", "hidden_out"),), r"state pair \(hidden, hidden_out\) must name an output and an input"),
        ((("output", "hidden"),), r"shapes \[1, 3, 128, 128\] and \[1, 8, 32, 32\] differ"),
    ],
)
def test_state_pairs_that_are_none(
    pairs: tuple[tuple[str, str], ...],
    message: str,
    warp_step_model: ir.Model,
    cpu_target: Target,
    tmp_path: Path,
) -> None:
    with pytest.raises(BadInputError, match=message):
        BACKEND.compile(warp_step_model, cpu_target, replace(ONE_THREAD, stateful=pairs), tmp_path)


def test_outputs_that_are_one_tensor_keep_their_names(cpu_target: Target, tmp_path: Path) -> None:
    shapes = ", ".join(f"float[1,4,8,8] {name}" for name in ("b", "a", "same", "y"))
    model = text("r = Relu(x) b = Identity(r) a = Identity(r) same = Identity(x) y = Neg(r)", outputs=shapes)
    artifact = BACKEND.compile(model, cpu_target, ONE_THREAD, tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    outputs = run_once(artifact, tmp_path, {"x": x})
    assert list(outputs) == ["b", "a", "same", "y"]
    relu = np.maximum(x, 0)
    for name, expected in {"b": relu, "a": relu, "same": x, "y": -relu}.items():
        np.testing.assert_array_equal(outputs[name], expected)
    x[:] = 0
    assert outputs["same"].any()


def test_bf16_types_convolutions_and_no_grid(
    warp_step_model: ir.Model, warp_step_feeds: Arrays, cpu_target: Target, tmp_path: Path
) -> None:
    options = replace(ONE_THREAD, precision=Precision.BF16)
    artifact = BACKEND.compile(warp_step_model, cpu_target, options, tmp_path / "bf16")
    assert artifact.facts["bf16_operations"] == 8
    exact = BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path / "fp32")
    expected = run_once(exact, tmp_path / "fp32", warp_step_feeds)
    outputs = run_once(artifact, tmp_path / "bf16", warp_step_feeds)
    for name, array in expected.items():
        error = np.abs(outputs[name] - array)
        # Inputs, weights and results are rounded by 2^-9 of themselves in each of 8 layers, at random:
        # sqrt(3 * 8) * 2^-9 = 1 % of the spread. A grid in bf16 would be off by 2^-9 * 16 pixels, which moves
        # samples of a state that changes by its spread from pixel to pixel by 3 %.
        assert 0 < np.sqrt(np.mean(error**2)) < 0.01 * array.std()


def test_what_a_grid_depends_on_stays_fp32() -> None:
    body = """f = Conv<pads = [1,1,1,1]>(x, v) g = Transpose<perm = [0,2,3,1]>(f)
              s = GridSample<mode = "bilinear", align_corners = 1>(x, g) y = Conv<pads = [1,1,1,1]>(s, w)"""
    inputs = "float[1,4,8,8] x, float[2,4,3,3] v, float[4,4,3,3] w"
    model = shared_core().read_model(serialize(text(body, inputs)))
    assert compute_in(model, "bf16") == 1
    types = {
        tuple(op.get_output_shape(0)): op.get_output_element_type(0).get_type_name()
        for op in model.get_ops()
        if op.get_type_name() == "Convolution"
    }
    assert types == {(1, 2, 8, 8): "f32", (1, 4, 8, 8): "bf16"}


def test_settings_are_openvinos_own(warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path) -> None:
    options = replace(ONE_THREAD, settings={"NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "false"})
    artifact = BACKEND.compile(warp_step_model, cpu_target, options, tmp_path)
    assert artifact.settings.items() >= options.settings.items()
    BACKEND.load(artifact, tmp_path).close()
    assert parsed(options.settings) == {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    with pytest.raises(BadInputError, match="unknown openvino setting 'NUM_STREAM' for CPU"):
        BACKEND.compile(
            warp_step_model, cpu_target, replace(ONE_THREAD, settings={"NUM_STREAM": "1"}), tmp_path
        )


def test_covers_all_of_the_warp_step(warp_step_model: ir.Model, cpu_target: Target) -> None:
    found = BACKEND.coverage(warp_step_model, cpu_target, Precision.FP32)
    assert [node.node for node in found] == [node.name for node in warp_step_model.graph]
    assert {node.support for node in found} == {Support.NATIVE}


LACKING = ("a = Relu(x) d = Det(a) b = my.Frob(x) y = Neg(d)", "float[1,4,8,8] x")


def test_every_operator_without_a_rule_is_found(cpu_target: Target) -> None:
    found = BACKEND.coverage(text(*LACKING), cpu_target, Precision.FP32)
    assert [(node.op, node.support) for node in found] == [
        ("Relu", Support.NATIVE),
        ("Det", Support.UNSUPPORTED),
        ("my::Frob", Support.UNSUPPORTED),
        ("Neg", Support.NATIVE),
    ]
    assert "Det" in found[1].detail
    assert "Frob" in found[2].detail


def test_compiling_what_is_not_covered_names_it(cpu_target: Target, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"openvino doesn't cover Det at node 'd'") as caught:
        BACKEND.compile(text(*LACKING), cpu_target, ONE_THREAD, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "source.onnx").exists()


def test_targets_and_precisions_it_serves(cpu_target: Target) -> None:
    served = {p: BACKEND.serves(cpu_target, p) for p in TYPES}
    assert {p for p, reason in served.items() if reason is None} == {"fp32", "bf16", "int8"}
    assert "would compute in bf16" in str(served[Precision.FP16])
    gpu = msgspec.structs.replace(cpu_target, name="intel-gpu", kind="intel-gpu")
    assert BACKEND.serves(gpu, Precision.FP16) is None
    nvidia = msgspec.structs.replace(cpu_target, name="v100", kind="nvidia-gpu")
    assert "Intel" in str(BACKEND.serves(nvidia, Precision.FP32))


@pytest.mark.skipif("GPU" in shared_core().available_devices, reason="there is an Intel GPU here")
def test_without_the_gpu_its_engine_is_built_and_not_run(
    warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path
) -> None:
    gpu = msgspec.structs.replace(cpu_target, name="intel-gpu", kind="intel-gpu")
    assert "finds no GPU here, only CPU" in str(BACKEND.runnable(gpu))
    assert {n.support for n in BACKEND.coverage(warp_step_model, gpu, Precision.FP32)} == {Support.NATIVE}
    artifact = BACKEND.compile(warp_step_model, gpu, ONE_THREAD, tmp_path)
    assert artifact.files == {"engine": "model.xml", "weights": "model.bin"}
    with pytest.raises(MissingSdkError, match="finds no GPU here"):
        BACKEND.load(artifact, tmp_path)


def test_biases_that_convolutions_share_are_fused_all_the_same(cpu_target: Target, tmp_path: Path) -> None:
    """What own-biases is for: without it each activation is a kernel by itself."""
    g, rng = GraphBuilder(), np.random.default_rng(0)
    weight, bias = g.const(rng.standard_normal((4, 4, 3, 3))), g.const(rng.standard_normal(4))
    frames = (g.input(name, 1, 4, 8, 8) for name in "xy")
    model = g.model(*(g.Relu(g.Conv(x, weight, bias, pads=[1] * 4)) for x in frames))
    passes = BACKEND.legalize(cpu_target, Precision.FP32)

    def kernels(name: str, count: int) -> list[str]:
        legal, _ = apply(model, passes[:count])
        artifact = BACKEND.compile(legal, cpu_target, ONE_THREAD, tmp_path / name)
        core = shared_core()
        engine = core.read_model(tmp_path / name / artifact.files["engine"])
        compiled = core.compile_model(engine, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
        return sorted(fact["layerType"].astype(str) for fact in facts)

    assert passes[-1].name == "own-biases", "passes after it would merge the copies"
    assert "Subgraph" not in (fused := kernels("own", len(passes)))
    assert fused.count("Convolution") == 2
    assert "Subgraph" in kernels("shared", len(passes) - 1)


STOPPED = """
import signal, sys
import onnx_ir as ir
from superlower.backends.base import BuildOptions
from superlower.backends.openvino import OpenVino
from superlower.targets.catalog import target
from pathlib import Path

folder, openvino = Path(sys.argv[1]), OpenVino()
artifact = openvino.compile(ir.load(folder / "model.onnx"), target("cpu"), BuildOptions(threads=1), folder)
first, second = openvino.load(artifact, folder), openvino.load(artifact, folder)
first.close()
del first
second.close()
del second
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_is_handled_after_engines_have_gone(warp_step_model: ir.Model, tmp_path: Path) -> None:
    """On processors with AMX it ended the process, where each engine had an openvino.Core of its own."""
    ir.save(warp_step_model, tmp_path / "model.onnx")
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED, tmp_path], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr
