"""Pipelines: order is checked, every pass is held to its budget, a second run changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower import plugins
from superlower.errors import BadInputError, MissingSdkError, OutputsDifferError
from superlower.ir import serialize
from superlower.passes import pipelines
from superlower.passes.base import Applied, Pass, QualityBudget, Site
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.pipelines import PassReport, apply, default_pipeline, known_passes, ordered
from superlower.passes.validate import Deviation, seeded_feeds
from support.graphs import SPELLINGS, GraphBuilder


@dataclass(frozen=True)
class Cheat(Pass):
    """Doubles a constant and claims to be exact."""

    name: ClassVar[str] = "cheat"

    def run(self, model: ir.Model) -> Applied:
        value = next(iter(model.graph.initializers.values()))
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * 2)
        return Applied((Site("all", "doubled"),))


@dataclass(frozen=True)
class Absent(Cheat):
    """Needs what isn't there."""

    name: ClassVar[str] = "absent"

    def missing(self) -> str | None:
        return "nosdk isn't installed: pip install nosdk"


def model() -> ir.Model:
    return SPELLINGS["plain"].model()


def test_reports_say_what_happened() -> None:
    seen: list[PassReport] = []
    graph = model()
    before = serialize(graph.clone())
    after, reports = apply(graph, default_pipeline(), [seeded_feeds(graph, 0)], seen.append)
    assert seen == reports
    assert serialize(graph.clone()) == before, "the caller's model is left alone"
    assert [r.name for r in reports] == [p.name for p in default_pipeline()]
    collapse = next(r for r in reports if r.name == "collapse-flow-warp")
    assert collapse.before["GridSample"] == 1
    assert collapse.after == {"Transpose": 1, "Mul": 1, "Add": 1, "GridSample": 1} == pipelines.count(after)
    assert collapse.deviation is not None
    assert 0 <= collapse.deviation.relative <= collapse.budget.relative
    assert [s.detail for s in collapse.applied.rewritten] == ["warp by flow"]


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_twice_is_once(spelling) -> None:  # type: ignore[no-untyped-def]
    graph = spelling.model()
    feeds = [seeded_feeds(graph, 0)]
    once, _ = apply(graph, default_pipeline(), feeds)
    twice, reports = apply(once, default_pipeline(), feeds)
    assert not any(r.applied.changed for r in reports)
    assert all(r.deviation == Deviation() for r in reports)
    assert serialize(once) == serialize(twice)


def test_a_pass_over_its_budget_fails_by_name() -> None:
    g = GraphBuilder()
    graph = g.model(g.Mul(g.input("x", 4), g.const(3)))
    with pytest.raises(OutputsDifferError, match="pass cheat on graph 'graph' moved output 'out0'"):
        apply(graph, [Cheat()], [{"x": np.ones(4, np.float32)}])


def test_without_feeds_nothing_is_validated() -> None:
    g = GraphBuilder()
    graph = g.model(g.Mul(g.input("x", 4), g.const(3)))
    _, (report,) = apply(graph, [Cheat()])
    assert report.deviation is None


def test_a_missing_sdk_is_said_before_anything_runs() -> None:
    with pytest.raises(MissingSdkError, match="pass absent can't run here: nosdk isn't installed"):
        apply(model(), [Absent()])


def test_order_is_checked() -> None:
    with pytest.raises(BadInputError, match="collapse-flow-warp must come after fold-constants: swap them"):
        ordered([CollapseFlowWarp(), FoldConstants()])
    assert len(ordered([FoldConstants(), CollapseFlowWarp(), FoldConstants()])) == 3
    assert len(ordered([CollapseFlowWarp()])) == 1


def test_opset_is_brought_up_and_down() -> None:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 4, 4), g.input("grid", 1, 4, 4, 2)
    graph = g.model(g.GridSample(x, g.Relu(grid), mode="bilinear"), opset=19)
    feeds = [seeded_feeds(graph, 0)]
    for opset, spelling in ((20, "linear"), (22, "linear"), (19, "bilinear")):
        graph, _ = apply(graph, default_pipeline(opset), feeds)
        assert graph.opset_imports[""] == opset
        (mode,) = (n.attributes["mode"].value for n in graph.graph if n.op_type == "GridSample")
        assert mode == spelling


@pytest.mark.parametrize(
    ("op", "attributes", "kind", "opset", "reason"),
    [
        ("Gelu", {}, TensorProto.FLOAT, 20, "Gelu at node 'it' came up after opset 19"),
        ("Relu", {}, TensorProto.FLOAT, 19, None),
        ("HardSwish", {}, TensorProto.BFLOAT16, 22, "HardSwish at node 'it' takes no BFLOAT16 at opset 19"),
        ("Identity", {}, TensorProto.INT4, 21, "Identity at node 'it' takes no INT4 at opset 19"),
        (
            "Cast",
            {"to": 1, "round_mode": "down"},
            TensorProto.FLOAT,
            24,
            "Cast at node 'it' has an",
        ),
    ],
)
def test_opset_goes_down_only_where_the_older_operator_means_the_same(
    op: str, attributes: dict[str, object], kind: int, opset: int, reason: str | None
) -> None:
    node = helper.make_node(op, ["x"], ["y"], name="it", **attributes)
    infos = [helper.make_tensor_value_info(n, kind, [1, 3, 4, 4]) for n in ("x", "y")]
    graph = helper.make_graph([node], "one", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", opset)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    applied = ConvertOpset(19).run(model)
    assert not applied.changed
    assert model.opset_imports[""] == opset
    assert [f"({reason}" in site.detail for site in applied.refused] == [True] * (reason is not None)


def test_the_documentation_has_every_pass_and_budget() -> None:
    text = (Path(__file__).parents[2] / "docs" / "passes.md").read_text()
    sections = {part.splitlines()[0]: part for part in text.split("\n## ")[1:]}
    places = {**plugins.table("pass"), **plugins.table("program pass")}
    ours = [e for e in known_passes() if places[e.name].value.startswith("superlower.")]
    assert {e.name for e in ours} == sections.keys()
    for entry in ours:
        if isinstance(entry.budget, QualityBudget):
            said = f"{entry.budget.db:g} dB"
        else:
            said = "exact" if entry.budget.relative == 0 else f"{entry.budget.relative:.2g}"
        assert f"Budget: {said}" in sections[entry.name], (entry.name, said)
        for option in entry.options:
            assert f"`{option}`" in sections[entry.name], (entry.name, option)


def test_every_installed_pass_is_listed() -> None:
    entries = {e.name: e for e in known_passes()}
    assert {p.name for p in default_pipeline()} <= entries.keys()
    fold = entries["fold-constants"]
    assert fold.summary == "Compute at compile time what depends on no input."
    assert fold.options == {"max_elements": 1 << 27}
    assert fold.missing is None
    assert entries["collapse-flow-warp"].after == ("fold-constants", "simplify-exporter-residue")
    for entry in entries.values():
        assert entry.summary.endswith("."), entry.name
        assert entry.budget.reason, entry.name
