"""Ranges of activations over a clip, with the hidden states that the model itself propagates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.check.reference import reference_sessions
from superlower.driver.footage import Footage, read_footage
from superlower.driver.quality import shrink
from superlower.errors import BadInputError
from superlower.ir import clone, infer_shapes
from superlower.media.clip import open_clip
from superlower.media.tensors import to_tensor
from superlower.passes.quantize import watched
from superlower.program.interpret import interpret
from superlower.program.model import Frame, TemporalModel

Array = NDArray[np.generic]
Ranges = Mapping[str, Mapping[str, tuple[float, float]]]
"""Graph -> value -> smallest and largest."""

_LOW, _HIGH = "_smallest", "_largest"


CALIBRATION_FRAMES = 8
"""Of the clip: of BasicVSR's loss of 0.44 dB over 31 frames one frame shows 0.01, eight show most."""


def calibration_footage(path: Path, frame: Frame, degradation: str = "bi") -> Footage:
    """The first frames of a clip, with their ground truth.

    A clip at least as large as the model's output is ground truth; it is shrunk to the model's input. One
    that is smaller, as large as the input say, is first mirrored at its edges until it is large enough: the
    model is then given the clip shrunk, several times over.

    Args:
        path: video or folder of PNG frames.
        frame: the contract.
        degradation: a name in `superlower.driver.quality.DEGRADATIONS`.

    Raises:
        BadInputError: fewer than `CALIBRATION_FRAMES` frames, or frames of 16 bits a colour.
    """
    sides = frame.scale * frame.height, frame.scale * frame.width
    pictures = []
    with open_clip(path) as clip:
        if clip.height >= sides[0] and clip.width >= sides[1]:
            return read_footage(path, frame, CALIBRATION_FRAMES, degradation)
        margins = [
            (0, max(0, side - has)) for side, has in zip(sides, (clip.height, clip.width), strict=True)
        ]
        for picture in islice(clip, CALIBRATION_FRAMES):
            if picture.rgb.dtype != np.uint8:
                raise BadInputError(
                    f"calibration clip {path} has 16 bits a colour: scores are of 8-bit frames"
                )
            mirrored = np.pad(picture.rgb, (*margins, (0, 0)), mode="symmetric")
            pictures.append(mirrored[: sides[0], : sides[1]].astype(np.uint8))
    if len(pictures) < CALIBRATION_FRAMES:
        raise BadInputError(
            f"calibration clip {path} has {len(pictures)} frames, {CALIBRATION_FRAMES} are needed"
        )
    frames = tuple(to_tensor(small, frame) for small in shrink(pictures, frame, degradation))
    source = (
        f"{path.name}, first {CALIBRATION_FRAMES} frames, mirrored to {sides[0]}x{sides[1]}, degraded by "
        f"{degradation}"
    )
    return Footage(tuple(pictures), frames, source)


def watched_values(model: TemporalModel) -> dict[str, tuple[str, ...]]:
    """Graph -> values that quantization may need the range of, before any is quantized."""
    return {name: watched(infer_shapes(graph)) for name, graph in model.graphs.items()}


def observe(model: TemporalModel, values: Mapping[str, Sequence[str]], frames: Sequence[Array]) -> Ranges:
    """Smallest and largest of each value over a clip, run closed loop in ONNX Runtime.

    Extremes, not percentiles: recurrent states saturate nothing at another clip's larger values this way.

    Args:
        model: float, or quantized: its states then carry the errors that the quantized model will make.
        values: by graph, names of float values.
        frames: elements of the input stream.

    Raises:
        BadInputError: a value isn't finite.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in model.graphs}
    wrapped = model.with_graphs({name: _reduced(g, values.get(name, ())) for name, g in model.graphs.items()})
    with reference_sessions(wrapped) as sessions:

        def call(graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs = sessions[graph].run(feeds)
            for value in values.get(graph, ()):
                low, high = float(outputs[value + _LOW]), float(outputs[value + _HIGH])
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise BadInputError(f"'{value}' of graph '{graph}' holds NaN or infinity on this clip")
                before = found[graph].get(value, (low, high))
                found[graph][value] = min(low, before[0]), max(high, before[1])
            return outputs

        interpret(model.program, frames, call)
    return found


def widest(*ranges: Ranges) -> Ranges:
    """The ranges that hold all of those given, which are of the same values."""
    first = ranges[0]
    return {
        graph: {
            value: (min(r[graph][value][0] for r in ranges), max(r[graph][value][1] for r in ranges))
            for value in values
        }
        for graph, values in first.items()
    }


def _reduced(graph: ir.Model, values: Sequence[str]) -> ir.Model:
    """The graph with the extremes of each value as further outputs, scalars."""
    graph = clone(graph)
    by_name = {v.name: v for v in (*graph.graph.inputs, *(v for n in graph.graph for v in n.outputs))}
    for name in values:
        for op, suffix in (("ReduceMin", _LOW), ("ReduceMax", _HIGH)):
            node = ir.node(op, [by_name[name]], {"keepdims": 0}, name=name + suffix)
            made = node.outputs[0]
            made.name, made.shape, made.type = name + suffix, ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
            graph.graph.append(node)
            graph.graph.outputs.append(made)
    return graph
