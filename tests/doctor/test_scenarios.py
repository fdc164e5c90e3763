"""Every rule acts on a build it is about; without it that build goes wrong, in the SDK itself where it is."""

from __future__ import annotations

import importlib

import onnx_ir as ir
import pytest

from superlower.backends.registry import backend
from superlower.doctor.examine import Findings, examine, unserved
from superlower.doctor.rules import Action, Rule, rules
from superlower.ir import infer_shapes
from superlower.passes.pipelines import apply
from support.scenarios import any as onnx_itself
from support.scenarios import apache, intel, nvidia
from support.scenarios.base import MEASURED, Scenario

SCENARIOS = {s.rule: s for m in (onnx_itself, intel, nvidia, apache) for s in m.SCENARIOS}
ASKS_TVM = True
WITHOUT = [s for s in SCENARIOS.values() if s.without is not None]
REWRITES = [s for s in SCENARIOS.values() if s.action is Action.REWRITE]


def name(scenario: Scenario) -> str:
    return scenario.rule


def others(scenario: Scenario) -> list[Rule]:
    """All rules but the scenario's."""
    return [rule for rule in rules() if rule.id != scenario.rule]


def consequences(found: Findings) -> dict[Action, object]:
    """What a build is subject to."""
    refusals = [finding.rule.id for finding in found.acting(Action.REFUSE)]
    return {
        Action.REFUSE: refusals,
        Action.REWRITE: found.passes(),
        Action.SET: found.settings(),
        Action.WARN: found.warnings(),
        Action.AVOID: [finding.rule.id for finding in found.acting(Action.AVOID)],
    }


def test_every_rule_has_a_scenario_and_no_scenario_is_left_over() -> None:
    assert [rule.id for rule in rules() if rule.id not in SCENARIOS] == []
    assert SCENARIOS.keys() == {rule.id for rule in rules()}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=name)
def test_the_rule_acts_and_nothing_else_does_its_work(scenario: Scenario) -> None:
    model = scenario.model()
    found = examine(rules(), scenario.context, model)
    assert scenario.rule in found
    (finding,) = (f for f in found.found if f.rule.id == scenario.rule)
    assert finding.action is scenario.action
    rest = examine(others(scenario), scenario.context, model)
    assert scenario.rule not in rest
    assert consequences(found)[scenario.action] != consequences(rest)[scenario.action]
    if scenario.action is Action.REFUSE:
        assert found.refusal() is not None
        assert (finding.nodes == ()) == (finding.rule.graph_free or finding.rule.id == "invalid-graph")
        if finding.rule.graph_free:
            assert unserved(rules(), scenario.context) is not None
            assert unserved(others(scenario), scenario.context) is None


@pytest.mark.parametrize("scenario", WITHOUT, ids=name)
def test_without_it_the_sdk_goes_wrong(scenario: Scenario) -> None:
    pytest.importorskip(scenario.needs, reason=f"{scenario.needs} isn't installed")
    assert scenario.without is not None
    installed = backend(scenario.backend).versions()
    measured = MEASURED[scenario.backend]
    try:
        scenario.without(scenario.model())
    except (AssertionError, pytest.fail.Exception):
        if installed == measured:
            raise
        pytest.skip(f"measured with {measured}; {installed} doesn't show it any more")


@pytest.mark.parametrize("scenario", REWRITES, ids=name)
def test_what_is_rewritten_is_right(scenario: Scenario) -> None:
    assert scenario.mended is not None, "a rewrite shows that its outcome is right"
    if scenario.needs:
        pytest.importorskip(scenario.needs, reason=f"{scenario.needs} isn't installed")
    found = examine(rules(), scenario.context, scenario.model())
    treated, _ = apply(infer_shapes(scenario.model()), found.passes())
    left = examine(rules(), scenario.context, treated)
    assert scenario.rule not in left
    assert left.after_passes().refusal() is None
    scenario.mended(treated)


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS.values() if s.without is None], ids=name)
def test_what_is_not_run_says_why(scenario: Scenario) -> None:
    assert scenario.unproven


@pytest.mark.parametrize("rule", [r for r in rules() if r.where], ids=lambda rule: rule.id)
def test_what_avoids_a_bug_is_there(rule: Rule) -> None:
    module, _, function = rule.where.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("rule", [r for r in rules() if r.passes], ids=lambda rule: rule.id)
def test_the_passes_prescribed_can_be_made(rule: Rule) -> None:
    for use in rule.passes:
        assert isinstance(use.make(), ir.passes.InPlacePass)
