"""A user's own onnx-graphsurgeon script as a pass."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from superlower.errors import BadInputError, MissingSdkError
from superlower.passes._rules import tidy
from superlower.passes.base import Applied, Budget, Pass, Site


@dataclass(frozen=True)
class Surgery(Pass):
    """Run a function of the user's over the graph: `--surgery file.py:function`.

    ::

        def function(graph: onnx_graphsurgeon.Graph) -> onnx_graphsurgeon.Graph | None

    The function changes the graph it is given, or returns another. It is called once for every graph of the
    program, and tells them apart by `graph.name`; a graph whose serialized form it leaves alone counts as
    unchanged. Names and shapes of inputs and outputs must stay. What it does is validated as any pass is.
    What the script prints goes to stderr.

    Attributes:
        script: "file.py:function".
    """

    name: ClassVar[str] = "surgery"
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "a user's rewrite is held to rounding: 2^-24 a value, magnified by less than 2000 over a network",
    )
    script: str = ""

    def missing(self) -> str | None:
        """onnx-graphsurgeon is an optional dependency."""
        if importlib.util.find_spec("onnx_graphsurgeon") is None:
            return "onnx-graphsurgeon isn't installed: pip install 'superlower[surgery]'"
        return None

    def run(self, model: ir.Model) -> Applied:
        """See the class.

        Raises:
            BadInputError: no such file or function, or one that fails; the script and its error are named.
            MissingSdkError: onnx-graphsurgeon isn't installed.
        """
        if (reason := self.missing()) is not None:
            raise MissingSdkError(reason)
        import onnx_graphsurgeon as gs

        function = self._function()
        before = ir.to_proto(model)
        try:
            graph = gs.import_onnx(before)
            with redirect_stdout(sys.stderr):
                returned = function(graph)
            changed = graph if returned is None else returned
            after = ir.from_proto(gs.export_onnx(changed.cleanup().toposort()))
        except (Exception, SystemExit) as error:
            raise BadInputError(f"surgery {self.script} failed: {_reason(error)}") from error
        tidy(after)
        untouched = ir.from_proto(gs.export_onnx(gs.import_onnx(before).cleanup().toposort()))
        tidy(untouched)
        if _bytes(after) == _bytes(untouched):
            return Applied()
        nodes = len(model.graph), len(after.graph)
        after.graph.name = model.graph.name
        model.graph = after.graph
        return Applied((Site(model.graph.name or "graph", f"{nodes[0]} nodes are now {nodes[1]}"),))

    def _function(self) -> Callable[[Any], Any]:
        path, colon, name = self.script.rpartition(":")
        if not colon or not path:
            raise BadInputError(f"surgery '{self.script}': write file.py:function")
        if not Path(path).is_file():
            raise BadInputError(f"surgery '{self.script}': no such file {path}")
        spec = importlib.util.spec_from_file_location("superlower_surgery", path)
        if spec is None or spec.loader is None:
            raise BadInputError(f"surgery '{self.script}': {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            with redirect_stdout(sys.stderr):
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise BadInputError(f"surgery '{self.script}': {_reason(error)}") from error
        function = getattr(module, name, None)
        if not callable(function):
            raise BadInputError(f"surgery '{self.script}': {path} has no function {name}")
        found: Callable[[Any], Any] = function
        return found


def _reason(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _bytes(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
