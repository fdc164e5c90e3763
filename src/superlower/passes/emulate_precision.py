"""Graphs of half types on processors that have none: computed in fp32, rounded after every node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from superlower.passes._rules import label, tidy, type_values
from superlower.passes.assign_precision import AssignPrecision
from superlower.passes.base import Applied, Budget, Pass, Site
from superlower.passes.convert_precision import HALF_TYPES, ConvertPrecision

_HALVES = frozenset(HALF_TYPES.values())


@dataclass(frozen=True)
class EmulatePrecision(Pass):
    """Compute in fp32 what a graph has in fp16 or bf16, and round what each node makes.

    ::

        Conv(x bf16, w bf16) bf16   ->   Cast(Conv(Cast(x) fp32, Cast(w) fp32) fp32) bf16

    The values are those of an engine that sums in fp32, as matrix units do. For measuring what types cost on
    a machine without them: ONNX Runtime's CPU has no bf16 convolution.
    """

    name: ClassVar[str] = "emulate-precision"
    after: ClassVar[tuple[type[Pass], ...]] = (AssignPrecision, ConvertPrecision)
    budget: ClassVar[Budget] = Budget(2.0**-8, "sums in another order round to another neighbour")

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        type_values(model)
        graph = model.graph
        wide: dict[ir.Value, ir.Value] = {}
        sites = []
        for node in list(graph):
            if node.op_type in ("Cast", "Constant"):
                continue
            halves = [(i, v) for i, v in enumerate(node.inputs) if v is not None and v.dtype in _HALVES]
            made = [v for v in node.outputs if v.dtype in _HALVES]
            for i, value in halves:
                if value not in wide:
                    wide[value] = _cast(value, ir.DataType.FLOAT, f"{value.name}_wide")
                    cast, maker = wide[value].producer(), value.producer()
                    assert cast is not None
                    if maker is None:
                        graph.insert_before(graph[0], cast)
                    else:
                        graph.insert_after(maker, cast)
                node.replace_input_with(i, wide[value])
            for value in made:
                half, readers = value.dtype, list(value.uses())
                assert half is not None
                rounded = _cast(value, half, f"{value.name}_rounded")
                value.type = ir.TensorType(ir.DataType.FLOAT)
                cast = rounded.producer()
                assert cast is not None
                graph.insert_after(node, cast)
                for reader, i in readers:
                    reader.replace_input_with(i, rounded)
            if halves or made:
                sites.append(Site(label(node), f"{node.op_type} in fp32, rounded"))
        if sites:
            common.NameFixPass()(model)
            tidy(model)
        return Applied(tuple(sites))


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Value:
    node = ir.node("Cast", [value], {"to": to}, name=f"{name}_cast")
    made = node.outputs[0]
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(to)
    return made
