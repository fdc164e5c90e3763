"""What a model's graphs cost by call and by frame, and the least time a frame takes on each target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from superlower.driver.flops import Work
from superlower.driver.roofline import Bound, GraphCost, calls_per_frame, graph_cost, roofline
from superlower.program.model import TemporalModel
from superlower.program.routes import Choices
from superlower.targets.base import Precision, Target


@dataclass(frozen=True)
class FrameBound:
    """The least time a frame takes on a target: its calls one after another, each at its own least time.

    Attributes:
        target, precision: names.
        seconds: of one frame.
        graphs: of one call of each graph.
    """

    target: str
    precision: Precision
    seconds: float
    graphs: Mapping[str, Bound]

    @property
    def limit(self) -> str:
        """What bounds the graph that takes the longest."""
        return max(self.graphs.values(), key=lambda bound: bound.seconds).limit if self.graphs else "compute"


@dataclass(frozen=True)
class ModelCost:
    """A model's cost.

    Attributes:
        graphs: of one call of each graph.
        calls: of each graph for a frame, over the clip asked about.
    """

    graphs: Mapping[str, GraphCost]
    calls: Mapping[str, float]

    @property
    def flops(self) -> dict[Work, float]:
        """Operations of a frame by kind."""
        return {
            kind: sum(self.calls[name] * cost.flops[kind] for name, cost in self.graphs.items())
            for kind in Work
        }

    @property
    def total(self) -> float:
        """Operations of a frame."""
        return sum(self.flops.values())

    def least_bytes(self, precision: Precision = Precision.FP32) -> float:
        """Bytes a frame's calls must move."""
        return sum(self.calls[name] * c.least.nbytes(precision) for name, c in self.graphs.items())

    def moved_bytes(self, precision: Precision = Precision.FP32) -> float:
        """Bytes of activations a frame's calls move with every node a kernel of its own."""
        return sum(self.calls[name] * c.moved.nbytes(precision) for name, c in self.graphs.items())

    def bounds(self, targets: Iterable[Target]) -> list[FrameBound]:
        """The least time of a frame on each target, at its precisions that the catalogue has a peak for."""
        found = []
        for target in targets:
            for precision in target.precisions:
                graphs = {}
                for name, cost in self.graphs.items():
                    if (bound := roofline(cost, target, precision)) is not None:
                        graphs[name] = bound
                if len(graphs) == len(self.graphs):
                    seconds = sum(self.calls[name] * bound.seconds for name, bound in graphs.items())
                    found.append(FrameBound(target.name, precision, seconds, graphs))
        return found


def model_cost(model: TemporalModel, frames: int, choices: Choices | None = None) -> ModelCost:
    """The cost of a program over a clip of so many frames; calls its ends don't need aren't counted.

    Args:
        choices: of its routes over the clip; by default every patch takes the last graph of its route.

    Raises:
        BadInputError: a convolution whose sizes aren't static.
    """
    calls = calls_per_frame(model.program, frames, choices)
    graphs = {name: graph_cost(graph) for name, graph in model.graphs.items()}
    return ModelCost(graphs, {name: calls.get(name, 0.0) for name in graphs})


def lone_cost(name: str, graph: ir.Model) -> ModelCost:
    """The cost of a graph that is called once a frame.

    Raises:
        BadInputError: a convolution whose sizes aren't static.
    """
    return ModelCost({name: graph_cost(graph)}, {name: 1.0})
