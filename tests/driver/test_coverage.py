"""A survey: every cell answered, whatever happens to a backend's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from superlower.backends import tables
from superlower.backends.base import NodeSupport, Support
from superlower.backends.registry import backend
from superlower.driver.coverage import Cell, survey
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.models import recurrent
from support.unsteady import Unsteady, case

FP32, FP16 = Precision.FP32, Precision.FP16


@pytest.fixture(autouse=True)
def children_find_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Seen:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.steps: list[str] = []

    def stage(self, title: str, total: int | None = None) -> None:
        self.totals[title] = total

    def advance(self, note: str = "") -> None:
        self.steps.append(note)


def test_cells_come_in_order_and_progress_is_told() -> None:
    graphs = recurrent().graphs
    seen = Seen()
    places = [target("cpu"), target("intel-gpu")]
    cells = survey(graphs, [Unsteady(), backend("onnxruntime")], places, [FP32], seen)
    assert [(c.backend, c.target, c.verdict) for c in cells] == [
        ("unsteady", "cpu", "all native"),
        ("unsteady", "intel-gpu", "not served"),
        ("onnxruntime", "cpu", "all native"),
        ("onnxruntime", "intel-gpu", "not served"),
    ]
    assert cells[1].unserved == "it knows CPUs only"
    assert [len(nodes) for nodes in cells[2].graphs.values()] == [len(g.graph) for g in graphs.values()]
    assert seen.totals == {"cleaning up": 1, "asking": 2}
    assert sorted(seen.steps) == ["onnxruntime on cpu", "step", "unsteady on cpu"]


def test_a_question_that_kills_the_process_is_asked_apart() -> None:
    graphs = {"g": case("Exp").model(), "h": case("Sin").model()}
    (cell,) = survey(graphs, [Unsteady()], [target("cpu")], [FP32])
    assert cell.verdict == "1 unsupported"
    assert [n.support for n in cell.graphs["g"]] == [Support.NATIVE]
    assert [n.detail for n in cell.graphs["h"]] == ["no sines"]


def test_one_that_kills_it_again_costs_no_other() -> None:
    graphs = {"g": case("Abs").model()}
    dead, alive = survey(graphs, [Unsteady()], [target("cpu")], [FP16, FP32])
    assert (dead.verdict, dead.unasked) == ("not asked", "the SDK crashes when asked")
    assert alive.verdict == "all native"


def test_a_process_that_can_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unsteady, "__module__", "no_such_module")
    (cell,) = survey({"g": case("Abs").model()}, [Unsteady()], [target("cpu")], [FP32])
    assert cell.verdict == "not asked"
    assert "no_such_module" in (cell.unasked or "")


def test_a_backend_without_sdk_and_table_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unsteady, "missing", lambda _: "pip install unsteady")
    (cell,) = survey({"g": case("Abs").model()}, [Unsteady()], [target("cpu")], [FP32])
    assert (cell.verdict, cell.unasked) == ("not asked", "pip install unsteady")


def test_an_sdk_absent_here_is_absent_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = backend("onnxruntime")
    monkeypatch.setattr(type(sdk), "missing", lambda _: "hidden")
    (cell,) = survey(recurrent().graphs, [sdk], [target("cpu")], [FP32])
    table = tables.table_for("onnxruntime", target("cpu"))
    assert table is not None
    assert {n.source.partition(",")[0] for n in cell.graphs["step"]} == {"table: probed"}


def test_the_clean_up_can_be_left_out() -> None:
    graphs = {"g": case("Abs").model()}
    for clean in (True, False):
        (cell,) = survey(graphs, [Unsteady()], [target("cpu")], [FP32], clean=clean)
        assert [n.op for n in cell.graphs["g"]] == ["Abs"]


def test_the_worst_is_what_a_cell_says() -> None:
    def cell(*supports: Support) -> str:
        nodes = [NodeSupport(str(i), "Op", support) for i, support in enumerate(supports)]
        return Cell("b", "t", FP32, graphs={"g": nodes}).verdict

    native, rewritten, fallback, unsupported = Support
    assert cell(native, native) == "all native"
    assert cell(native, rewritten, rewritten) == "2 rewritten"
    assert cell(rewritten, fallback) == "1 fallback"
    assert cell(fallback, unsupported, rewritten, unsupported) == "2 unsupported"
