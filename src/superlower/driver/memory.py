"""What a process that runs a program will take at its peak, told from its graphs before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod

import msgspec
import numpy as np
import onnx_ir as ir

from superlower.backends.registry import backend as backend_of
from superlower.driver.allocation import Trace, arena, packed
from superlower.driver.layouts import Lowering, OnnxRuntimeLowering, OpenVinoLowering, weight_bytes
from superlower.driver.process_size import process_bytes
from superlower.ir import clone, infer_shapes, io_shapes
from superlower.program import analysis
from superlower.program.model import Frame, TemporalModel
from superlower.targets.base import Precision
from superlower.targets.catalog import target

MIB = 2**20


@dataclass(frozen=True)
class Runtime:
    """How a backend's runtime spends memory on a CPU, in fp32.

    Attributes:
        lowering: layouts, copies and fusions.
        allocator: where tensors lie.
        process: bytes of a process that has loaded superlower and the runtime, where it can't be measured.
        engine: of an engine, whatever it holds.
        kernel: of one elementwise kernel: those are compiled one by one.
        weights: times a graph's weights, as an engine keeps them.
        loading: times the largest graph's weights, taken when it is loaded and not given back.
        outputs: times a graph's outputs, beside the stream's own.
    """

    lowering: type[Lowering]
    allocator: Callable[[Trace], int]
    process: int
    engine: int
    kernel: int
    weights: float
    loading: float
    outputs: float


RUNTIMES = {
    "onnxruntime": Runtime(OnnxRuntimeLowering, arena, 129 * MIB, 3 * MIB, 0, 1.0, 2.3, 0.0),
    "openvino": Runtime(OpenVinoLowering, packed, 180 * MIB, 4 * MIB, 450 * 1024, 2.3, 0.0, 1.0),
}
"""By backend: ONNX Runtime 1.32 without memory patterns, OpenVINO 2026.4."""


@dataclass(frozen=True)
class EngineMemory:
    """What an engine takes while it is called, in bytes.

    Attributes:
        weights: its constants as it keeps them, and its kernels.
        activations: tensors within it, as its allocator places them.
        outputs: of its own, beside those it hands out.
    """

    weights: int
    activations: int
    outputs: int

    @property
    def total(self) -> int:
        """Of the engine."""
        return self.weights + self.activations + self.outputs


@dataclass(frozen=True)
class Peak:
    """Parts of a process's peak, in bytes; engines keep what they once took, so all of theirs add up.

    Attributes:
        process: the runtime and superlower.
        engines: all of them.
        streams: what equations still need.
        video: pictures that wait, and what decoding and encoding take; see `video_bytes`.
    """

    process: int
    engines: int
    streams: int
    video: int = 0

    @property
    def total(self) -> int:
        """Of the process."""
        return self.process + self.engines + self.streams + self.video


def legalized(model: TemporalModel, backend: str, precision: Precision = Precision.FP32) -> TemporalModel:
    """A model whose graphs are as a backend takes them for a CPU; the passes aren't validated."""
    graphs = {}
    for name, graph in model.graphs.items():
        legal = clone(graph)
        for one in backend_of(backend).legalize(target("cpu"), precision):
            one.run(legal)
        graphs[name] = infer_shapes(legal)
    return model.with_graphs(graphs)


def engine_memory(graph: ir.Model, backend: str, area: Fraction = Fraction(1)) -> EngineMemory:
    """A graph's engine on a CPU in fp32.

    Args:
        graph: as the backend takes it (see `legalized`).
        backend: one of `RUNTIMES`.
        area: of the frame it is to be built for, in those of the graph's own.

    Raises:
        BadInputError: a value whose size isn't static.
    """
    runtime = RUNTIMES[backend]
    lowered = runtime.lowering(graph, area)
    outputs = sum(prod(shape) for shape in io_shapes(graph)[1].values()) * np.dtype(np.float32).itemsize
    weights = round(runtime.weights * weight_bytes(graph, area))
    return EngineMemory(
        runtime.engine + runtime.kernel * lowered.kernels + weights,
        runtime.allocator(lowered.trace),
        ceil(runtime.outputs * outputs * area),
    )


def predict(
    model: TemporalModel,
    backend: str,
    frames: int,
    size: tuple[int, int] | None = None,
    *,
    in_flight: int = 1,
) -> Peak:
    """The peak of upscaling a clip in one go.

    Args:
        model: a legal model whose graphs have static sizes, as the backend takes them (see `legalized`).
        backend: one of `RUNTIMES`.
        frames: in the clip, or in a chunk with what it looks ahead.
        size: of the frame; by default the one that the graphs were exported for.
        in_flight: calls at a time; of the engines' memory it is told as if each ran one.

    Raises:
        BadInputError: a value inside a graph whose size isn't static.
    """
    height, width = size or (model.program.frame.height, model.program.frame.width)
    area = area_of(model.program.frame, height, width)
    runtime = RUNTIMES[backend]
    engines = sum(engine_memory(graph, backend, area).total for graph in model.graphs.values())
    largest = max(weight_bytes(graph, area) for graph in model.graphs.values())
    measured = process_bytes(backend)
    return Peak(
        runtime.process if measured is None else measured - runtime.engine,
        engines + round(runtime.loading * largest),
        analysis.peak_bytes(model.program, frames, height, width, in_flight),
    )


def area_of(frame: Frame, height: int, width: int) -> Fraction:
    """Pixels of a padded frame of another size, in those of a program's own."""
    other = msgspec.structs.replace(frame, height=height, width=width)
    return Fraction(prod(other.padded), prod(frame.padded))


_LIBRARIES = 45 * MIB
_DECODED = 20
_SORTED = 6
_ENCODED_BYTES = 4

HEADROOM = 0.9
"""Share of a limit that is planned for: OpenVINO's processes took up to 8 % more than was predicted."""

ENCODER_AHEAD = 40
"""Frames that libx264 looks ahead (rc-lookahead)."""


def video_bytes(
    frame: Frame,
    size: tuple[int, int],
    tile: tuple[int, int],
    waiting: int,
    frames: int,
    encoder_ahead: int = ENCODER_AHEAD,
) -> int:
    """What reading and writing a video takes, by libx264.

    FFmpeg's libraries; a decoder's frames; pictures that wait for their upscaled ones; 4 bytes a pixel for
    each of the frames that x264 looks ahead, and six that it sorts and encodes (measured: 544x1280,
    medium); a tile's pixels on their way from floats to bytes.

    Args:
        frame: the program's contract.
        size: height and width of the video.
        tile: of a tile.
        waiting: pictures.
        frames: of the video.
        encoder_ahead: frames that the encoder looks ahead.
    """
    pixels, made = prod(size), frame.scale**2 * prod(size)
    held = 3 * pixels * min(waiting + 1, frames) + 3 * pixels * _DECODED // 2
    encoder = _ENCODED_BYTES * made * min(frames, encoder_ahead + _SORTED) + 8 * made
    floats = (12 if frame.color == "rgb" else 30) * 5 * frame.scale**2 * prod(tile)
    return _LIBRARIES + held + encoder + floats
