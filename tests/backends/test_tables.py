"""Coverage from tables of probes, and SDKs' answers corrected by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
import pytest

from superlower.backends import tables
from superlower.backends.base import NodeSupport, Support
from superlower.errors import MissingSdkError
from superlower.ir import infer_shapes
from superlower.passes.base import Applied, Pass, Site
from superlower.probes.key import key_of
from superlower.probes.tables import Result, Table, Verdict, write
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

CPU = target("cpu")


def graph(body: str, functions: str = "") -> ir.Model:
    opsets = '<ir_version: 10, opset_import: ["": 19, "my": 1]>'
    text = f"{opsets} g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{ {body} }} {functions}"
    return infer_shapes(ir.from_onnx_text(text))


def key(body: str) -> str:
    """The key of a graph's first node."""
    return str(key_of(graph(body).graph[0], 19))


def result(body: str, verdict: Verdict, name: str = "case", **fields: object) -> Result:
    return Result(case=name, key=key(body), verdict=verdict, **fields)  # type: ignore[arg-type]


def table(*results: Result, where: str = "cpu", version: str = "1.0") -> Table:
    return Table(
        backend="demo",
        target=where,
        sdk={"demo": version},
        source="probed",
        superlower="0",
        machine="",
        results=results,
    )


class Demo:
    """A backend whose legalization is up to the test."""

    name, title = "demo", "Demo"

    def __init__(self, absent: str | None = None, passes: Sequence[Pass] = ()) -> None:
        self._absent, self._passes = absent, passes

    def missing(self) -> str | None:
        return self._absent

    def versions(self) -> dict[str, str]:
        return {} if self._absent else {"demo": "1.0"}

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        return self._passes


class AbsToRelu(Pass):
    """Abs becomes Relu, which is another function but another operator too."""

    name = "abs-to-relu"

    def run(self, model: ir.Model) -> Applied:
        found = [node for node in model.graph if node.op_type == "Abs"]
        for node in found:
            node.op_type = "Relu"
        return Applied(tuple(Site(node.name or "", "Relu") for node in found))


def covered(found: Table, model: ir.Model, *passes: Pass) -> list[NodeSupport]:
    return tables.from_table(Demo(passes=passes), found, model, CPU, Precision.FP32)  # type: ignore[arg-type]


SOURCE = "table: probed, demo 1.0, cpu"


def test_right_built_refused_crashed_failed_and_wrong() -> None:
    found = table(
        result("y = Abs(x)", Verdict.RIGHT),
        result("y = Neg(x)", Verdict.BUILT),
        result("y = Exp(x)", Verdict.REFUSED, detail="no rule for Exp"),
        result("y = Sin(x)", Verdict.CRASHED, detail="it aborts"),
        result("y = Cos(x)", Verdict.FAILED, detail="no memory"),
        result("y = Tan(x)", Verdict.WRONG, error=0.25, tolerance=1e-6),
        result("y = Floor(x)", Verdict.WRONG, detail="output 'y' is [1], not [2]"),
    )
    ops = ("Abs", "Neg", "Exp", "Sin", "Cos", "Tan", "Floor")
    names = ("x", "a", "b", "c", "d", "e", "f", "y")
    body = " ".join(f"{names[i + 1]} = {op}({names[i]})" for i, op in enumerate(ops))
    answers = covered(found, graph(body))
    assert [(n.op, n.support, n.detail) for n in answers] == [
        ("Abs", Support.NATIVE, ""),
        ("Neg", Support.NATIVE, ""),
        ("Exp", Support.UNSUPPORTED, "no rule for Exp"),
        ("Sin", Support.UNSUPPORTED, "it aborts"),
        ("Cos", Support.UNSUPPORTED, "it builds, and fails when run: no memory"),
        ("Tan", Support.UNSUPPORTED, "computes wrongly: error 0.25 against tolerance 1e-06"),
        ("Floor", Support.UNSUPPORTED, "computes wrongly: output 'y' is [1], not [2]"),
    ]
    assert {n.source for n in answers} == {SOURCE}


def test_another_setting_is_answered_by_the_nearest_and_says_so() -> None:
    found = table(result("y = LeakyRelu(x)", Verdict.RIGHT, "LeakyRelu/plain"))
    (node,) = covered(found, infer_shapes(_half(graph("y = LeakyRelu(x)"))))
    assert (node.support, node.source) == (Support.NATIVE, f"{SOURCE}; nearest probe: LeakyRelu/plain")


def _half(model: ir.Model) -> ir.Model:
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    return model


def test_what_was_never_probed_is_unsupported() -> None:
    found = table(result("y = Abs(x)", Verdict.RIGHT))
    nodes = covered(found, graph("a = my.Warp(x) b = Tanh(x) c = Identity(x) y = Abs(x)"))
    assert [(n.support, n.detail) for n in nodes] == [
        (Support.UNSUPPORTED, "my::Warp was never probed"),
        (Support.UNSUPPORTED, "Tanh was never probed"),
        (Support.NATIVE, ""),
        (Support.NATIVE, ""),
    ]


def test_wide_frames_do_not_answer() -> None:
    found = table(
        result("y = Abs(x)", Verdict.RIGHT),
        result("y = Abs(x)", Verdict.WRONG, "wide", error=1.0, large=True),
    )
    assert [n.support for n in covered(found, graph("y = Abs(x)"))] == [Support.NATIVE]


def test_the_worst_of_one_key_answers() -> None:
    found = table(
        result("y = Abs(x)", Verdict.RIGHT, "a"),
        result("y = Abs(x)", Verdict.WRONG, "b", error=1.0),
        result("y = Abs(x)", Verdict.BUILT, "c"),
    )
    assert covered(found, graph("y = Abs(x)"))[0].detail == "computes wrongly: error 1 against tolerance 0"


def test_legalization_mends_what_a_table_refuses() -> None:
    wrong = result("y = Abs(x)", Verdict.WRONG, error=1.0)
    mended = covered(table(wrong, result("y = Relu(x)", Verdict.RIGHT)), graph("y = Abs(x)"), AbsToRelu())
    assert [(n.support, n.detail, n.source) for n in mended] == [(Support.REWRITTEN, "abs-to-relu", SOURCE)]
    left = covered(table(wrong, result("y = Relu(x)", Verdict.REFUSED, detail="no")), graph("y = Abs(x)"))
    assert left[0].support is Support.UNSUPPORTED


def test_functions_of_the_model_are_looked_into() -> None:
    function = '<domain: "my", opset_import: ["": 19]> Warp (a) => (b) { b = Abs(a) }'
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 19, "my": 1]> g (float[1,4,8,8] x) => (float[1,4,8,8] y) '
        f"{{ y = my.Warp(x) }} {function}"
    )
    assert covered(table(result("y = Abs(x)", Verdict.RIGHT)), model)[0].support is Support.NATIVE
    refused = table(result("y = Abs(x)", Verdict.REFUSED, detail="no"))
    assert covered(refused, model)[0].support is Support.UNSUPPORTED


class TestWhichTable:
    @pytest.fixture
    def stored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        monkeypatch.setenv(tables.FOLDER, str(tmp_path))

        def store(*targets: str) -> None:
            for name in targets:
                write(table(where=name), tmp_path / tables.file_name("demo", name))

        return store

    @pytest.mark.parametrize(
        ("there", "asked", "found"),
        [
            (("cpu", "sm_86"), "cpu", "cpu"),
            (("cpu",), "rtx3090", None),
            (("sm_80", "sm_86", "sm_89"), "rtx3090", "sm_86"),
            (("sm_75", "sm_80", "sm_89"), "rtx3090", "sm_80"),
            (("sm_89", "sm_120"), "rtx3090", "sm_89"),
            (("sm_75",), "v100", "sm_75"),
            (("cuda",), "v100", "cuda"),
            (("cuda", "sm_70"), "v100", "sm_70"),
            (("sm_86",), "intel-gpu", None),
        ],
    )
    def test_the_nearest_architecture(
        self, stored: Callable[..., None], there: Sequence[str], asked: str, found: str | None
    ) -> None:
        stored(*there)
        got = tables.table_for("demo", target(asked))
        assert (got.target if got else None) == found

    def test_the_users_come_before_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = tables.table_for("onnxruntime", CPU)
        assert ours is not None
        write(table(version="9.9"), tmp_path / tables.file_name("onnxruntime", "cpu"))
        monkeypatch.setenv(tables.FOLDER, str(tmp_path))
        theirs = tables.table_for("onnxruntime", CPU)
        assert theirs is not None
        assert (ours.backend, theirs.title) == ("onnxruntime", "probed, demo 9.9")


class TestInstead:
    def test_only_where_the_sdk_is_absent_or_tables_are_asked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(tables.FOLDER, str(tmp_path))
        model = graph("y = Abs(x)")

        def answer(demo: Demo) -> list[NodeSupport] | None:
            return tables.instead(demo, model, CPU, Precision.FP32)  # type: ignore[arg-type]

        with pytest.raises(MissingSdkError, match="demo isn't installed"):
            answer(Demo("demo isn't installed"))
        write(table(result("y = Abs(x)", Verdict.RIGHT)), tmp_path / tables.file_name("demo", "cpu"))
        assert answer(Demo()) is None
        (absent,) = answer(Demo("demo isn't installed")) or []
        monkeypatch.setenv(tables.FORCED, "1")
        (forced,) = answer(Demo()) or []
        assert absent == forced == NodeSupport(forced.node, "Abs", Support.NATIVE, "", SOURCE)

    def test_limits_come_first(self) -> None:
        found = table(result("y = Abs(x)", Verdict.RIGHT))
        (node,) = tables.from_table(
            Demo(),  # type: ignore[arg-type]
            found,
            graph("y = Abs(x)"),
            CPU,
            Precision.FP32,
            limits=lambda _: "not on this card",
        )
        assert (node.support, node.detail) == (Support.UNSUPPORTED, "not on this card")


class TestHidden:
    """What an SDK takes without a word and a probe found out."""

    @pytest.mark.parametrize(
        ("verdict", "version", "refused"),
        [
            (Verdict.WRONG, "1.0", True),
            (Verdict.FAILED, "1.0", True),
            (Verdict.REFUSED, "1.0", True),
            (Verdict.REFUSED, "0.9", False),
            (Verdict.RIGHT, "1.0", False),
            (Verdict.WRONG, "0.9", False),
        ],
    )
    def test_of_this_version_only(
        self,
        verdict: Verdict,
        version: str,
        refused: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv(tables.FOLDER, str(tmp_path))
        known = table(result("y = Abs(x)", verdict, error=1.0, tolerance=0.5), version=version)
        write(known, tmp_path / tables.file_name("demo", "cpu"))
        ask = tables.known_wrong(lambda _: None, Demo(), CPU)  # type: ignore[arg-type]
        assert (ask(graph("y = Abs(x)")) is not None) is refused
        assert ask(graph("y = Abs(x)" if verdict is Verdict.RIGHT else "y = Neg(x)")) is None

    def test_what_some_probes_of_a_key_refuse_is_the_sdks_to_say(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(tables.FOLDER, str(tmp_path))
        known = table(
            result("y = Abs(x)", Verdict.REFUSED, "a", detail="no"), result("y = Abs(x)", Verdict.RIGHT, "b")
        )
        write(known, tmp_path / tables.file_name("demo", "cpu"))
        ask = tables.known_wrong(lambda _: None, Demo(), CPU)  # type: ignore[arg-type]
        assert ask(graph("y = Abs(x)")) is None

    def test_not_of_a_setting_that_is_only_near(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(tables.FOLDER, str(tmp_path))
        known = table(result("y = LeakyRelu(x)", Verdict.WRONG, error=1.0))
        write(known, tmp_path / tables.file_name("demo", "cpu"))
        ask = tables.known_wrong(lambda _: None, Demo(), CPU)  # type: ignore[arg-type]
        assert ask(graph("y = LeakyRelu(x)")) is not None
        assert ask(_half(graph("y = LeakyRelu(x)"))) is None
