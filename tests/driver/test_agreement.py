"""Coverage means what it says: tables, SDKs and builds held against each other, probe by probe.

Three answers of a backend about each single-operator model: coverage from the stored table, coverage from the
SDK that is here, and the model legalized, compiled and, where it can be, run and held to float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from superlower.backends import tables
from superlower.backends.base import Backend, Support
from superlower.backends.registry import backend
from superlower.driver.coverage import survey
from superlower.driver.probe import run_probes
from superlower.probes.case import Case
from superlower.probes.cases import cases
from superlower.probes.tables import Table, Verdict
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

PAIRS = (
    ("onnxruntime", "cpu"),
    ("openvino", "cpu"),
    ("tensorrt-rtx", "t4"),
    ("tvm", "cpu"),
    ("tensorrt-rtx", "rtx3090"),
    ("tensorrt-rtx", "rtx5090"),
)

QUICK = 3
"""Of these the quick suite takes the first: TensorRT-RTX for its odd architecture alone, and TVM, whose
processes take the longest to start, not at all."""

SLOW_BUILDS = frozenset({"openvino", "tensorrt-rtx", "tvm"})
"""A tenth of a second to half of one a build: the quick suite takes only what VSR graphs are made of."""

VSR = ("GridSample", "Resize", "DeformConv", "DepthToSpace", "ConvTranspose", "PRelu", "AveragePool", "Conv")


@dataclass(frozen=True)
class Answers:
    """Whether one case is served, by whom it is asked; `alone` if no other case shares its key."""

    case: str
    table: bool
    sdk: bool
    built: Verdict
    alone: bool

    @property
    def served(self) -> bool:
        """Whether the build came to something right, or to what can't be run here."""
        return self.built in (Verdict.RIGHT, Verdict.BUILT)


def answers(sdk: Backend, where: Target, table: Table, chosen: Sequence[Case]) -> list[Answers]:
    """The three answers for each case, each kind by one process."""
    models = {f"g{index}": case.model() for index, case in enumerate(chosen)}
    (cell,) = survey(models, [sdk], [where], [Precision.FP32], clean=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tables.FORCED, "1")
        (told,) = survey(models, [sdk], [where], [Precision.FP32], clean=False)
    assert cell.unasked is None
    assert told.unasked is None
    built = run_probes(sdk, where, chosen, legalize=True).results
    keys = [result.key for result in table.results if not (result.large or result.corner)]
    found = []
    for name, case, result in zip(models, chosen, built, strict=True):
        assert all(node.source.startswith("table: ") for node in told.graphs[name])
        by_table = all(node.support is not Support.UNSUPPORTED for node in told.graphs[name])
        by_sdk = all(node.support is not Support.UNSUPPORTED for node in cell.graphs[name])
        alone = keys.count(str(case.key())) < 2
        found.append(Answers(case.name, by_table, by_sdk, result.verdict, alone))
    return found


def hold(found: Sequence[Answers]) -> None:
    """All three agree; where probes of one key differ, the table must be on the careful side."""
    promised = [a for a in found if (a.table or a.sdk) and not a.served]
    assert promised == [], "coverage promises what a build doesn't keep"
    timid = [a for a in found if a.served and not (a.table and a.sdk) and a.alone]
    assert timid == [], "coverage refuses what a build serves"


def ready(name: str, where: str) -> tuple[Backend, Target, Table]:
    sdk, on = backend(name), target(where)
    if (reason := sdk.missing()) is not None:
        pytest.skip(reason)
    table = tables.table_for(name, on)
    assert table is not None
    if dict(table.sdk) != sdk.versions():
        pytest.skip(f"the stored table is of {table.title}; here is {sdk.versions()}")
    return sdk, on, table


def probed(table: Table) -> list[Case]:
    """Cases that the table answers by; the others are apart in it too."""
    known = {result.case for result in table.results}
    return [case for case in cases() if not (case.large or case.corner) and case.name in known]


@pytest.mark.parametrize(("name", "where"), PAIRS[:QUICK])
def test_a_case_of_each_operator(name: str, where: str) -> None:
    sdk, on, table = ready(name, where)
    chosen: dict[str, Case] = {}
    for case in probed(table):
        if name not in SLOW_BUILDS or case.op in VSR:
            chosen.setdefault(case.op, case)
    assert chosen.keys() >= {"GridSample", "Resize", "DeformConv"}
    hold(answers(sdk, on, table, list(chosen.values())))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "where"), PAIRS)
def test_every_case(name: str, where: str) -> None:
    sdk, on, table = ready(name, where)
    chosen = probed(table)
    assert len(chosen) > 1000
    hold(answers(sdk, on, table, chosen))


def test_a_table_that_promises_too_much_is_found() -> None:
    """The comparison itself: each way of disagreeing fails it."""
    good = Answers("a", True, True, Verdict.RIGHT, alone=True)
    hold([good, Answers("b", False, False, Verdict.WRONG, alone=True)])
    hold([Answers("c", False, False, Verdict.RIGHT, alone=False)])
    for bad in (
        Answers("d", True, False, Verdict.REFUSED, alone=True),
        Answers("e", False, True, Verdict.WRONG, alone=False),
        Answers("f", True, True, Verdict.CRASHED, alone=True),
        Answers("g", False, True, Verdict.BUILT, alone=True),
    ):
        with pytest.raises(AssertionError, match="coverage"):
            hold([good, bad])
