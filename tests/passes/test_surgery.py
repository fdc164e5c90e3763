from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from superlower.errors import BadInputError, OutputsDifferError
from superlower.passes.pipelines import apply, count
from superlower.passes.surgery import Surgery
from support.programs import fixed_graph

pytest.importorskip("onnx_graphsurgeon")

SCRIPT = """
import numpy as np, onnx_graphsurgeon as gs

def nothing(graph):
    pass

def double_and_halve(graph):
    output = graph.outputs[0]
    twice = gs.Variable("twice", dtype=np.float32, shape=output.shape)
    plain = gs.Variable("plain", dtype=np.float32, shape=output.shape)
    output.inputs[0].outputs = [plain]
    two, half = gs.Constant("two", np.float32([2])), gs.Constant("half", np.float32([0.5]))
    graph.nodes.append(gs.Node("Mul", "double", inputs=[plain, two], outputs=[twice]))
    graph.nodes.append(gs.Node("Mul", "halve", inputs=[twice, half], outputs=[output]))

def wrong(graph):
    for node in graph.nodes:
        if node.op == "Tanh":
            node.op = "Sigmoid"

def talk(graph):
    print("looking at", graph.name)

def leave(graph):
    raise SystemExit("usage: mine.py")

def crash(graph):
    raise KeyError("no such node")
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(SCRIPT)
    return str(tmp_path / "mine.py")


def feeds() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{f"x{i}": rng.standard_normal((1, 1, 2, 2)).astype(np.float32) for i in range(2)}]


def test_a_rewrite_is_applied_and_validated(script: str) -> None:
    model, (report,) = apply(fixed_graph("mix_2_1_0"), [Surgery(f"{script}:double_and_halve")], feeds())
    assert count(model)["Mul"] == count(fixed_graph("mix_2_1_0"))["Mul"] + 2
    assert report.applied.changed
    assert report.deviation is not None
    assert report.deviation.relative == 0


def test_a_script_that_does_nothing_changes_nothing(script: str) -> None:
    _, (report,) = apply(fixed_graph("mix_2_1_0"), [Surgery(f"{script}:nothing")], feeds())
    assert not report.applied.changed


def test_a_wrong_rewrite_is_refused(script: str) -> None:
    with pytest.raises(OutputsDifferError, match=r"pass surgery on graph .* moved output 'y0'"):
        apply(fixed_graph("mix_2_1_0"), [Surgery(f"{script}:wrong")], feeds())


def test_what_a_script_prints_is_no_data(script: str, tmp_path: Path, capsys) -> None:
    """stdout is for --json."""
    mine = Path(script)
    mine.write_text(f"print('loaded')\n{mine.read_text()}")
    apply(fixed_graph("mix_2_1_0"), [Surgery(f"{script}:talk")], feeds())
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["loaded", f"looking at {fixed_graph('mix_2_1_0').graph.name}"]


@pytest.mark.parametrize("line", ["raise ValueError('one\\ntwo')", "raise SystemExit(3)", "1 +"])
def test_a_script_that_cant_be_loaded_is_one_clear_line(line: str, script: str) -> None:
    Path(script).write_text(line)
    with pytest.raises(
        BadInputError, match=r"mine\.py:nothing': (ValueError|SystemExit|SyntaxError): "
    ) as caught:
        apply(fixed_graph("mix_2_1_0"), [Surgery(f"{script}:nothing")], feeds())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (":crash", "failed: KeyError"),
        (":leave", "failed: SystemExit: usage"),
        (":absent", "has no function absent"),
        ("", r"write file\.py:function|no such file"),
        ("x:crash", "no such file"),
    ],
)
def test_a_script_that_cant_run_is_one_clear_line(script: str, end: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        apply(fixed_graph("mix_2_1_0"), [Surgery(f"{script}{end}")], feeds())
    assert "\n" not in str(caught.value)
