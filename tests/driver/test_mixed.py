"""Types searched on small recurrent models: what is offered, built, saved, checked, recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.check.bisect import bisect
from superlower.check.crosscheck import check_variant
from superlower.driver.building import Job
from superlower.driver.calibrate import CALIBRATION_FRAMES, calibration_footage
from superlower.driver.compile import compile_bundle
from superlower.driver.export import golden_for
from superlower.driver.mixed import Mixer
from superlower.driver.precisions import FP16_MARGIN, guarded_values, overflows, served
from superlower.driver.quantization import Calibration, Material
from superlower.errors import BadInputError
from superlower.ir import infer_shapes, load
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from superlower.targets.detect import Cpu, cpu_target, describe
from support.clips import save_folder
from support.command import superlower
from support.models import recurrent, save_program

FP32, FP16, BF16, INT8, MIXED = (
    Precision.FP32,
    Precision.FP16,
    Precision.BF16,
    Precision.INT8,
    Precision.MIXED,
)
LOOSE = 0.5, 0.5, 0.5
AMX = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"})


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ground truth of the small models: 32x32."""
    return save_folder(tmp_path / "clip", CALIBRATION_FRAMES, 32, 32)


def mixer(model: TemporalModel, clip: Path, budgets: tuple[float, float, float] = LOOSE) -> Mixer:
    held = Calibration(calibration_footage(clip, model.program.frame), *budgets)
    feeds = {name: [] for name in model.graphs}
    return Mixer(Material(model, feeds, held, golden_for(model, None, None), BuildOptions(threads=1)))


@pytest.mark.parametrize(
    ("name", "where", "wanted"),
    [
        ("onnxruntime", "cpu", {INT8, FP32}),
        ("openvino", "cpu", {INT8, BF16, FP32}),
        ("tensorrt", "v100", {FP16, FP32}),
        ("tensorrt-rtx", "t4", {FP16, FP32}),
        ("tensorrt-rtx", "rtx3090", {INT8, FP16, BF16, FP32}),
        ("onnxruntime", "v100", {FP16, FP32}),
    ],
)
def test_what_is_offered_is_what_kernels_compute_in(name: str, where: str, wanted: set[Precision]) -> None:
    amx = describe(Cpu("x86_64", "Xeon", 2, AMX, 0))
    found = served(backend(name), amx if where == "cpu" else target(where))
    assert set(found.precisions) == wanted
    assert all(found.refused[p] for p in {INT8, FP16, BF16, FP32} - wanted)


def test_a_plain_cpu_mixes_no_half_types() -> None:
    plain = describe(Cpu("x86_64", "old", 2, frozenset({"avx2"}), 0))
    found = served(backend("openvino"), plain)
    assert found.precisions == (INT8, FP32)
    assert "no faster than fp32" in found.refused[BF16]


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_bundle_holds_typed_graphs_and_how_they_came_about(name: str, tmp_path: Path, clip: Path) -> None:
    model = recurrent()
    golden = golden_for(model, None, None)
    held = Calibration(calibration_footage(clip, model.program.frame), *LOOSE)
    job = Job(backend(name), target("cpu"), MIXED)
    if len(served(job.backend, job.target).precisions) < 2:
        pytest.skip(f"this processor runs nothing faster than fp32 in {name}")
    options = BuildOptions(threads=1)
    bundle = compile_bundle(model, [job], golden, tmp_path / "b", options=options, calibration=held).bundle
    (variant,) = bundle.manifest.variants
    record = variant.types
    assert record is not None
    assert (record.timed, record.frames, record.measured_on) == ("measured", 8, name)
    assert len(record.curve_db) == 8
    assert record.quality.db == pytest.approx(np.mean(record.curve_db), abs=1e-4)
    assert {"mixed", "fp32"} <= record.ms.keys()
    assert record.trials[-1].within or any(trial.within for trial in record.trials)
    fewest = sum(g.nodes for g in record.groups if g.precision is INT8)
    assert len(record.kept) == sum(group.nodes for group in record.groups) - fewest
    file = bundle.folder / "variants" / variant.name / "step" / variant.engines["step"].files["typed"]
    onnx.checker.check_model(onnx.load(file))
    kinds = [node.op_type for node in load(file).graph]
    lower = {g.precision for g in record.groups} - {FP32}
    assert ("QuantizeLinear" in kinds) == (INT8 in lower)
    found = check_variant(Bundle.open(tmp_path / "b"), variant, golden)
    assert found.passed
    assert found.floor_db == pytest.approx(record.golden_db - 6.02, abs=0.01)
    with pytest.raises(BadInputError, match="is of mixed types: every node"):
        bisect(bundle, variant, golden)


def test_a_gpu_that_is_not_here_is_estimated_and_its_types_are_rounded(clip: Path) -> None:
    sdk = backend("tensorrt-rtx")
    if sdk.missing() is None and sdk.runnable(target("rtx3090")) is None:
        pytest.skip("an RTX 3090 is here: times are measured")
    mixed = mixer(recurrent(), clip).mixed_for(sdk, target("rtx3090"))
    record = mixed.record
    assert (record.timed, record.measured_on) == ("estimated", "onnxruntime (rounded in fp32)")
    assert (record.activations, record.ms) == ("int8", {})
    assert all(group.saved_ms["int8"] > group.saved_ms["fp16"] > 0 for group in record.groups)
    v100 = mixer(recurrent(), clip).mixed_for(backend("onnxruntime"), target("v100")).record
    assert {group.precision for group in v100.groups} == {FP16}
    assert {"int8", "bf16"} <= v100.refused.keys()
    assert v100.quality.db != 0


def test_what_fp16_does_not_hold_stays_fp32_and_is_named(clip: Path) -> None:
    model = recurrent()
    # As large as fp16 holds, and no room for another clip's contrast.
    graph = infer_shapes(model.graphs["step"])
    weight = graph.graph.initializers["middle.weight"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 3e4, name="middle.weight")
    loud = model.with_graphs({"step": graph})
    mixed = mixer(loud, clip, (50.0, 250.0, 50.0)).mixed_for(backend("onnxruntime"), target("v100"))
    assert any("middle: fp32: it" in line and "beyond fp16's 65504" in line for line in mixed.record.kept)
    assert "middle" not in mixed.types["step"]
    assert sum(group.held for group in mixed.record.groups) >= 1


def test_the_guard_looks_at_what_is_read_made_and_multiplied() -> None:
    model = recurrent()
    values = guarded_values(model)["step"]
    nodes = {"step": ("first", "middle", "last")}
    largest = 65504 / FP16_MARGIN
    calm = dict.fromkeys(values, (-1.0, 1.0))
    assert overflows(model, nodes, {"step": calm}) == {}
    assert set(overflows(model, nodes, {"step": {**calm, "middle": (-1.01 * largest, 0.0)}})) == {
        ("step", "middle")
    }
    loud = {**calm, "tanh": (0.0, 1.01 * largest)}
    assert ("step", "last") in overflows(model, nodes, {"step": loud})
    tensor = model.graphs["step"].graph.initializers["middle.weight"].const_value
    assert tensor is not None
    weight = float(np.abs(tensor.numpy()).max())
    products = {**calm, "lrelu": (0.0, 1.01 * largest / weight)}
    told = overflows(model, nodes, {"step": products})["step", "middle"]
    assert told.startswith("multiplies to" if weight > 1.01 else "reads")


def test_nothing_to_mix(clip: Path) -> None:
    plain = describe(Cpu("x86_64", "old", 2, frozenset({"avx"}), 0))
    with pytest.raises(BadInputError, match="openvino has nothing to mix for cpu: int8: old"):
        mixer(recurrent(), clip).mixed_for(backend("openvino"), plain)


def test_on_the_command_line(tmp_path: Path, clip: Path) -> None:
    program = save_program(recurrent(), tmp_path / "program")
    asked = ("compile", program, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime", "-p", "mixed")
    outcome = superlower(*asked)
    assert outcome.code == 2
    assert "--precision mixed is calibrated on video" in outcome.verdict
    budgets = ("--budget-db", "0.5", "--budget-flicker", "0.5", "--budget-tof", "0.5")
    outcome = superlower(*asked, "--calibrate", clip, *budgets)
    if Precision.INT8 not in cpu_target().precisions:
        assert outcome.code == 2
        assert "onnxruntime has nothing to mix for cpu: int8: " in outcome.verdict
        pytest.skip("this CPU runs int8 no faster than fp32: nothing is offered to mix")
    assert outcome.code == 0, outcome.stderr
    said = " ".join(outcome.stderr.split())
    assert "onnxruntime-cpu-mixed: types found on clip" in said
    assert "not offered: fp16: ONNX Runtime's CPU computes it in fp32 between casts" in said
    assert "frame by frame" in said
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert manifest["variants"][0]["types"]["trials"]
    assert superlower("check", tmp_path / "bundle").code == 0
