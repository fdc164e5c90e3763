"""What a process that runs a program will take at its peak, told from its graphs before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from superlower.driver.liveness import activation_bytes, weight_bytes
from superlower.ir import io_shapes
from superlower.program import analysis
from superlower.program.model import TemporalModel

MIB = 2**20


@dataclass(frozen=True)
class Overhead:
    """What a backend's runtime takes: fitted to processes of one BasicVSR engine each, at 96x128 to 180x320.

    benchmarks/memory.py holds whole programs to it. Of other models it is an estimate (docs/video.md).

    Attributes:
        process: bytes of a process that has loaded the runtime and one engine, the engine itself aside.
        weights: times a graph's weights: as loaded, and in the layout that the kernels read.
        activations: times `activation_bytes`: layout copies and allocators' slack.
        outputs: times a graph's outputs, besides the stream's own.
    """

    process: int
    weights: float
    activations: float
    outputs: float


OVERHEADS = {
    "onnxruntime": Overhead(124 * MIB, 2.0, 1.45, 0.0),
    "openvino": Overhead(143 * MIB, 4.0, 1.1, 1.0),
}
"""By backend, in fp32 on a CPU: ONNX Runtime 1.31 without memory patterns, OpenVINO 2026.4."""


@dataclass(frozen=True)
class Peak:
    """Parts of a process's peak, in bytes; engines keep what they once took, so all of theirs add up."""

    process: int
    engines: int
    streams: int

    @property
    def total(self) -> int:
        """Of the process."""
        return self.process + self.engines + self.streams


def engine_bytes(graph: ir.Model, backend: str) -> int:
    """A graph's engine on a CPU in fp32 while it is called: weights, activations, outputs of its own.

    Args:
        graph: as the backend takes it, or before: rewrites move little of what is alive at the peak.
        backend: one of `OVERHEADS`.
    """
    cost = OVERHEADS[backend]
    outputs = sum(prod(shape) for shape in io_shapes(graph)[1].values()) * np.dtype(np.float32).itemsize
    return round(
        cost.weights * weight_bytes(graph)
        + cost.activations * activation_bytes(graph)
        + cost.outputs * outputs
    )


def predict(model: TemporalModel, backend: str, frames: int) -> Peak:
    """The peak of upscaling a clip in one go, at the program's frame size, one call at a time.

    Args:
        model: a legal model whose graphs have static sizes.
        backend: one of `OVERHEADS`.
        frames: in the clip, or in a chunk with what it looks ahead.

    Raises:
        BadInputError: a value inside a graph whose size isn't static.
    """
    frame = model.program.frame
    return Peak(
        OVERHEADS[backend].process,
        sum(engine_bytes(graph, backend) for graph in model.graphs.values()),
        analysis.peak_bytes(model.program, frames, frame.height, frame.width),
    )
