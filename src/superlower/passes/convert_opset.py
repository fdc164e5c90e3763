"""Graphs at one opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from superlower.ir import OPSET
from superlower.passes._opset_down import lower_opset
from superlower.passes._rules import tidy
from superlower.passes.base import Applied, Pass, Site


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Bring a graph to an opset.

    ::

        opset_import {"": 18}   ->   opset_import {"": 19}, operators adapted

    Upwards by onnxscript's version converter, which knows opsets from 18 on. Downwards where every operator
    has an older definition that means the same for the node (see `_opset_down`); GridSample's modes are
    spelled anew. Other steps are refused. A graph already there is left alone.

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
        if old > self.opset:
            reason = lower_opset(model, self.opset)
        elif old < 18:
            reason = "the converter starts at opset 18"
        else:
            reason = None
            version_converter.convert_version(model, self.opset)
            tidy(model)
            if model.opset_imports.get("") != self.opset:
                reason = f"the converter stayed at {model.opset_imports.get('')}"
        if reason is not None:
            refused = f"no way from opset {old} to {self.opset} ({reason}): export at {self.opset}"
            return Applied(refused=(Site(where, refused),))
        return Applied((Site(where, f"opset {old} is now {self.opset}"),))
