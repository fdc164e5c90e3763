"""Coverage of an SDK that refuses and crashes: one bad node costs one answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.backends.base import NodeSupport, Support
from superlower.backends.tensorrt.probes import CRASHED, JOURNAL, Answer, Journal, Question, ask_coverage
from superlower.errors import BuildFailedError
from superlower.ir import IR_VERSION, OPSET
from superlower.targets.base import Precision, Target


def _chain(operators: Sequence[str]) -> ir.Model:
    """x -> operators, one after another, each of another shape's worth of name; all (1, 4)."""
    names = ["x", *(f"v{i}" for i in range(len(operators)))]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], name=f"{op}.{i}") for i, op in enumerate(operators)
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", OPSET)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION))


@pytest.fixture
def question(targets: dict[int, Target], monkeypatch: pytest.MonkeyPatch) -> Question:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return Question(
        backend="superlower.backends.tensorrt.rtx:TensorRtRtx",
        sdk="crashing_sdk",
        target=targets[86],
        precision=Precision.FP32,
        capability="",
    )


@pytest.fixture(autouse=True)
def _logs_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_model_the_sdk_takes_is_native(question: Question, tmp_path: Path) -> None:
    found = ask_coverage(_chain(["Relu", "Exp"]), question, tmp_path, title="it", timeout_s=60)
    assert found == [
        NodeSupport("Relu.0", "Relu", Support.NATIVE),
        NodeSupport("Exp.1", "Exp", Support.NATIVE),
    ]


def test_every_refused_node_is_found_though_the_parser_stops_at_the_first(
    question: Question, tmp_path: Path
) -> None:
    model = _chain(["Sinh", "Relu", "Sinh"])
    found = ask_coverage(model, question, tmp_path, title="it", timeout_s=60)
    assert [n.support for n in found] == [Support.UNSUPPORTED, Support.NATIVE, Support.UNSUPPORTED]
    assert found[0].detail == "refused by the parser's check"


def test_a_crash_costs_one_answer(question: Question, tmp_path: Path) -> None:
    model = _chain(["Relu", "Erf", "Sinh", "Exp"])
    found = ask_coverage(model, question, tmp_path, title="it", timeout_s=60)
    refused = {n.op: n.detail for n in found if n.support is Support.UNSUPPORTED}
    assert refused == {"Erf": CRASHED, "Sinh": "refused by the parser's check"}
    # Asked: the whole (crash), Relu, Erf (crash), Sinh, Exp; no question twice.
    lines = (tmp_path / JOURNAL).read_bytes().splitlines()
    assert (len(lines), len(Journal(tmp_path / JOURNAL).known)) == (8, 5)


def test_an_sdk_that_cannot_be_imported_is_not_asked_again(question: Question, tmp_path: Path) -> None:
    import msgspec

    absent = msgspec.structs.replace(question, sdk="no_such_sdk")
    with pytest.raises(BuildFailedError, match="No module named 'no_such_sdk'"):
        ask_coverage(_chain(["Relu"]), absent, tmp_path, title="it", timeout_s=60)


def test_a_pending_question_reads_as_a_crash(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(Answer(digest="a", pending=True))
    journal.write(Answer(digest="a", refused=None))
    journal.write(Answer(digest="b", pending=True))
    assert Journal(tmp_path / "j").known == {"a": None, "b": CRASHED}
