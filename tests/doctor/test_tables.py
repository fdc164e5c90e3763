"""Rules and probe tables are two accounts of the same SDKs: what one finds wrong, the other tells."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest

from superlower.backends import tables
from superlower.doctor.conditions import WHOLE
from superlower.doctor.examine import Context, Finding, applies, examine
from superlower.doctor.rules import Action, rules
from superlower.ir import infer_shapes
from superlower.probes.cases import cases
from superlower.probes.tables import Verdict, read
from superlower.targets.base import Precision
from superlower.targets.catalog import target

TARGETS = {"cpu": "cpu", "sm_75": "t4", "sm_86": "rtx3090", "sm_89": "rtx4090", "sm_120": "rtx5090"}
TABLES = [
    path
    for path in sorted(tables.shipped().glob("*.json"))
    if read(path).source == "probed" and read(path).target in TARGETS
]


@cache
def models() -> dict[str, ir.Model]:
    """The probes' models, typed."""
    return {case.name: infer_shapes(case.model()) for case in cases() if not case.large}


COINCIDENCES = {"Resize/nearest-asymmetric-fractional-down/19/fp32"}
"""Right all the same: the rounded scale moves no pixel's nearest neighbour."""


@cache
def examined(path: Path) -> dict[str, tuple[Finding, ...]]:
    """Case -> rules that hold for it, with the SDK that the table is of."""
    table = read(path)
    context = Context(table.backend, table.sdk, target(TARGETS[table.target]), Precision.FP32)
    known = [rule for rule in rules() if not isinstance(rule.condition, WHOLE) and applies(rule, context)]
    found = {}
    for result in table.results:
        model = models().get(result.case)
        if model is not None:
            found[result.case] = examine(known, context, model).found
    return found


def acting(path: Path, *actions: Action) -> dict[str, list[str]]:
    """Case -> rules that act on it."""
    # What is built all the same, but not as asked, says how to allow it.
    return {
        case: [f.rule.id for f in found if f.action in actions and not f.rule.unless]
        for case, found in examined(path).items()
    }


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_no_rule_refuses_what_a_probe_found_right(path: Path) -> None:
    table = read(path)
    by_rule = acting(path, Action.REFUSE)
    assert by_rule, "no probe of the table is known"
    verdicts = {result.case: result.verdict for result in table.results}
    # Where nothing can be run, what is built is all that is known to be right.
    right = (Verdict.RIGHT,) if table.machine else (Verdict.RIGHT, Verdict.BUILT)
    false = {case: ids for case, ids in by_rule.items() if ids and verdicts[case] in right}
    assert {case for case in false if case not in COINCIDENCES} == set()


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_what_a_probe_found_wrong_meets_a_rule(path: Path) -> None:
    table = read(path)
    by_rule = acting(path, Action.REFUSE, Action.WARN, Action.REWRITE)
    wrong = {result.case for result in table.results if result.verdict is Verdict.WRONG}
    assert {case for case, ids in by_rule.items() if case in wrong and not ids} == set()
