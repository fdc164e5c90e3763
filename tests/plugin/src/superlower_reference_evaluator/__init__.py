"""onnx's own reference evaluator (numpy) as a superlower backend: slow, and right by definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from superlower.backends import probe
from superlower.backends.base import Artifact, BuildOptions, Feeds, NodeSupport, Outputs
from superlower.backends.process import build_in_subprocess
from superlower.backends.sdk import absent, first_line, require, require_own, require_served, version
from superlower.backends.session import PooledSession, Port
from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.ir import load, save, serialize
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

ENGINE = "model.onnx"


class ReferenceEvaluatorBackend:
    """Serves every CPU target in fp32, listed in its table or not: a catalog can't know of plug-ins."""

    name: ClassVar[str] = "reference-evaluator"
    title: ClassVar[str] = "ONNX reference evaluator (numpy)"

    def missing(self) -> str | None:
        return absent("onnx", "onnx")

    def versions(self) -> dict[str, str]:
        return {"onnx": version("onnx")}

    def serves(self, target: Target, precision: Precision) -> str | None:
        if target.kind != "cpu":
            return "it is numpy, which runs on CPUs only"
        return None if precision is Precision.FP32 else "it computes in the graph's own types: use fp32"

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        require(self)
        return probe.coverage(model, _refusal)

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        return ()

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        require(self)
        require_served(self, target, options.precision)
        save(model, workdir / ENGINE)
        result = build_in_subprocess(
            f"{__name__}:build", {}, workdir, backend=self.name, timeout_s=options.timeout_s
        )
        return Artifact(
            backend=self.name,
            target=target.name,
            precision=options.precision,
            files={"engine": ENGINE},
            sdk=self.versions(),
            facts={"nodes": int(str(result["nodes"]))},
        )

    def runnable(self, target: Target) -> str | None:
        return self.missing()

    def load(self, artifact: Artifact, folder: Path) -> PooledSession:
        require_own(self, artifact)
        model = load(folder / artifact.files["engine"])
        evaluator = _evaluator(serialize(model))
        inputs = {}
        for value in model.graph.inputs:
            if value.name is None or value.shape is None or value.dtype is None:
                raise BadInputError(f"{folder}: the engine has an input without name, type or shape")
            shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
            inputs[value.name] = Port(value.dtype.numpy(), shape)
        outputs = [str(value.name) for value in model.graph.outputs]

        def run(feeds: Feeds) -> Outputs:
            return dict(zip(outputs, evaluator.run(outputs, dict(feeds)), strict=True))

        return PooledSession(inputs, [run])


def build(request: dict[str, Any], workdir: Path) -> dict[str, object]:
    """The subprocess's part of `compile`."""
    model = load(workdir / ENGINE)
    if (reason := _refusal(model)) is not None:
        raise UnsupportedOperatorError(f"reference-evaluator: {reason}")
    return {"nodes": len(model.graph)}


def _evaluator(model: bytes) -> Any:
    import onnx
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(onnx.load_from_string(model))


def _refusal(model: ir.Model) -> str | None:
    try:
        _evaluator(serialize(model))
    except Exception as error:
        return first_line(error)
    return None
