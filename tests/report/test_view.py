"""Grouping, counting and ordering behind the tables."""

from __future__ import annotations

from math import inf, isnan, nan

import pytest

from superlower.backends.base import NodeSupport, Support
from superlower.report import view
from superlower.report.data import CoverageTable, EngineRow, Report, Timing
from support.report import record, variant_check


def nodes(op: str, count: int, support: Support = Support.NATIVE, detail: str = "") -> list[NodeSupport]:
    return [NodeSupport(f"{op}_{i}", op, support, detail) for i in range(count)]


class TestCoverage:
    def test_graphs_of_one_backend_are_counted_together_and_others_apart(self):
        found = view.coverage(
            [
                CoverageTable("tvm", "cpu", "fp32", "flow", nodes("Conv", 3)),
                CoverageTable("tvm", "cpu", "fp32", "step", nodes("Conv", 4)),
                CoverageTable("tvm", "cpu", "fp16", "step", nodes("Conv", 5)),
            ]
        )
        assert [(c.precision, c.total) for c in found.columns] == [("fp32", 7), ("fp16", 5)]
        (conv,) = found.operators
        assert [cell[Support.NATIVE] for cell in conv.cells] == [7, 5]

    def test_operators_served_worst_come_first_then_the_most_frequent(self):
        found = view.coverage(
            [
                CoverageTable("a", "cpu", "fp32", "g", nodes("Relu", 2) + nodes("Conv", 9)),
                CoverageTable(
                    "b",
                    "cpu",
                    "fp32",
                    "g",
                    nodes("Resize", 1, Support.FALLBACK, "slow")
                    + nodes("DeformConv", 1, Support.UNSUPPORTED, "no plug-ins")
                    + nodes("GridSample", 4, Support.REWRITTEN, "lower-grid-sample"),
                ),
            ]
        )
        assert [o.name for o in found.operators] == ["DeformConv", "Resize", "GridSample", "Conv", "Relu"]
        assert [r.support for r in found.reasons] == [
            Support.UNSUPPORTED,
            Support.FALLBACK,
            Support.REWRITTEN,
        ]

    def test_an_operator_in_part_unsupported_keeps_both_counts_and_both_reasons(self):
        mixed = nodes("Resize", 3) + nodes("Resize", 9, Support.UNSUPPORTED, "mode")
        found = view.coverage([CoverageTable("b", "cpu", "fp32", "g", mixed)])
        assert found.operators[0].cells[0] == {Support.NATIVE: 3, Support.UNSUPPORTED: 9}
        (reason,) = found.reasons
        assert (reason.count, len(reason.nodes) + reason.more) == (9, 9)
        assert found.columns[0].share(Support.UNSUPPORTED) == pytest.approx(75)

    def test_remarks_on_native_nodes_are_said_once(self):
        said = nodes("Conv", 3, Support.NATIVE, "from a table") + nodes("Relu", 1)
        (column,) = view.coverage([CoverageTable("b", "cpu", "fp32", "g", said)]).columns
        assert column.remarks == ("from a table",)

    def test_a_graph_without_nodes_has_a_share_of_nothing(self):
        (column,) = view.coverage([CoverageTable("b", "cpu", "fp32", "g", [])]).columns
        assert (column.total, column.share(Support.NATIVE)) == (0, 0.0)


class TestPasses:
    def test_counts_run_from_the_first_pass_to_the_last(self):
        (stage,) = view.stages(
            {
                "every variant": [
                    record("a", nodes_before={"Mul": 9}, nodes_after={"Mul": 5}, rewritten=("m: x",)),
                    record("b", nodes_before={"Mul": 5}, nodes_after={"Mul": 5}),
                    record("c", nodes_before={"Mul": 5}, nodes_after={"Mul": 2}, rewritten=("m: y",)),
                    record(
                        "a", graph="flow", nodes_before={"Add": 4}, nodes_after={"Add": 4}, refused=("n: z",)
                    ),
                ],
                "tvm": [],
            }
        )
        step, flow = stage.graphs
        assert (step.before, step.after, step.idle) == (9, 2, ("b",))
        assert [row.record.name for row in step.rows] == ["a", "c"]
        assert (flow.before, flow.after, stage.refused) == (4, 4, 1)

    def test_changes_are_named_by_operator_largest_first(self):
        before = {"Gather": 20, "Mul": 3, "Conv": 5}
        after = {"Mul": 4, "Conv": 5, "Cast": 2}
        ((graph,),) = (
            s.graphs
            for s in view.stages(
                {"x": [record("a", nodes_before=before, nodes_after=after, rewritten=("n: d",))]}
            )
        )
        assert graph.rows[0].changes == "Gather −20, Cast +2, Mul +1"  # noqa: RUF001

    def test_many_changes_are_cut_short_and_counted(self):
        before = {f"Op{i}": i + 1 for i in range(8)}
        (stage,) = view.stages({"x": [record("a", nodes_before=before, nodes_after={}, rewritten=("n: d",))]})
        assert stage.graphs[0].rows[0].changes.endswith(", 3 more")


class TestChecks:
    def test_not_a_number_is_worse_than_any_error(self):
        assert view.worst((1.0, 3.0, 2.0)) == 3.0
        assert view.worst((1.0, inf)) == inf
        assert isnan(view.worst((inf, nan)))
        assert view.worst(()) is None

    def test_lowest_psnr_counts_frames_that_differ(self):
        assert view.lowest_psnr(variant_check(psnr_db=(inf, 40.0, 50.0))) == 40.0
        assert view.lowest_psnr(variant_check(psnr_db=(inf, inf))) == inf
        assert view.lowest_psnr(variant_check(psnr_db=(50.0, -inf))) == -inf
        assert isnan(view.lowest_psnr(variant_check(psnr_db=(40.0, nan))))

    def test_a_variant_that_failed_its_check_is_not_counted_as_unbuilt(self):
        report = Report(
            title="t",
            model="m",
            machine="here",
            checks=[
                variant_check(),
                variant_check("tvm-cpu-fp32", passed=False),
                variant_check("rtx-ada-fp16", passed=None, max_abs=(), psnr_db=(), skipped="no GPU"),
            ],
            failures={"tvm-cpu-fp32": "left its tolerance", "openvino-cpu-int8": "did not build"},
        )
        assert view.verdicts(report) == view.Verdicts(passed=1, failed=1, skipped=1, unbuilt=1)


class TestEngines:
    def test_known_facts_get_columns_and_the_rest_words(self):
        facts = {
            "layers": 88,
            "half_layers": 79,
            "float_layers": 9,
            "weights_bytes": 4,
            "scratch_bytes": 2500,
            "sm": 89,
        }
        row = EngineRow("rtx", "ada", "fp16", "step", 10, facts=facts, note="not run here")
        other = EngineRow("rtx", "ada", "fp16", "flow", 5, note="not run here")
        (group,) = view.engines([row, other])
        step, flow = group.lines
        assert (step.layers, step.types, step.weights_bytes, step.activation_bytes) == (
            88,
            "79 half, 9 float",
            4,
            None,
        )
        assert step.others == ("scratch 2.50 kB", "sm 89")
        assert (flow.layers, flow.types, flow.others) == (None, "", ())
        assert (group.bytes, group.note) == (15, "not run here")


class TestBars:
    def test_the_longest_is_full_and_the_rest_in_proportion(self):
        timings = [Timing("a", 10.0, 1.0), Timing("b", 5.0, 2.0), Timing("c", 1.0, inf), Timing("d", 1.0)]
        assert [view.bar(t, timings) for t in timings] == [50.0, 100.0, None, None]

    def test_the_fastest_is_a_variant_though_slower_than_pytorch(self):
        eager, tvm, skipped = Timing("PyTorch eager", 10.0, 1.0), Timing("tvm", 20.0, 0.5), Timing("x", 1.0)
        assert view.fastest([eager, Timing("slow", 99.0, 0.1), tvm, skipped, Timing("y", nan, nan)]) is tvm
        assert view.fastest([eager, skipped]) is None

    @pytest.mark.parametrize("ratio", [None, nan, inf, -1.0, 0.0])
    def test_what_has_no_length_has_no_bar(self, ratio):
        assert view.bar(Timing("a", 1.0, ratio), [Timing("a", 1.0, ratio)]) is None


def test_a_curve_of_losses_spans_its_values_and_nought() -> None:
    points, nought = view.curve((0.0, 0.02, -0.02))
    assert points == "0.0,20.0 120.0,0.0 240.0,40.0"
    assert nought == 20.0
    assert view.curve((0.0, 0.0))[1] == 0.0
