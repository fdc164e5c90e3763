"""From a real bundle, compiled here with ONNX Runtime, to the report's data."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from superlower.backends.base import BuildOptions
from superlower.bundle.golden import GoldenClip, moving_texture
from superlower.check.crosscheck import check_variant
from superlower.driver.compile import Failure, compile_bundle, plan_jobs
from superlower.errors import BuildFailedError
from superlower.media.resize import imresize, to_uint8
from superlower.report import gather
from superlower.report.html import render
from superlower.targets.base import Precision
from superlower.targets.detect import cpu_target
from support.report import Page

FRAMES = 4


def golden_of(model) -> GoldenClip:
    frames = moving_texture(model.program.frame, FRAMES)
    hidden, outputs = np.zeros_like(frames[0]), []
    for x in frames:
        hidden = np.tanh(x + np.float32(0.25) * hidden)
        wide = np.concatenate([hidden] * 4, 1)
        # DepthToSpace in its default order: the block's offsets are the slowest part of the channels.
        shuffled = wide.reshape(1, 2, 2, 3, 8, 12).transpose(0, 3, 4, 1, 5, 2).reshape(1, 3, 16, 24)
        outputs.append(np.ascontiguousarray(shuffled))
    return GoldenClip(tuple(frames), tuple(outputs), "made up", "NumPy")


@pytest.fixture
def bundle(recurrent, tmp_path):
    model = recurrent()
    jobs = plan_jobs([cpu_target()], [Precision.FP32], ["onnxruntime"])
    return compile_bundle(
        model, jobs, golden_of(model), tmp_path / "bundle", options=BuildOptions(threads=1)
    ).bundle


def test_model_facts(recurrent):
    facts = gather.model_facts(recurrent(), FRAMES)
    assert facts["Frame"] == "12×8 to 24×16, rgb, range 0 to 1"  # noqa: RUF001
    # One weight of 3 x 8 x 12 floats; so is the hidden state.
    assert facts["Weights and constants"] == "288 values, 1.15 kB"
    assert facts["Hidden states"] == "hidden (forward, 1.15 kB)"
    assert facts["Latency"] == "none: causal"
    assert facts["Graphs"] == "step; 1 call in the program"
    assert facts["Peak stream memory"].endswith(f"for {FRAMES} frames, host states")


def test_a_bundle_becomes_a_page(bundle):
    golden = bundle.golden()
    checks = [check_variant(bundle, v, golden) for v in bundle.manifest.variants]
    report = gather.bundle_report(
        bundle, checks, failures=[Failure("tvm-cpu-fp32", BuildFailedError("the build ran out of time"))]
    )
    page = Page(render(report))
    assert "1 of 1" in page.text
    assert "the build ran out of time" in page.text
    assert bundle.manifest.variants[0].tolerance_reason in page.text
    assert cpu_target().title in page.text
    for name, version in bundle.manifest.versions.items():
        assert f"{name} {version}" in page.text
    for record in bundle.manifest.passes:
        assert record.name in page.text
    assert repr(max(checks[0].max_abs)) in page.numbers()


def test_engine_bytes_are_those_of_the_files_on_disk(bundle):
    (variant,) = bundle.manifest.variants
    (row,) = gather.engine_rows(bundle)
    folder = bundle.folder / "variants" / variant.name / "step"
    artifact = variant.engines["step"]
    assert row.bytes == sum(
        (folder / name).stat().st_size
        for role, name in artifact.files.items()
        if role not in {"log", "layers"}
    )
    assert row.bytes > 0
    assert (row.backend, row.graph, row.note) == ("onnxruntime", "step", "")


def test_pictures_are_bicubic_and_output_to_the_bit():
    rng = np.random.default_rng(3)
    low, output = (rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((6, 10), (24, 40)))
    pictures = gather.before_after(low, output, after="a model")
    before, after = (np.array(Image.open(io.BytesIO(png))) for png in (pictures.before, pictures.after))
    assert np.array_equal(before, to_uint8(imresize(low, 4)))
    assert np.array_equal(after, output)
    assert pictures.size == (40, 24)
