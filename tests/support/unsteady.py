"""A backend for tests of probing: right, wrong, refusing, crashing or endless, as the operator has it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from superlower.backends.base import Artifact, BuildOptions, Feeds, NodeSupport, Outputs, Session, Support
from superlower.backends.probe import native
from superlower.backends.process import build_in_subprocess
from superlower.errors import UnsupportedOperatorError
from superlower.ir import load, save
from superlower.passes.base import Pass
from superlower.probes.case import Arrays, Case, Tolerance
from superlower.targets.base import Precision, Target

MEANING = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Exp": np.exp,
    "Floor": np.floor,
    "Neg": np.negative,
    "Sin": np.sin,
}
"""Of the operators in the cases below, in float64."""


@dataclass(frozen=True)
class Unsteady:
    """Abs is right, Floor one off, Neg comes short, Sin is refused, Exp crashes, Ceil never ends."""

    name: ClassVar[str] = "unsteady"
    title: ClassVar[str] = "A compiler that crashes"

    def missing(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {"unsteady": "1.0"}

    def serves(self, target: Target, precision: Precision) -> str | None:
        return None if target.kind == "cpu" else "it knows CPUs only"

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """Asks in a build's process; for fp16 the process that asks dies itself."""
        if precision is Precision.FP16:
            os.abort()
        request = {"ops": [node.op_type for node in model.graph], "asker": os.getpid()}
        with tempfile.TemporaryDirectory() as folder:
            build_in_subprocess(f"{__name__}:ask", request, Path(folder), backend=self.name, timeout_s=60)
        return [
            NodeSupport(n.node, n.op, Support.UNSUPPORTED, "no sines") if n.op == "Sin" else n
            for n in native(model)
        ]

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        return ()

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        assert options.raw
        (op,) = {node.op_type for node in model.graph}
        if op == "Sin":
            raise UnsupportedOperatorError("unsteady doesn't cover Sin at node 'it': no sines")
        if op == "Exp":
            os.abort()
        while op == "Ceil":
            time.sleep(1)
        save(model, workdir / "model.onnx")
        return Artifact(
            backend=self.name, target=target.name, precision=options.precision, files={}, sdk=self.versions()
        )

    def runnable(self, target: Target) -> str | None:
        return None

    def load(self, artifact: Artifact, folder: Path) -> Session:
        (node,) = load(folder / "model.onnx").graph
        return _Engine(node.op_type)


class _Engine:
    def __init__(self, op: str) -> None:
        self.op = op

    def run(self, feeds: Feeds) -> Outputs:
        y = MEANING[self.op](feeds["x"])
        return {"y": y + 1 if self.op == "Floor" else y[:2] if self.op == "Neg" else y}

    def reset(self) -> None: ...

    def close(self) -> None: ...


def ask(request: dict[str, Any], workdir: Path) -> dict[str, object]:
    """Crashes on Exp in the process of whoever asks; in one of its own it answers."""
    if "Exp" in request["ops"] and request["asker"] == os.getpid():
        os.abort()
    return {}


def case(op: str, *, large: bool = False) -> Case:
    """y = op(x) of four numbers."""

    def model() -> ir.Model:
        text = f'<ir_version: 10, opset_import: ["": 19]> g (float[4] x) => (float[4] y) {{ y = {op}(x) }}'
        return ir.from_onnx_text(text)

    def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": rng.standard_normal(4).astype(np.float32)}

    def reference(given: Arrays) -> dict[str, np.ndarray]:
        return {"y": MEANING[op](given["x"])}

    # One rounding of numbers below 8 to fp32.
    return Case(f"{op}/13/fp32", op, model, feeds, reference, Tolerance(8 * 2.0**-24, "one rounding"), large)
