"""Graphs of which each node has the type that it was given, as one backend is to compile them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from superlower.backends.base import Backend, quantizes_results
from superlower.driver.calibrate import Ranges
from superlower.driver.precisions import Types
from superlower.passes.assign_precision import AssignPrecision
from superlower.passes.base import Pass
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.emulate_precision import EmulatePrecision
from superlower.passes.guard_grid_sample import GuardGridSample
from superlower.passes.pipelines import apply
from superlower.passes.quantize import Quantize
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target

BF16_OPSET = 22
"""First opset whose Conv takes bf16."""


@dataclass(frozen=True)
class Typing:
    """How a model's graphs are typed, whatever the types.

    Attributes:
        model: float, prepared for quantization.
        ranges: of its values.
        activations: "uint8" or "int8".
    """

    model: TemporalModel
    ranges: Ranges
    activations: str
    _made: dict[tuple[object, ...], ir.Model] = field(default_factory=dict, repr=False, compare=False)

    def first(self, types: Mapping[str, Precision]) -> list[Pass]:
        """Passes to run on a graph before it is legalized.

        Args:
            types: of its nodes.
        """
        return [ConvertOpset(BF16_OPSET)] if Precision.BF16 in types.values() else []

    def last(self, graph: str, types: Mapping[str, Precision], sdk: Backend) -> list[Pass]:
        """Passes to run on a graph once it is legalized for a backend."""
        quantized = tuple(name for name, precision in types.items() if precision is Precision.INT8)
        halves = {
            name: str(precision)
            for name, precision in types.items()
            if precision in (Precision.FP16, Precision.BF16)
        }
        passes: list[Pass] = []
        if quantized:
            passes.append(
                Quantize(
                    ranges=self.ranges[graph],
                    nodes=quantized,
                    activations=self.activations,
                    results=quantizes_results(sdk),
                )
            )
        if halves:
            passes += [AssignPrecision(types=halves), GuardGridSample()]
        return passes

    def typed(self, types: Types, sdk: Backend, where: Target, *, emulate: bool) -> TemporalModel:
        """The model legalized for a backend, and typed.

        Args:
            emulate: compute half types in fp32, rounded, for a backend that hasn't got them.
        """
        legal = sdk.legalize(where, Precision.MIXED)
        graphs = {}
        for name, graph in self.model.graphs.items():
            told = types.get(name, {})
            key = (name, sdk.name, where.name, emulate, *sorted(told.items()))
            if key not in self._made:
                passes: Sequence[Pass] = (*self.first(told), *legal, *self.last(name, told, sdk))
                self._made[key], _ = apply(graph, (*passes, EmulatePrecision()) if emulate else passes)
            graphs[name] = self._made[key]
        return self.model.with_graphs(graphs)
