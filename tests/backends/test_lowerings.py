"""What is chosen from measurements: the order they give, the nearest one, rules, and the page of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx_ir as ir
import pytest

from superlower.backends import lowerings
from superlower.backends.lowerings import RULES, Finding, Order, Trial, order_for, order_of, stored
from superlower.backends.select_lowering import SelectLowering
from superlower.passes._evaluate import evaluate
from superlower.passes.forms import CLAMP_BORDER, FORMS, GATHER_FIRST, GATHER_LAST, NATIVE
from superlower.passes.lower_deform_conv import GATHER, GRID_SAMPLE
from superlower.passes.pipelines import count
from superlower.probes.key import Key, key_of
from support.deform import Deform
from support.graphs import GraphBuilder, feeds_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEY = "GridSample-16 fp32 align_corners=0 mode=bilinear padding_mode=border rank=4"


def finding(*trials: Trial, key: str = KEY, width: int = 64, backend: str = "some") -> Finding:
    return Finding(
        backend=backend, target="cpu", key=key, size=(1, 8, 64, width), tolerance=1e-4, trials=trials
    )


def timed(form: str, ms: float, error: float = 0.0) -> Trial:
    return Trial(form=form, ms=ms, error=error)


def sampler(padding: str, mode: str = "bilinear", aligned: int = 0) -> ir.Model:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 5, 7), g.input("grid", 1, 4, 6, 2)
    return g.model(g.GridSample(x, grid, padding_mode=padding, mode=mode, align_corners=aligned))


class TestOrder:
    def test_the_fastest_right_form_comes_first(self) -> None:
        order = order_of([finding(timed(NATIVE, 10), timed(GATHER_LAST, 4), timed(GATHER_FIRST, 20))])
        assert order is not None
        assert order.forms == (GATHER_LAST, NATIVE, GATHER_FIRST)
        assert order.why == "measured 2.5 times as fast as native"

    def test_a_wrong_or_refused_form_is_never_chosen(self) -> None:
        refused = Trial(form=NATIVE, refused="no kernel")
        order = order_of([finding(refused, timed(GATHER_LAST, 1, error=2e-4), timed(GATHER_FIRST, 20))])
        assert order is not None
        assert order.forms == (GATHER_FIRST,)

    def test_right_means_at_every_size_and_fast_means_over_all(self) -> None:
        small = finding(timed(NATIVE, 1), timed(GATHER_LAST, 0.1), timed(GATHER_FIRST, 0.9))
        large = finding(
            timed(NATIVE, 100), timed(GATHER_LAST, 1, error=1.0), timed(GATHER_FIRST, 20), width=9
        )
        order = order_of([small, large])
        assert order is not None
        assert order.forms == (GATHER_FIRST, NATIVE)

    @pytest.mark.parametrize(("ms", "first"), [(8.4, NATIVE), (8.3, GATHER_LAST)])
    def test_native_stays_unless_the_gain_is_worth_it(self, ms: float, first: str) -> None:
        order = order_of([finding(timed(NATIVE, 10), timed(GATHER_LAST, ms))])
        assert order is not None
        assert order.forms[0] == first

    def test_native_stays_where_the_other_is_slower_at_any_size(self) -> None:
        small = finding(timed(NATIVE, 10), timed(GATHER_LAST, 1))
        large = finding(timed(NATIVE, 10), timed(GATHER_LAST, 11), width=9)
        order = order_of([small, large])
        assert order is not None
        assert order.forms == (NATIVE, GATHER_LAST)

    def test_nothing_timed_or_nothing_right_gives_none(self) -> None:
        assert order_of([finding(Trial(form=NATIVE), Trial(form=GATHER_LAST))]) is None
        assert order_of([finding(timed(NATIVE, 1, error=1.0))]) is None


class TestChoice:
    ORDERS = (
        Order(backend="some", target="cpu", key=KEY, forms=(CLAMP_BORDER, NATIVE), why="a"),
        Order(
            backend="some",
            target="cpu",
            key=KEY.replace("border", "zeros"),
            forms=(GATHER_LAST, NATIVE),
            why="b",
        ),
    )

    def chosen(self, model: ir.Model, backend: str = "some", kind: str = "cpu") -> tuple[str, str]:
        node = next(iter(model.graph))
        order, why = order_for(key_of(node, 19), backend, "cpu", kind, self.ORDERS)
        return order.forms[0], why

    def test_its_own_key_then_the_nearest(self) -> None:
        assert self.chosen(sampler("border")) == (CLAMP_BORDER, "a")
        assert self.chosen(sampler("zeros")) == (GATHER_LAST, "b")
        form, why = self.chosen(sampler("zeros", aligned=1))
        assert (form, why) == (GATHER_LAST, f"b ({KEY.replace('border', 'zeros')})")

    def test_rules_where_nothing_was_measured(self) -> None:
        found = {(rule.backend, rule.kind): rule.forms[0] for rule in RULES if rule.op == "DeformConv"}
        assert found["tensorrt-rtx", "nvidia-gpu"] == GRID_SAMPLE
        form, why = self.chosen(Deform().model(), "tensorrt-rtx", "nvidia-gpu")
        assert (form, why) == (GRID_SAMPLE, "by rule: its parser has no DeformConv")
        assert self.chosen(sampler("border"), "openvino", "intel-gpu")[0] == CLAMP_BORDER

    def test_else_native(self) -> None:
        assert self.chosen(Deform().model(), "unheard-of") == (NATIVE, "nothing was measured for unheard-of")


class TestPass:
    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        deform = str(key_of(next(iter(Deform(offset_group=2).model().graph)), 19))
        orders = (
            *TestChoice.ORDERS,
            Order(backend="some", target="cpu", key=deform, forms=(GRID_SAMPLE, GATHER), why="c"),
        )
        shipped = lowerings.Lowerings(machine={}, orders=orders, findings=())
        monkeypatch.setattr("superlower.backends.select_lowering.stored", lambda: shipped)

    @pytest.mark.usefixtures("measured")
    def test_each_site_says_which_form_and_why(self) -> None:
        applied = SelectLowering("some").run(sampler("border"))
        # The clamp makes it a sampler with zeros, for which gathers are the fastest.
        (site,) = applied.rewritten
        assert site.detail == "GridSample as clamp-border: a; GridSample as gather-channels-last: b"

    @pytest.mark.usefixtures("measured")
    def test_samplers_that_deformable_convolutions_become_are_chosen_for_too(self) -> None:
        case = Deform(offset_group=2)
        model, feeds = case.model(), case.feeds()
        applied = SelectLowering("some").run(model)
        assert [site.detail.partition(":")[0] for site in applied.rewritten] == [
            "DeformConv as grid-sample",
            "GridSample as gather-channels-last",
        ]
        assert abs(evaluate(model, feeds)["out0"] - case.reference(feeds)).max() <= 1e-5
        assert not SelectLowering("some").run(model).changed

    @pytest.mark.usefixtures("measured")
    def test_without_gathers_samplers_stay(self) -> None:
        model = Deform(offset_group=2).model()
        applied = SelectLowering("some", gathers=False).run(model)
        assert count(model)["GridSample"] == 1
        assert [site.detail for site in applied.kept] == [
            "GridSample kept: gather-channels-last can't be taken here"
        ]

    @pytest.mark.usefixtures("measured")
    def test_a_form_a_node_cannot_take_gives_way_to_the_next(self) -> None:
        model = sampler("border", mode="bicubic")
        feeds = feeds_of(model)
        before = evaluate(model, feeds)["out0"]
        applied = SelectLowering("some").run(model)
        assert not applied.changed
        assert [site.detail for site in applied.kept] == ["GridSample kept: clamp-border can't be taken here"]
        assert (evaluate(model, feeds)["out0"] == before).all()

    @pytest.mark.usefixtures("measured")
    def test_a_node_without_any_form_is_refused_with_the_reasons(self) -> None:
        model = Deform(offset_group=2).model()
        model.graph.inputs[0].shape = ir.Shape([1, 8, "H", 9])
        applied = SelectLowering("some").run(model)
        (site,) = applied.refused
        assert site.detail == "not as grid-sample: sizes aren't static; not as gather: sizes aren't static"


class TestStored:
    def test_orders_follow_from_the_findings(self) -> None:
        found = stored()
        assert found.findings
        by_key: dict[tuple[str, str, str], list[Finding]] = {}
        for each in found.findings:
            by_key.setdefault((each.backend, each.target, each.key), []).append(each)
        made = [order for group in by_key.values() if (order := order_of(group)) is not None]
        assert tuple(made) == found.orders

    def test_every_operator_and_runnable_backend_was_measured(self) -> None:
        measured = {(order.backend, order.key.partition("-")[0]) for order in stored().orders}
        assert measured == {(b, op) for b in ("onnxruntime", "openvino", "tvm") for op in FORMS}

    def test_keys_are_those_of_nodes(self) -> None:
        """A key whose making changed would be matched by nothing, without a word."""
        made = {
            str(key_of(next(iter(sampler(padding, mode, aligned).graph)), 19))
            for padding in ("zeros", "border", "reflection")
            for mode in ("bilinear", "nearest")
            for aligned in (0, 1)
        }
        made |= {
            str(key_of(next(iter(Deform(offset_group=groups, mask=mask).model().graph)), 19))
            for groups in (1, 2)
            for mask in (True, False)
        }
        assert {order.key for order in stored().orders} <= made

    def test_only_right_forms_are_listed(self) -> None:
        by_key = {(f.backend, f.key, f.size): f for f in stored().findings}
        for order in stored().orders:
            for (backend, key, _), found in by_key.items():
                if (backend, key) == (order.backend, order.key):
                    errors = {trial.form: trial.error for trial in found.trials if not trial.refused}
                    assert all((errors[form] or 0.0) <= found.tolerance for form in order.forms)

    def test_the_page_is_the_measurements(self) -> None:
        spec = importlib.util.spec_from_file_location("generate_lowerings", DOCS / "generate_lowerings.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        written = (DOCS / "lowerings.md").read_text("utf-8")
        assert written == module.page(), "run: python docs/generate_lowerings.py"


def test_keys_of_a_reduced_type_are_next_to_those_of_fp32() -> None:
    half = Key(
        "GridSample", 16, "fp16", ("align_corners=0", "mode=bilinear", "padding_mode=border", "rank=4")
    )
    order, _ = order_for(half, "some", "cpu", "cpu", TestChoice.ORDERS)
    assert order.key == KEY
