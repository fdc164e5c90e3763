"""onnxsim as a pass."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from superlower.errors import MissingSdkError
from superlower.ir import load, save
from superlower.passes._rules import tidy
from superlower.passes.base import Applied, Budget, Pass, Site

_SCRIPT = """
import sys, onnx, onnxsim
model, valid = onnxsim.simplify(onnx.load(sys.argv[1]), check_n=0)
if not valid:
    sys.exit("onnxsim's own check failed")
onnx.save(model, sys.argv[2])
"""


@dataclass(frozen=True)
class OnnxSimplify(Pass):
    """Run onnxsim, a general simplifier, in a process of its own.

    ::

        constant sub-graphs, Conv + BatchNormalization, ...   ->   what onnxsim makes of them

    For foreign models, before the passes of superlower: what those leave, onnxsim hardly changes. It is
    native code that may abort, so it runs in a subprocess with a time limit; if it fails, the graph is left
    as it was and the site refused, with the reason. Its own output check is off: validation is done here.

    Attributes:
        timeout_s: seconds until it is stopped.
    """

    name: ClassVar[str] = "onnxsim"
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "folding a normalisation into a convolution rounds each weight once more: 2^-24 of each product, "
        "magnified by less than 1000 over a network",
    )
    timeout_s: float = 300.0

    def missing(self) -> str | None:
        """onnxsim is an optional dependency."""
        if importlib.util.find_spec("onnxsim") is None:
            return "onnxsim isn't installed: pip install 'superlower[onnxsim]'"
        return None

    def run(self, model: ir.Model) -> Applied:
        """See the class.

        Raises:
            MissingSdkError: onnxsim isn't installed.
        """
        reason = self.missing()
        if reason is not None:
            raise MissingSdkError(reason)
        where = model.graph.name or "graph"
        with tempfile.TemporaryDirectory(prefix="superlower-onnxsim-") as folder:
            before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
            save(model, before)
            command = [sys.executable, "-c", _SCRIPT, os.fspath(before), os.fspath(after)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=self.timeout_s, check=False
                )
            except subprocess.TimeoutExpired:
                return Applied(refused=(Site(where, f"onnxsim ran past {self.timeout_s:g} s"),))
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                return Applied(refused=(Site(where, f"onnxsim failed: {last}"),))
            simplified = load(after)
        tidy(simplified)
        if _contents(simplified) == _contents(model):
            return Applied()
        nodes = len(model.graph), len(simplified.graph)
        simplified.graph.name = model.graph.name
        model.graph = simplified.graph
        return Applied((Site(where, f"{nodes[0]} nodes are now {nodes[1]}"),))


def _contents(model: ir.Model) -> tuple[object, ...]:
    """What tells two versions of a graph apart: operators and weights, but no names."""
    weights = Counter(
        (str(v.dtype), tuple(v.shape or ()), v.const_value.tobytes())
        for v in model.graph.initializers.values()
        if v.const_value is not None
    )
    nodes = [(n.domain, n.op_type, sorted(map(str, n.attributes.values()))) for n in model.graph]
    return nodes, weights
