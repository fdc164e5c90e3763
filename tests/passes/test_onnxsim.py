"""onnxsim in a process of its own: what it did is told, and its failures leave the graph alone."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx_ir as ir
import pytest

from superlower.errors import MissingSdkError
from superlower.passes import onnxsim as module
from superlower.passes.onnxsim import OnnxSimplify
from support.graphs import GraphBuilder, outcome

needs_onnxsim = pytest.mark.skipif(
    importlib.util.find_spec("onnxsim") is None, reason="onnxsim isn't installed"
)


def normalised_convolution() -> ir.Model:
    rng = np.random.default_rng(0)
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    conv = g.Conv(x, g.const(rng.standard_normal((4, 3, 3, 3)) * 0.2))
    norm = g.BatchNormalization(conv, *(g.const(rng.random(4) + 0.5) for _ in range(4)))
    return g.model(g.Relu(norm))


@needs_onnxsim
def test_folds_a_normalisation() -> None:
    result = outcome(normalised_convolution(), OnnxSimplify())
    assert result.ops == {"Conv": 1, "Relu": 1}
    assert result.moved() <= OnnxSimplify().budget.relative * float(np.abs(result.before["out0"]).max())


@needs_onnxsim
def test_a_failure_refuses_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCRIPT", "import os; os.abort()")
    model = normalised_convolution()
    applied = OnnxSimplify().run(model)
    assert not applied.changed
    assert applied.refused[0].detail.startswith("onnxsim failed: exit status -")
    assert len(list(model.graph)) == 3


@needs_onnxsim
def test_a_time_limit_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCRIPT", "import time; time.sleep(60)")
    applied = OnnxSimplify(timeout_s=0.3).run(normalised_convolution())
    assert applied.refused[0].detail == "onnxsim ran past 0.3 s"


def test_missing_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert OnnxSimplify().missing() == "onnxsim isn't installed: pip install 'superlower[onnxsim]'"
    with pytest.raises(MissingSdkError, match="pip install"):
        OnnxSimplify().run(normalised_convolution())
