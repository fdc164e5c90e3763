"""The benchmark of SkipVSR: what it makes of its laps, and how it sets a threshold."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from superlower.program.model import Frame, Program, TemporalModel

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("skipvsr")
    for name in ("skipvsr", "engines", "common"):
        sys.modules.pop(name, None)


def test_ratios_are_taken_round_by_round(script: ModuleType) -> None:
    plain = [script.Lap(4.0, 3.0, (30.0, 31.0), 1.0, 80.0), script.Lap(9.0, 3.5, (30.0, 31.0), 1.0, 80.0)]
    skipping = [
        script.Lap(2.0, 1.0, (29.5, 30.75), 0.25, 20.0),
        script.Lap(3.0, 1.75, (29.5, 30.75), 0.25, 20.0),
    ]
    row = script.summary("threshold 1", skipping, plain)
    assert row["times_as_fast_wall"] == [2.0, 3.0]
    assert row["times_as_fast_cpu"] == [3.0, 2.0]
    assert row["times_fewer_macs"] == 4.0
    assert row["lost_db_by_frame"] == [0.5, 0.25]
    assert row["lost_db"] == pytest.approx(0.375)


@pytest.mark.parametrize(("threshold", "limit"), [(0.0, -np.inf), (0.5, -1.0), (4.0, 2.0)])
def test_a_threshold_changes_the_graphs_that_choose_and_no_others(
    script: ModuleType, threshold: float, limit: float
) -> None:
    def graph(name: str) -> ir.Model:
        x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
        one = ir.Value(name=name, const_value=ir.tensor(np.array(7.0, np.float32), name=name))
        node = ir.node("Add", [x, one])
        node.outputs[0].name = "y"
        made = ir.Graph([x], node.outputs, nodes=[node], initializers=[one], opset_imports={"": 19})
        return ir.Model(made, ir_version=10)

    given = {"chooses": graph(script.LIMIT), "other": graph("bias")}
    program = Program(name="p", frame=Frame(height=8, width=8), streams={}, equations=())
    made = script.with_threshold(TemporalModel(program, given), threshold).graphs
    assert made["other"] is given["other"]
    assert made["chooses"].graph.initializers[script.LIMIT].const_value.numpy() == limit
    assert given["chooses"].graph.initializers[script.LIMIT].const_value.numpy() == 7
