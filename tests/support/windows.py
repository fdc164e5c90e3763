"""Window models whose graphs are built in code, and runs of temporal models by the naive interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from superlower.ir import serialize
from superlower.program.interpret import interpret
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel
from support.graphs import GraphBuilder

Array = NDArray[Any]
SIDE = 8


class WindowBuilder(GraphBuilder):
    """A graph over frames [1, 3, 8, 8], with weights by seed: equal seeds are equal arrays, not one array."""

    def conv(self, x: ir.Value, into: int, out: int, seed: int) -> ir.Value:
        """A 3x3 convolution that keeps the size."""
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((out, into, 3, 3)) * 0.5 / np.sqrt(into * 9)
        return self.Conv(x, self.const(weight), self.const(rng.standard_normal(out) * 0.1), pads=[1] * 4)

    def net(self, x: ir.Value, seed: int = 1, into: int = 3, out: int = 4) -> ir.Value:
        """Two convolutions and what lies between them."""
        return self.conv(self.LeakyRelu(self.conv(x, into, 4, seed), alpha=0.1), 4, out, seed + 100)

    def frames(self, *offsets: int) -> list[ir.Value]:
        """An input for each offset, called as `reads` expects."""
        return [self.input(input_name(offset), 1, 3, SIDE, SIDE) for offset in offsets]


def input_name(offset: int) -> str:
    return f"x{offset:+d}".replace("-", "m").replace("+", "p")


def window(
    g: GraphBuilder, output: ir.Value, offsets: Sequence[int], edge: Edge = Edge.REPLICATE, when: str = "true"
) -> TemporalModel:
    """The graph as a program's only equation: its inputs are frame[t + offset]."""
    program = Program(
        name="window",
        frame=Frame(height=SIDE, width=SIDE, scale=1),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=edge),
            "output": Stream(shape=(1, 3, "H", "W")),
        },
        equations=(
            Equation(
                name="step",
                graph="step",
                inputs={input_name(o): f"frame[t{o:+d}]" if o else "frame[t]" for o in offsets},
                outputs={"out0": "output"},
                when=when,
            ),
        ),
    )
    return TemporalModel(program, {"step": g.model(output)})


def run(model: TemporalModel, frames: Sequence[Array]) -> tuple[list[Array], dict[str, int]]:
    """Outputs over a clip, ONNX Runtime with its optimisations off; and how often each graph was called."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(serialize(graph.clone()), options, ["CPUExecutionProvider"])
        for name, graph in model.graphs.items()
    }
    calls = dict.fromkeys(sessions, 0)

    def call(name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        calls[name] += 1
        names = [o.name for o in sessions[name].get_outputs()]
        return dict(zip(names, sessions[name].run(names, dict(feeds)), strict=True))

    return interpret(model.program, frames, call), calls


def clip(length: int, seed: int = 0) -> list[Array]:
    """Uniform noise in 0..1."""
    rng = np.random.default_rng(seed)
    return [rng.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(length)]
