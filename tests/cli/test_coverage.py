"""The coverage verb: what it prints, writes and returns, with SDKs and from tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from superlower.backends import tables
from superlower.backends.onnxruntime import OnnxRuntime
from superlower.probes.cases import cases
from superlower.probes.tables import read
from superlower.targets.catalog import target, targets
from support.command import Outcome, superlower
from support.models import save_upscaler
from support.report import Page

ORT = ("-b", "onnxruntime", "-t", "cpu")


@pytest.fixture
def deform(tmp_path: Path) -> Path:
    """An upscaler with a deformable convolution and an operator of nobody's."""
    model = onnx.load(save_upscaler(tmp_path / "deform.onnx"))
    graph = model.graph
    shape = [1, 4, 16, 16]
    offset = helper.make_tensor("offset", TensorProto.FLOAT, [1, 18, 16, 16], [0.25] * (18 * 256))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4, 3, 3], [0.1] * 144)
    graph.initializer.extend([offset, weight])
    index = next(i for i, node in enumerate(graph.node) if "tanh" in node.input)
    aligned = helper.make_node(
        "DeformConv", ["tanh", "w", "offset"], ["aligned"], name="align", kernel_shape=[3, 3], pads=[1] * 4
    )
    graph.node.insert(index, aligned)
    last = graph.node[index + 1]
    last.input[list(last.input).index("tanh")] = "aligned"
    graph.value_info.append(helper.make_tensor_value_info("aligned", TensorProto.FLOAT, shape))
    onnx.save(model, tmp_path / "deform.onnx")
    return tmp_path / "deform.onnx"


def served(outcome: Outcome) -> set[tuple[str, str, str]]:
    return {(n["op"], n["support"], n["detail"]) for n in outcome.json["nodes"]}


class TestMatrix:
    def test_every_target_and_backend_has_a_cell(self, lone: Path) -> None:
        outcome = superlower("coverage", lone, *ORT[:2], "--json")
        assert outcome.code == 0, outcome.stderr
        cells = outcome.json["cells"]
        assert [c["target"] for c in cells] == [t.name for t in targets()]
        (cpu,) = (c for c in cells if c["target"] == "cpu")
        nodes = [n for n in outcome.json["nodes"] if n["target"] == "cpu"]
        assert cpu["verdict"] == "all native"
        assert (cpu["native"], cpu["unsupported"], cpu["unserved"]) == (len(nodes), 0, None)
        (gpu,) = (c for c in cells if c["target"] == "intel-gpu")
        assert (gpu["verdict"], gpu["native"]) == ("not served", 0)
        assert "onnxruntime" in gpu["unserved"].lower().replace(" ", "")

    def test_all_precisions(self, lone: Path) -> None:
        outcome = superlower("coverage", lone, *ORT, "-p", "all", "--json")
        found = {c["precision"]: c["verdict"] for c in outcome.json["cells"]}
        assert found.keys() == {"fp32", "fp16", "bf16", "int8", "fp8"}
        assert found["bf16"] == "not served"
        assert re.fullmatch(r"\d+ fallback", found["fp16"])
        assert outcome.code == 0, "not being served isn't being unsupported"

    def test_what_people_see(self, lone: Path) -> None:
        shown = superlower("coverage", lone, *ORT, "-t", "rtx3090", "-b", "tensorrt-rtx").stderr
        assert re.search(r"cpu\s*│ all native\s*│ -", shown)
        assert re.search(r"rtx3090\s*│ all native\s*│ all native", shown)
        assert "tensorrt-rtx doesn't serve cpu:" in shown
        assert len(shown.splitlines()) < 40

    def test_groups_name_a_few_nodes_and_count_the_rest(self, lone: Path) -> None:
        shown = superlower("coverage", lone, *ORT, "-p", "fp16").stderr.replace("\n", " ")
        assert re.search(
            r"onnxruntime fp16 cpu: 3 Conv, 1 DepthToSpace, 1 LeakyRelu, 1 Tanh fallback \(.*?\), at\s+up",
            shown,
        )


class TestUnsupported:
    def test_exit_code_and_first_reason(self, tmp_path: Path) -> None:
        model = onnx.load(save_upscaler(tmp_path / "x.onnx"))
        (node,) = (n for n in model.graph.node if n.op_type == "Tanh")
        node.op_type, node.domain = "Swoosh", "ai.example"
        model.opset_import.append(helper.make_opsetid("ai.example", 1))
        model.graph.value_info.append(
            helper.make_tensor_value_info("tanh", TensorProto.FLOAT, [1, 4, 16, 16])
        )
        onnx.save(model, tmp_path / "x.onnx")
        for extra in ((), ("--from-tables",)):
            outcome = superlower("coverage", tmp_path / "x.onnx", *ORT, *extra, "--json")
            assert outcome.code == 3
            assert "ai.example::Swoosh 'tanh' of graph upscale by onnxruntime on cpu" in outcome.error
            (cell,) = outcome.json["cells"]
            assert cell["verdict"] == "1 unsupported"
        assert "ai.example::Swoosh was never probed" in outcome.error

    @pytest.mark.parametrize("extra", [(), ("--from-tables",)])
    def test_deformable_convolution_is_rewritten_where_it_must_be(
        self, deform: Path, extra: tuple[str, ...]
    ) -> None:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX isn't installed")
        outcome = superlower("coverage", deform, "-b", "tensorrt-rtx", "-t", "rtx3090", *extra, "--json")
        assert outcome.code == 0, outcome.stderr
        (found,) = (n for n in outcome.json["nodes"] if n["op"] == "DeformConv")
        assert found["support"] == "rewritten"
        assert "lower" in found["detail"]


class TestTables:
    def test_answers_say_which_table(self, lone: Path) -> None:
        outcome = superlower("coverage", lone, *ORT, "--from-tables", "--json")
        assert outcome.code == 0, outcome.stderr
        title = tables.table_for("onnxruntime", target("cpu")).title
        for node in outcome.json["nodes"]:
            assert node["source"].startswith(f"table: {title}, cpu")
        assert superlower("coverage", lone, *ORT, "--json").json["nodes"][0]["source"] == ""

    def test_refreshed_ones_come_first(
        self, lone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A catalogue of two cases: what they don't hold is no longer covered."""
        few = [next(case for case in cases() if case.op == op) for op in ("Conv", "Tanh")]
        monkeypatch.setattr("superlower.cli.coverage.cases", lambda: tuple(few))
        folder = tmp_path / "tables"
        outcome = superlower("coverage", "--refresh-tables", "--tables", folder, *ORT[:2], "--json")
        assert outcome.code == 0, outcome.stderr
        (written,) = outcome.json["tables"]
        assert written["path"] == str(folder / "onnxruntime-cpu.json")
        assert sum(written["verdicts"].values()) == len(few)
        table = read(folder / "onnxruntime-cpu.json")
        assert [r.case for r in table.results] == [c.name for c in few]
        assert table.sdk.keys() == {"onnxruntime"}
        arguments = ("coverage", lone, *ORT, "--from-tables", "--tables", folder, "--json")
        outcome = superlower(*arguments)
        assert outcome.code == 3
        bad = {n["op"]: n["detail"] for n in outcome.json["nodes"] if n["support"] == "unsupported"}
        assert bad.keys() == {"LeakyRelu", "DepthToSpace"}
        assert bad["LeakyRelu"] == "LeakyRelu was never probed"

    def test_a_folder_that_can_not_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        outcome = superlower("coverage", "--refresh-tables", "--tables", tmp_path / "file", *ORT[:2])
        assert outcome.code == 2
        assert "can't write probe tables" in outcome.error

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (None, "no probe tables in .*tables: --refresh-tables --tables .* writes some"),
            ("{bad", "onnxruntime-cpu.json is no probe table of format 1: JSON is malformed"),
        ],
    )
    def test_a_folder_without_tables_that_can_be_read(
        self, text: str | None, reason: str, lone: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "tables"
        if text is not None:
            folder.mkdir()
            (folder / "onnxruntime-cpu.json").write_text(text)
        outcome = superlower("coverage", lone, *ORT, "--tables", folder)
        assert outcome.code == 2
        assert re.search(reason, outcome.error)

    def test_nothing_that_could_be_probed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(OnnxRuntime, "missing", lambda self: "it isn't installed: pip install it")
        outcome = superlower("coverage", "--refresh-tables", "--tables", tmp_path, *ORT[:2], "--json")
        assert outcome.code == 6
        assert outcome.error == "nothing could be probed: it isn't installed: pip install it"
        assert outcome.json["tables"][0]["path"] is None

    def test_neither_a_model_nor_tables_to_make(self) -> None:
        outcome = superlower("coverage")
        assert outcome.code == 2
        assert outcome.error == "give a program folder or an .onnx file, or --refresh-tables"


def test_the_page_is_whole_and_loads_nothing(lone: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "coverage.html"
    outcome = superlower("coverage", lone, *ORT, "-t", "rtx3090", "-p", "fp16", "--html", path)
    assert outcome.code == 0, outcome.stderr
    text = path.read_text()
    page = Page(text)
    assert [s["id"] for s in page.all("section")] == ["matrix", "operators", "reasons", "sources"]
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?://", text)
    assert "no fp16 kernel on the CPU" in page.text
    assert "upscaler" in page.text


def test_a_page_that_can_not_be_written_is_said_before_anything_is_asked(
    lone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superlower.cli.coverage.survey", lambda *_: pytest.fail("asked all the same"))
    (tmp_path / "file").touch()
    for page, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "page.html", "File exists")):
        outcome = superlower("coverage", lone, *ORT, "--html", page)
        assert outcome.code == 2
        assert outcome.error.startswith(f"can't write {page}: {reason}")


def test_a_graph_that_makes_no_frame_can_be_asked_about(tmp_path: Path) -> None:
    """A step of a recurrent model, say, of which nobody has written a program yet."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 9]) for name in "xhy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "h"], ["y"], name="add")], "g", values[:2], values[2:]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9),
        tmp_path / "step.onnx",
    )
    outcome = superlower("coverage", tmp_path / "step.onnx", *ORT, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["model"] == "step"
    assert [(n["op"], n["support"]) for n in outcome.json["nodes"]] == [("Add", "native")]


def test_json_is_one_document(lone: Path) -> None:
    assert json.loads(superlower("coverage", lone, *ORT, "--json").stdout).keys() == {
        "model",
        "cells",
        "nodes",
        "unserved",
    }
