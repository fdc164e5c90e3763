"""Time of an engine that can't be run here, from the catalogue's figures and what its backend is known to do.

Where a tuning database holds measurements of all its functions, on a device of the target's architecture,
the time is their sum. Else a kernel takes at least its operations over a peak and its bytes over the
bandwidth (`driver.roofline`). Backends differ in which peak their kernels can reach, and in how many kernels
a graph becomes; that is all that such an estimate knows of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx_ir as ir

from superlower.backends.base import Artifact
from superlower.backends.tensorrt.layers import EngineLayers
from superlower.driver.inspect_engine import LAYERS, layer_bytes
from superlower.driver.roofline import GraphCost, NodeCost, figures, graph_cost
from superlower.targets.base import Precision, Target

KERNEL_S = 5e-6
"""What a kernel costs besides its work, by order of magnitude: launches and the gaps between kernels."""


@dataclass(frozen=True)
class Traits:
    """What is known of a backend's kernels.

    Attributes:
        matrix: whether convolutions run on tensor cores, at the precision's peak; else at fp32's, but for the
            share that a build says of.
        fuses: whether elementwise nodes are computed in the kernel of the node before them.
    """

    matrix: bool
    fuses: bool


TRAITS = {
    "tensorrt": Traits(matrix=True, fuses=True),
    "tensorrt-rtx": Traits(matrix=True, fuses=True),
    # cuDNN's convolutions, a kernel a node.
    "onnxruntime": Traits(matrix=True, fuses=False),
    # Default schedules: elementwise nodes inlined, convolutions on tensor cores where they fit.
    "tvm": Traits(matrix=False, fuses=True),
    "openvino": Traits(matrix=True, fuses=True),
}


def estimated_ms(
    graph: ir.Model, artifact: Artifact, folder: Path, target: Target, precision: Precision
) -> float | None:
    """Milliseconds of a call; None where the catalogue has no figures, or nothing is known of the backend.

    Args:
        graph: as the default passes left it, of static sizes.
        artifact, folder: its engine; a TensorRT plan's list of fused layers is read where there is one, and
            what a TVM build found in the tuning database.
    """
    known, traits = figures(target, precision), TRAITS.get(artifact.backend)
    if known is None or traits is None:
        return None
    if (measured := artifact.facts.get("tasks_ms")) is not None:
        return float(measured)
    peak, bandwidth = known
    if not traits.matrix and (plain := figures(target, Precision.FP32)) is not None:
        share = float(artifact.facts.get("tensor_core_share", 0))
        peak = 1 / (share / peak + (1 - share) / min(peak, plain[0]))
    cost = graph_cost(graph)
    fused = _layers(artifact, folder)
    moved = fused if fused is not None else list(_kernels(cost, traits, precision))
    return 1000 * (max(cost.total / peak, sum(moved) / bandwidth) + KERNEL_S * len(moved))


def _layers(artifact: Artifact, folder: Path) -> list[int] | None:
    path = folder / artifact.files.get("layers", LAYERS)
    if not path.is_file():
        return None
    found = msgspec.json.decode(path.read_bytes(), type=EngineLayers)
    return [layer_bytes(layer) for layer in found.layers] or None


def _kernels(cost: GraphCost, traits: Traits, precision: Precision) -> Iterator[int]:
    """Bytes that each kernel of a graph moves."""
    for node in _computing(cost.nodes):
        if traits.fuses and node.op in _ELEMENTWISE:
            continue
        yield node.moved.nbytes(precision)


def _computing(nodes: Iterable[NodeCost]) -> Iterator[NodeCost]:
    return (node for node in nodes if node.total or node.moved.nbytes())


_ELEMENTWISE = frozenset(("Add", "Clip", "Div", "LeakyRelu", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Tanh"))
