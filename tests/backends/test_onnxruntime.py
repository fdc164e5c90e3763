"""ONNX Runtime, the reference: against onnx's own evaluator, and in how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Support
from superlower.backends.onnxruntime import OnnxRuntime
from superlower.backends.sdk import version
from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.ir import load, serialize
from superlower.targets.base import Precision, Target

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("private_cache", "own_processes")

Arrays = Mapping[str, NDArray[np.float32]]
ONE_THREAD = BuildOptions(threads=1, timeout_s=120)
BACKEND = OnnxRuntime()

# Rounding by 2^-24 of values up to 8, of random sign, over sums of at most 99 products in 8 layers one after
# the other: sqrt(99 * 8) * 8 * 2^-24 = 1.4e-5; seven times that for the tail of 50,000 outputs.
FP32_ROUNDING = 1e-4


def text(body: str, inputs: str = "float[1,4,8,8] x", outputs: str = "float[1,4,8,8] y") -> ir.Model:
    opsets = '<ir_version: 10, opset_import: ["": 19, "my": 1]>'
    return ir.from_onnx_text(f"{opsets} g ({inputs}) => ({outputs}) {{ {body} }}")


def test_agrees_with_the_reference_evaluator(
    make_warp_step: Callable[..., ir.Model],
    make_warp_step_inputs: Callable[..., Arrays],
    cpu_target: Target,
    tmp_path: Path,
) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model, feeds = make_warp_step(10, 12), make_warp_step_inputs(10, 12)
    artifact = BACKEND.compile(model, cpu_target, ONE_THREAD, tmp_path)
    session = BACKEND.load(artifact, tmp_path)
    outputs = session.run(feeds)
    session.close()
    names = ["hidden_out", "output"]
    for node in model.graph:
        if node.op_type == "GridSample":  # The evaluator knows bilinear by its name of opset 20 only.
            node.attributes["mode"] = ir.AttrString("mode", "linear")
    expected = ReferenceEvaluator(onnx.load_from_string(serialize(model))).run(names, dict(feeds))
    assert list(outputs) == names
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=FP32_ROUNDING)


def test_artifact_tells_what_was_built(warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path) -> None:
    options = replace(ONE_THREAD, settings={"session.set_denormal_as_zero": "1"})
    artifact = BACKEND.compile(warp_step_model, cpu_target, options, tmp_path / "new")
    assert artifact.files == {"engine": "model.onnx"}
    assert artifact.sdk == {"onnxruntime": version("onnxruntime")}
    assert (artifact.backend, artifact.target, artifact.threads) == ("onnxruntime", "test-cpu", 1)
    assert artifact.settings == {"session.set_denormal_as_zero": "1"}
    assert 0 < artifact.build_s < 120
    assert serialize(load(tmp_path / "new" / "model.onnx")) == serialize(warp_step_model)
    assert msgspec.json.decode(msgspec.json.encode(artifact), type=type(artifact)) == artifact


def test_runs_repeat_bit_for_bit_and_outputs_are_the_callers(
    warp_step_model: ir.Model,
    warp_step_feeds: Arrays,
    make_warp_step_inputs: Callable[..., Arrays],
    cpu_target: Target,
    tmp_path: Path,
) -> None:
    session = BACKEND.load(BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path), tmp_path)
    first = session.run(warp_step_feeds)
    kept = {name: array.copy() for name, array in first.items()}
    others = [session.submit(make_warp_step_inputs(seed=seed)) for seed in range(5, 9)]
    again = session.submit(warp_step_feeds).result(60)
    assert all(not np.array_equal(other.result(60)["output"], kept["output"]) for other in others)
    session.close()
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)
        np.testing.assert_array_equal(again[name], array)
    first["output"][:] = 0  # Writable: it is the caller's.


def test_wrong_feeds_are_refused(
    warp_step_model: ir.Model, warp_step_feeds: Arrays, cpu_target: Target, tmp_path: Path
) -> None:
    session = BACKEND.load(BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path), tmp_path)
    with pytest.raises(BadInputError, match=r"'flow' takes float32 \[1, 2, 32, 32\], not float64"):
        session.run({**warp_step_feeds, "flow": warp_step_feeds["flow"].astype(np.float64)})
    session.close()


def test_covers_all_of_the_warp_step(warp_step_model: ir.Model, cpu_target: Target) -> None:
    found = BACKEND.coverage(warp_step_model, cpu_target, Precision.FP32)
    assert {node.support for node in found} == {Support.NATIVE}
    assert len(found) == len(warp_step_model.graph)


def test_every_unknown_operator_is_found(cpu_target: Target) -> None:
    model = text("a = Relu(x) b = my.Frob(a) c = my.Nicate(x) y = Neg(a)")
    found = BACKEND.coverage(model, cpu_target, Precision.FP32)
    refused = {node.op: node.detail for node in found if node.support is Support.UNSUPPORTED}
    assert refused.keys() == {"my::Frob", "my::Nicate"}
    assert "my:Frob(-1) is not a registered function/op" in refused["my::Frob"]
    assert [node.support for node in found if not node.op.startswith("my")] == [Support.NATIVE] * 2


def test_an_operator_without_a_kernel_is_found(cpu_target: Target) -> None:
    # ONNX allows doubles here; ONNX Runtime has no such kernel, and puts in no casts as for fp16.
    model = text(
        "y = Conv<pads = [1,1,1,1]>(x, w)", "double[1,4,8,8] x, double[4,4,3,3] w", "double[1,4,8,8] y"
    )
    [node] = BACKEND.coverage(model, cpu_target, Precision.FP32)
    assert node.support is Support.UNSUPPORTED
    assert "Could not find an implementation for Conv" in node.detail


def test_a_misspelt_mode_is_rewritten_and_then_runs(cpu_target: Target, tmp_path: Path) -> None:
    model = text(
        """y = GridSample<mode = "linear", align_corners = 1>(x, g)""",
        "float[1,4,8,8] x, float[1,8,8,2] g",
    )
    [node] = BACKEND.coverage(model, cpu_target, Precision.FP32)
    assert (node.support, node.detail) == (Support.REWRITTEN, "guard-grid-sample")
    for each in BACKEND.legalize(cpu_target, Precision.FP32):
        each.run(model)
    artifact = BACKEND.compile(model, cpu_target, ONE_THREAD, tmp_path)
    session = BACKEND.load(artifact, tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    rows, columns = np.mgrid[-1:1:8j, -1:1:8j].astype(np.float32)
    outputs = session.run({"x": x, "g": np.stack([columns, rows], axis=-1)[None]})
    session.close()
    # The identity grid, each coordinate off by at most 2^-24 * 8 pixels between values up to 5 apart.
    np.testing.assert_allclose(outputs["y"], x, rtol=0, atol=2**-24 * 8 * 2 * 5 * 2)


def test_fp16_convolutions_fall_back_to_fp32(cpu_target: Target) -> None:
    model = text(
        "a = Conv<pads = [1,1,1,1]>(x, w) b = Cast<to = 1>(a) y = Relu(b)",
        "float16[1,4,8,8] x, float16[4,4,3,3] w",
    )
    found = BACKEND.coverage(model, cpu_target, Precision.FP32)
    assert [(node.op, node.support) for node in found] == [
        ("Conv", Support.FALLBACK),
        ("Cast", Support.NATIVE),
        ("Relu", Support.NATIVE),
    ]
    assert "no fp16 kernel" in found[0].detail


def test_fp16_is_typed_with_its_grid_in_fp32(
    warp_step_model: ir.Model, warp_step_feeds: Arrays, cpu_target: Target, tmp_path: Path
) -> None:
    found = BACKEND.coverage(warp_step_model, cpu_target, Precision.FP16)
    support = {node.node: node.support for node in found}
    assert all(support[node.node] is Support.FALLBACK for node in found if node.op == "Conv")
    assert support["warp.centre"] is support["warp.sample"] is Support.NATIVE
    outputs = {}
    for precision in (Precision.FP32, Precision.FP16):
        for each in BACKEND.legalize(cpu_target, precision):
            each.run(warp_step_model)
        options, folder = replace(ONE_THREAD, precision=precision), tmp_path / precision
        artifact = BACKEND.compile(warp_step_model, cpu_target, options, folder)
        session = BACKEND.load(artifact, folder)
        outputs[precision] = session.run(warp_step_feeds)
        session.close()
    for name, array in outputs[Precision.FP32].items():
        error = np.abs(outputs[Precision.FP16][name] - array)
        # Inputs, weights and results are rounded by 2^-12 of themselves in each of 8 layers, at random:
        # sqrt(3 * 8) * 2^-12 = 0.12 % of the size of the values.
        assert 0 < np.sqrt(np.mean(error**2)) < 0.0012 * np.sqrt(np.mean(array**2))


def test_compiling_an_unknown_operator_names_it(cpu_target: Target, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedOperatorError, match=r"doesn't cover my::Frob at node 'a': .*not a registered"
    ):
        BACKEND.compile(text("a = my.Frob(x) y = Relu(x)"), cpu_target, ONE_THREAD, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replace(ONE_THREAD, settings={"enable_mem_patern": "0"}), "did you mean enable_mem_pattern"),
        (replace(ONE_THREAD, precision=Precision.BF16), "no bf16 kernels: use fp32"),
        (replace(ONE_THREAD, stateful=(("hidden_out", "hidden"),)), "keeps no hidden states"),
    ],
)
def test_options_it_does_not_take(
    options: BuildOptions, message: str, warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=message):
        BACKEND.compile(warp_step_model, cpu_target, options, tmp_path)


def test_a_switch_off_is_off(
    warp_step_model: ir.Model, warp_step_feeds: Arrays, cpu_target: Target, tmp_path: Path
) -> None:
    options = replace(ONE_THREAD, settings={"enable_cpu_mem_arena": "false"})
    artifact = BACKEND.compile(warp_step_model, cpu_target, options, tmp_path)
    session = BACKEND.load(artifact, tmp_path)
    assert session.run(warp_step_feeds)["output"].shape == (1, 3, 128, 128)
    session.close()


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_file_that_is_no_engine(
    content: bytes | None, warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path
) -> None:
    artifact = BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path)
    (tmp_path / "model.onnx").unlink()
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BadInputError, match=r"model.onnx.*compile it again") as caught:
        BACKEND.load(artifact, tmp_path)
    assert "\n" not in str(caught.value)


def test_another_backends_engine_is_refused(
    warp_step_model: ir.Model, cpu_target: Target, tmp_path: Path
) -> None:
    artifact = BACKEND.compile(warp_step_model, cpu_target, ONE_THREAD, tmp_path)
    with pytest.raises(BadInputError, match="built by tvm, not by onnxruntime"):
        BACKEND.load(msgspec.structs.replace(artifact, backend="tvm"), tmp_path)


def test_other_targets_are_told_why_not(cpu_target: Target) -> None:
    intel = msgspec.structs.replace(cpu_target, name="arc", kind="intel-gpu")
    assert "CPUs and NVIDIA GPUs only" in str(BACKEND.serves(intel, Precision.FP32))
    assert "CPUs and NVIDIA GPUs only" in str(BACKEND.runnable(intel))
    assert BACKEND.serves(cpu_target, Precision.FP32) is None
    assert BACKEND.runnable(cpu_target) is None
    unlisted = msgspec.structs.replace(cpu_target, backends={})
    assert "doesn't list onnxruntime" in str(BACKEND.serves(unlisted, Precision.FP32))
    unserved = msgspec.structs.replace(cpu_target, unserved={"onnxruntime": "too old"})
    assert BACKEND.serves(unserved, Precision.FP32) == "too old"
