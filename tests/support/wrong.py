"""A backend that gets one operator wrong, as compilers do: everywhere, or only where it fuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from superlower import plugins
from superlower.backends import registry
from superlower.backends.base import Artifact, BuildOptions, NodeSupport, Session
from superlower.backends.onnxruntime import ENGINE, OnnxRuntime
from superlower.ir import clone, save
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target


@dataclass(frozen=True)
class Wrong:
    """ONNX Runtime on a graph in which every result of `op` is `factor` times what it should be.

    Attributes:
        op: the operator.
        factor: how wrong; 1 for a backend that is right.
        fused: wrong only where the operator can be fused with the node before it: where nothing else reads
            that node's result.
        inside: wrong only where the operator's own result is no output of the graph.
    """

    op: str = "Tanh"
    factor: float = 1.05
    fused: bool = False
    inside: bool = False
    name: str = "wrong"
    title: str = "A compiler with a bug"

    def missing(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {"wrong": "1.0"}

    def serves(self, target: Target, precision: Precision) -> str | None:
        return OnnxRuntime().serves(target, precision)

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        return OnnxRuntime().coverage(model, target, precision)

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        return OnnxRuntime().legalize(target, precision)

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        broken = clone(model)
        for node in [n for n in broken.graph if n.op_type == self.op and self._hits(n)]:
            self._scale(broken.graph, node)
        save(broken, workdir / ENGINE)
        return Artifact(
            backend=self.name,
            target=target.name,
            precision=options.precision,
            files={"engine": ENGINE},
            sdk=self.versions(),
            threads=options.threads,
        )

    def runnable(self, target: Target) -> str | None:
        return None

    def load(self, artifact: Artifact, folder: Path) -> Session:
        return OnnxRuntime().load(msgspec.structs.replace(artifact, backend="onnxruntime"), folder)

    def _hits(self, node: ir.Node) -> bool:
        given = node.inputs[0]
        assert given is not None
        if self.fused and (given.is_graph_output() or len(given.uses()) > 1):
            return False
        return not (self.inside and node.outputs[0].is_graph_output())

    def _scale(self, graph: ir.Graph, node: ir.Node) -> None:
        given = node.outputs[0]
        kind = ir.DataType.FLOAT if given.dtype is None else given.dtype
        factor = ir.node("Constant", [], {"value": ir.tensor(np.array(self.factor, kind.numpy()))})
        scaled = ir.node("Mul", [given, factor.outputs[0]])
        scaled.outputs[0].shape, scaled.outputs[0].type = given.shape, given.type
        ir.convenience.replace_all_uses_with(given, scaled.outputs[0], replace_graph_outputs=True)
        scaled.replace_input_with(0, given)
        name = given.name
        given.name, scaled.outputs[0].name = f"{name}_right", name
        graph.insert_after(node, [factor, scaled])


def install(monkeypatch: pytest.MonkeyPatch, backend: Wrong) -> None:
    """Make the backend known by its name, beside the installed ones."""

    class Entry:
        name, value = backend.name, f"{__name__}:Wrong"

        def load(self) -> Wrong:
            return backend

    table = {**plugins.table("backend"), backend.name: Entry()}
    others = plugins.table
    monkeypatch.setattr(plugins, "table", lambda kind: table if kind == "backend" else others(kind))
    registry.backend.cache_clear()
