"""Graphs at one opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from superlower.ir import OPSET
from superlower.passes._rules import tidy
from superlower.passes.base import Applied, Pass, Site


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Bring a graph to an opset.

    ::

        opset_import {"": 18}   ->   opset_import {"": 19}, operators adapted

    By onnxscript's version converter, which knows opsets from 18 on, and no way back: other steps are
    refused. A graph already there is left alone.

    Attributes:
        opset: the opset wanted.
    """

    name: ClassVar[str] = "convert-opset"
    opset: int = OPSET

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        from onnxscript import version_converter

        old = model.opset_imports.get("", self.opset)
        where = model.graph.name or "graph"
        if old == self.opset:
            return Applied()
        if not 18 <= old < self.opset:
            reason = (
                f"no way from opset {old} to {self.opset}: export at {self.opset}, or ask for at least {old}"
            )
            return Applied(refused=(Site(where, reason),))
        version_converter.convert_version(model, self.opset)
        tidy(model)
        if model.opset_imports.get("") != self.opset:
            return Applied(refused=(Site(where, f"the converter stayed at {model.opset_imports.get('')}"),))
        return Applied((Site(where, f"opset {old} is now {self.opset}"),))
