"""A graph on its way to a build: prescribed passes run, are validated, accounted for; the rest is refused."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest

from superlower.doctor.examine import Context
from superlower.doctor.rules import parse, rules
from superlower.doctor.treat import treat
from superlower.errors import OutputsDifferError, UnsupportedOperatorError
from superlower.ir import digest
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.validate import seeded_feeds
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.scenarios.base import F16, F32, MEASURED, convolution, one, relu

CLASSIC = Context("tensorrt", MEASURED["tensorrt"], target("v100"), Precision.FP32)


def sampler() -> ir.Model:
    inputs = {"x": (F32, [1, 2, 4, 4]), "grid": (F32, [1, 4, 4, 2])}
    return one("GridSample", inputs, {"y": (F32, [1, 2, 4, 4])}, opset=20, mode="cubic")


def test_passes_run_and_are_accounted_for() -> None:
    model = sampler()
    before = digest(model)
    treated = treat(CLASSIC, model, [seeded_feeds(model, 0)])
    assert [report.name for report in treated.reports] == ["convert-opset"]
    (deviation,) = (report.deviation for report in treated.reports)
    assert deviation is not None, "validated on the feeds"
    assert deviation.relative == 0
    assert treated.model.opset_imports[""] == 19
    assert treated.warnings == ()
    assert digest(model) == before, "the caller's graph is as it was"


def test_a_graph_that_no_rule_is_about_is_handed_through() -> None:
    model = convolution()
    treated = treat(CLASSIC, model)
    assert treated.model is model
    assert (treated.reports, treated.warnings) == ((), ())


def test_without_the_rule_nothing_is_done() -> None:
    known = [rule for rule in rules() if rule.id != "grid-sample-opset-20"]
    assert treat(CLASSIC, sampler(), known=known).model.opset_imports[""] == 20


def test_a_prescribed_pass_is_held_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ConvertOpset.run

    def broken(self: ConvertOpset, model: ir.Model) -> object:
        applied = run(self, model)
        for node in model.graph:
            node.attributes["mode"] = ir.AttrString("mode", "nearest")
        return applied

    monkeypatch.setattr(ConvertOpset, "run", broken)
    model = sampler()
    with pytest.raises(OutputsDifferError, match="convert-opset"):
        treat(CLASSIC, model, [seeded_feeds(model, 0)])


def test_what_passes_leave_is_refused() -> None:
    inputs = {"x": (F32, [1, 2, 4, 4, 4]), "grid": (F32, [1, 4, 4, 4, 3])}
    volume = one("GridSample", inputs, {"y": (F32, [1, 2, 4, 4, 4])}, opset=20, mode="linear")
    with pytest.raises(UnsupportedOperatorError, match=r"GridSample at it.*\[grid-sample-opset-20\]"):
        treat(CLASSIC, volume)


def test_refusals_come_after_passes_have_had_their_chance() -> None:
    """A rewrite may take away what another rule refuses."""
    text = """
[refused]
condition = { is = "operator", ops = ["GridSample"], opset = ">=20" }
symptom = "refused"
action = "refuse"
cure = "go down"
source = "this test"
"""
    known = [*parse(text, "rules.toml"), *(rule for rule in rules() if rule.id == "grid-sample-opset-20")]
    assert treat(CLASSIC, sampler(), known=known).model.opset_imports[""] == 19


def test_warnings_name_rule_and_nodes() -> None:
    half = Context("onnxruntime", MEASURED["onnxruntime"], target("cpu"), Precision.FP16)
    (warning,) = treat(half, convolution(F16)).warnings
    assert "(Conv at it)" in warning
    assert warning.endswith("[ort-fp16-casts]")
    assert treat(replace(half, precision=Precision.FP32), relu()()).warnings == ()
