"""int8 end to end on small recurrent models: calibrated, searched, built, checked, recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from superlower.backends.base import BuildOptions, quantizes_results
from superlower.backends.registry import backend
from superlower.bundle.bundle import VARIANT_FOLDER, Bundle
from superlower.check.bisect import bisect
from superlower.check.crosscheck import check_variant
from superlower.driver import quantization
from superlower.driver.building import Job
from superlower.driver.calibrate import (
    CALIBRATION_FRAMES,
    calibration_footage,
    observe,
    watched_values,
    widest,
)
from superlower.driver.compile import Compiled, Planning, compile_bundle
from superlower.driver.export import golden_for
from superlower.driver.quantization import Calibration, Material, Quantizer
from superlower.errors import BadInputError, OutputsDifferError
from superlower.ir import digest, infer_shapes
from superlower.passes._evaluate import prepare
from superlower.passes.quantize import Quantize
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.program.plan import ExecutionPlan
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target
from support.clips import picture, save_folder, save_video
from support.models import bidirectional, recurrent

INT8, FP32 = Precision.INT8, Precision.FP32
ONE = BuildOptions(threads=1)


@pytest.fixture
def on_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches are measured in ONNX Runtime, whose builds are quick."""
    monkeypatch.setattr(quantization, "_FASTEST", ("onnxruntime",))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ground truth of the small models: 32x32."""
    return save_folder(tmp_path / "clip", CALIBRATION_FRAMES, 32, 32)


def calibration(model: TemporalModel, clip: Path, budget_db: float = 0.5) -> Calibration:
    return Calibration(calibration_footage(clip, model.program.frame), budget_db)


def compiled(model: TemporalModel, output: Path, clip: Path, *asked: Job, budget_db: float = 0.5) -> Compiled:
    golden = golden_for(model, None, None)
    held = calibration(model, clip, budget_db)
    return compile_bundle(model, asked, golden, output, options=ONE, calibration=held)


def job(name: str, precision: Precision = INT8) -> Job:
    return Job(backend(name), target("cpu"), precision)


def quantized_for(model: TemporalModel, clip: Path, where: Target) -> quantization.Quantized:
    feeds = {name: [] for name in model.graphs}
    material = Material(model, feeds, calibration(model, clip), golden_for(model, None, None), ONE)
    return Quantizer(material).quantized_for(where)


@pytest.mark.parametrize("model", [recurrent, bidirectional])
def test_a_variant_says_what_runs_in_8_bits_and_what_that_costs(
    model, tmp_path: Path, clip: Path, on_onnxruntime: None
) -> None:
    bundle = compiled(model(), tmp_path / "bundle", clip, job("onnxruntime")).bundle
    (variant,) = bundle.manifest.variants
    record = variant.quantization
    assert record is not None
    assert (record.activations, record.measured_on, record.frames) == ("uint8", "onnxruntime", 8)
    assert sum(group.quantized for group in record.groups) >= 2
    left = sum(group.nodes - group.quantized for group in record.groups)
    assert len(record.kept) == left
    assert len(record.curve_db) == 8
    assert record.quality.db == pytest.approx(np.mean(record.curve_db), abs=1e-4)
    assert record.quality.db <= record.quality.budget_db == 0.5
    (passed,) = [p for p in variant.passes if p.name == "quantize"][:1]
    assert passed.budget is None
    assert passed.nodes_after["QuantizeLinear"] > 0


def test_check_holds_an_int8_engine_to_a_psnr(tmp_path: Path, clip: Path, on_onnxruntime: None) -> None:
    bundle = compiled(recurrent(), tmp_path / "bundle", clip, job("onnxruntime")).bundle
    (variant,) = bundle.manifest.variants
    golden = bundle.golden()
    found = check_variant(bundle, variant, golden)
    assert found.passed
    assert found.floor_db == variant.floor_db is not None
    assert np.mean(found.psnr_db) >= found.floor_db
    assert variant.quantization is not None
    # This very engine was measured: half of its error is what the floor leaves it.
    assert np.mean(found.psnr_db) == pytest.approx(variant.quantization.golden_db, abs=0.01)
    assert found.floor_db == pytest.approx(variant.quantization.golden_db - 6.02, abs=0.01)
    with pytest.raises(BadInputError, match="is quantized: every node of it differs"):
        bisect(bundle, variant, golden)
    # An exact engine's tolerance would fail it.
    assert check_variant(bundle, variant, golden, atol=1e-5).passed is False


def test_fp32_variants_are_the_same_bit_by_bit_with_int8_beside_them(
    tmp_path: Path, clip: Path, on_onnxruntime: None
) -> None:
    exact = job("onnxruntime", FP32)
    both = compiled(recurrent(), tmp_path / "both", clip, exact, job("onnxruntime")).bundle
    alone = compile_bundle(
        recurrent(), [exact], golden_for(recurrent(), None, None), tmp_path / "alone", options=ONE
    ).bundle

    def files(bundle: Bundle) -> dict[str, str]:
        found = bundle.manifest.files
        return {name: f.sha256 for name, f in found.items() if "fp32" in name or name.startswith("program")}

    assert files(both) == files(alone)
    assert len(files(alone)) > 2


@pytest.mark.parametrize(
    "plan",
    [
        ExecutionPlan(tail_cut=True, batch={"step_tail": 2}, in_flight=2, threads=1),
        ExecutionPlan(pixels=True),
    ],
    ids=["halves in batches", "pixels"],
)
def test_what_a_plan_builds_is_quantized_too(
    plan: ExecutionPlan, tmp_path: Path, clip: Path, on_onnxruntime: None
) -> None:
    model, output = recurrent(), tmp_path / "bundle"
    golden = golden_for(model, None, save_video(tmp_path / "in.mp4", 9, 16, 16))
    bundle = compile_bundle(
        model,
        [job("onnxruntime")],
        golden,
        output,
        options=ONE,
        calibration=calibration(model, clip),
        planning=Planning(plan),
    ).bundle
    (variant,) = bundle.manifest.variants
    assert variant.planned is not None
    assert variant.planned.plan == plan
    assert check_variant(bundle, variant, bundle.golden()).passed
    place = bundle.folder / VARIANT_FOLDER / variant.name / "plan" / "step"
    engine = place / variant.planned.engines["step"].files["engine"]
    assert b"QuantizeLinear" in engine.read_bytes()


def test_ranges_are_the_extremes_over_the_clip() -> None:
    model = recurrent()
    frames = [np.full((1, 3, 16, 16), level, np.float32) for level in (0.2, 0.9)]
    ranges = observe(model, watched_values(model), frames)
    seen: list[np.ndarray] = []
    run = prepare(model.graphs["step"])

    def call(_: str, feeds):
        outputs = run(feeds)
        seen.append(np.concatenate([feeds["x"], feeds["hidden"]], axis=1))
        return outputs

    interpret(model.program, frames, call)
    low, high = ranges["step"]["joined"]
    # Optimised or not, convolutions sum in another order: tanh is off by some 1e-6 at most.
    assert (low, high) == pytest.approx((min(a.min() for a in seen), max(a.max() for a in seen)), abs=1e-5)


def test_ranges_hold_those_of_every_clip() -> None:
    first = {"g": {"a": (-1.0, 2.0), "b": (0.0, 1.0)}}
    second = {"g": {"a": (-3.0, 1.0), "b": (0.5, 4.0)}}
    assert widest(first, second) == {"g": {"a": (-3.0, 2.0), "b": (0.0, 4.0)}}
    assert widest(first) == first


def test_nvidia_gets_signed_levels_and_onnxruntime_8_bit_results(clip: Path, on_onnxruntime: None) -> None:
    model = recurrent().with_graphs({n: infer_shapes(g) for n, g in recurrent().graphs.items()})
    for where, activations in (("cpu", "uint8"), ("rtx3090", "int8")):
        quantized = quantized_for(model, clip, target(where))
        assert quantized.record.activations == activations
        for name in ("onnxruntime", "openvino"):
            (one,) = quantized.passes_for("step", backend(name))[1]
            assert isinstance(one, Quantize)
            assert one.activations == activations
            assert one.results == (name == "onnxruntime") == quantizes_results(backend(name))


def test_quantizing_is_deterministic(clip: Path, on_onnxruntime: None) -> None:
    found = [quantized_for(recurrent(), clip, target("cpu")) for _ in range(2)]
    assert found[0].record == found[1].record
    assert found[0].ranges == found[1].ranges

    def graph(quantized: quantization.Quantized) -> ir.Model:
        model = quantized.model.graphs["step"].clone()
        (one,) = quantized.passes_for("step", backend("openvino"))[1]
        one.run(model)
        return model

    assert digest(graph(found[0])) == digest(graph(found[1]))


def test_no_budget_is_met(tmp_path: Path, clip: Path, on_onnxruntime: None) -> None:
    model = recurrent()
    held = calibration(model, clip, 1e-9)
    truth = tuple(
        np.clip(o[0].transpose(1, 2, 0) * 255, 0, 255).astype(np.uint8) for o in _outputs(model, held)
    )
    # Truth that the float model all but meets: any other output is worse.
    exact = Calibration(quantization.Footage(truth, held.footage.frames, "itself"), 1e-9)
    material = Material(model, {"step": []}, exact, golden_for(model, None, None), ONE)
    with pytest.raises(
        OutputsDifferError, match=r"nothing can be quantized within 1e-09 dB: \w+ alone costs"
    ):
        Quantizer(material).quantized_for(target("cpu"))


def _outputs(model: TemporalModel, held: Calibration) -> list[np.ndarray]:
    run = prepare(model.graphs["step"])
    return interpret(model.program, held.footage.frames, lambda _, feeds: run(feeds))


def test_int8_without_a_clip(tmp_path: Path) -> None:
    golden = golden_for(recurrent(), None, None)
    with pytest.raises(BadInputError, match="--calibrate CLIP"):
        compile_bundle(recurrent(), [job("onnxruntime")], golden, tmp_path / "bundle", options=ONE)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_openvino_and_onnxruntime_by_one_placement(tmp_path: Path, clip: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    made = compiled(recurrent(), tmp_path / "bundle", clip, job("openvino"), job("onnxruntime"))
    first, second = made.bundle.manifest.variants
    assert first.quantization == second.quantization
    assert first.quantization is not None
    assert first.quantization.measured_on == "openvino"
    for variant in (first, second):
        assert variant.measured is not None
        assert np.mean(variant.measured.psnr_db) >= (variant.floor_db or np.inf)


def test_a_clip_as_large_as_the_output_is_the_truth(clip: Path) -> None:
    footage = calibration_footage(clip, recurrent().program.frame)
    assert np.array_equal(footage.truth[3], picture(3, 32, 32))
    assert footage.frames[3].shape == (1, 3, 16, 16)


def test_a_smaller_clip_is_mirrored(tmp_path: Path) -> None:
    small = save_folder(tmp_path / "small", CALIBRATION_FRAMES, 12, 40)
    footage = calibration_footage(small, recurrent().program.frame)
    truth, source = footage.truth[2], picture(2, 12, 40)
    assert truth.shape == (32, 32, 3)
    assert np.array_equal(truth[:12], source[:, :32])
    assert np.array_equal(truth[12:24], source[::-1, :32])
    assert "mirrored to 32x32" in footage.source


@pytest.mark.parametrize("side", [32, 12])
def test_a_clip_too_short(tmp_path: Path, side: int) -> None:
    short = save_folder(tmp_path / "short", 5, side, side)
    with pytest.raises(BadInputError, match="has 5 frames, 8 are needed"):
        calibration_footage(short, recurrent().program.frame)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtx3090", "rtx4090", "rtx5090"])
def test_tensorrt_rtx_builds_int8_layers(name: str, tmp_path: Path, clip: Path, on_onnxruntime: None) -> None:
    reason = "TensorRT-RTX isn't installed: pip install 'superlower[tensorrt-rtx]'"
    pytest.importorskip("tensorrt_rtx", reason=reason)
    made = compiled(recurrent(), tmp_path / "bundle", clip, Job(backend("tensorrt-rtx"), target(name), INT8))
    (variant,) = made.bundle.manifest.variants
    assert variant.quantization is not None
    assert (variant.quantization.activations, variant.quantization.measured_on) == ("int8", "onnxruntime")
    layers = (made.bundle.folder / "variants" / variant.name / "step" / "layers.json").read_text()
    assert "int8" in layers.lower()


def test_turing_is_refused() -> None:
    reason = backend("tensorrt-rtx").serves(target("rtx2080ti"), INT8)
    assert reason is not None
    assert "on Turing quantized convolutions silently run as FP32" in reason


@pytest.mark.slow
def test_tvm_computes_the_same_graph(tmp_path: Path, clip: Path, on_onnxruntime: None) -> None:
    """In float between conversions: the levels, and so the error, are those of the engine measured."""
    if (reason := backend("tvm").missing()) is not None:
        pytest.skip(reason)
    bundle = compiled(recurrent(), tmp_path / "bundle", clip, job("onnxruntime"), job("tvm")).bundle
    exact, portable = bundle.manifest.variants
    assert (portable.backend, portable.quantization) == ("tvm", exact.quantization)
    assert portable.measured is not None
    assert portable.floor_db is not None
    assert np.mean(portable.measured.psnr_db) >= portable.floor_db
    assert any("float" in warning for warning in portable.warnings)
