"""Known-bugs rules on the way from a model to a bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

from superlower.backends.base import Artifact, BuildOptions
from superlower.backends.registry import backend
from superlower.doctor import treat
from superlower.doctor.rules import Rule, parse, rules
from superlower.driver.building import Job
from superlower.driver.compile import Compiled, compile_bundle
from superlower.driver.export import golden_for
from superlower.errors import UnsupportedOperatorError
from superlower.passes.base import Pass
from superlower.passes.convert_opset import ConvertOpset
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target
from support.models import recurrent
from support.wrong import Wrong


def compiled(folder: Path, job: Job, model: TemporalModel | None = None) -> Compiled:
    model = model or recurrent()
    golden = golden_for(model, None, None)
    return compile_bundle(model, [job], golden, folder / "bundle", options=BuildOptions(threads=1))


def known(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    found: Sequence[Rule] = parse(text, "rules.toml")
    monkeypatch.setattr(treat, "rules", lambda: found)


RULE = """
[tanh]
condition = { is = "operator", ops = ["Tanh"] }
symptom = "tanh is wrong"
action = "ACTION"
cure = "do without"
source = "this test"
"""


@dataclass(frozen=True)
class Later(Wrong):
    """A backend that is right, and asks for opset 20; it takes what TensorRT would misread."""

    factor: float = 1.0

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        return (ConvertOpset(20),)

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        artifact = super().compile(model, target, options, workdir)
        artifact.facts["opset"] = model.opset_imports[""]
        return artifact


def test_warnings_are_logged_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(backend("onnxruntime"), target("cpu"), Precision.FP16)
    with caplog.at_level(logging.WARNING):
        (variant,) = compiled(tmp_path, job).bundle.manifest.variants
    (warning,) = variant.warnings
    assert warning.startswith("step: its CPU provider has no fp16 kernels")
    assert "Conv at first and 2 more" in warning
    assert f"onnxruntime-cpu-fp16, {warning}" in caplog.text
    plain = Job(backend("onnxruntime"), target("cpu"), Precision.FP32)
    (variant,) = compiled(tmp_path / "plain", plain).bundle.manifest.variants
    assert variant.warnings == ()


def test_a_refused_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, RULE.replace("ACTION", "refuse"))
    job = Job(backend("onnxruntime"), target("cpu"), Precision.FP32)
    with pytest.raises(
        UnsupportedOperatorError, match=r"tanh is wrong \(Tanh at tanh\): do without \[tanh\]"
    ):
        compiled(tmp_path, job)
    assert not any(tmp_path.iterdir())


def test_prescribed_passes_run_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(Later(), target("cpu"), Precision.FP32)  # type: ignore[arg-type]
    text = """
[down]
condition = { is = "opset", range = ">=20" }
symptom = "20 is read wrongly"
action = "rewrite"
passes = [{ name = "convert-opset", options = { opset = 19 } }]
source = "this test"
"""
    known(monkeypatch, text)
    (variant,) = compiled(tmp_path, job).bundle.manifest.variants
    assert variant.engines["step"].facts["opset"] == 19
    assert [(r.name, r.options) for r in variant.passes] == [
        ("convert-opset", {"opset": "20"}),
        ("convert-opset", {"opset": "19"}),
    ]
    monkeypatch.setattr(treat, "rules", list)
    (variant,) = compiled(tmp_path / "without", job).bundle.manifest.variants
    assert variant.engines["step"].facts["opset"] == 20


def test_no_rule_of_ours_is_about_a_sound_model(tmp_path: Path) -> None:
    assert rules()
    (variant,) = compiled(tmp_path, Job(Later(), target("cpu"), Precision.FP32)).bundle.manifest.variants  # type: ignore[arg-type]
    assert variant.warnings == ()
