"""What a call of a graph must cost: operations, bytes, and the time no accelerator can be under.

Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model", CACM 52 (4), 2009: a
kernel takes at least its operations over the peak rate, and at least its bytes over the peak bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from superlower.driver.flops import MOVES, Work, node_flops
from superlower.ir import constant_value, infer_shapes, static_shape
from superlower.program.analysis import graph_calls
from superlower.program.model import Program
from superlower.program.routes import Choices
from superlower.targets.base import Precision, Target

ITEMSIZE = {Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2, Precision.INT8: 1, Precision.FP8: 1}
"""Bytes of an element of the engine's arithmetic."""

_VIEWS = frozenset(("Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"))
"""Operators that needn't touch their tensor's elements."""


@dataclass(frozen=True)
class Amount:
    """Elements, of which those of float types take as many bytes as the engine's precision says.

    Attributes:
        floats: number of float elements.
        other: bytes of all else (indices, sizes).
    """

    floats: int = 0
    other: int = 0

    def __add__(self, more: Amount) -> Amount:
        return Amount(self.floats + more.floats, self.other + more.other)

    def nbytes(self, precision: Precision = Precision.FP32) -> int:
        """Bytes with floats of a precision."""
        return self.floats * ITEMSIZE[precision] + self.other


@dataclass(frozen=True)
class NodeCost:
    """One node of a graph.

    Attributes:
        node, op: its name and operator.
        flops: operations by kind.
        moved: activations read and written, each once, as if it were a kernel of its own.
        counted: whether its sizes are known; if not, all else is zero.
    """

    node: str
    op: str
    flops: Mapping[Work, int]
    moved: Amount
    counted: bool = True

    @property
    def total(self) -> int:
        """Operations of all kinds."""
        return sum(self.flops.values())


@dataclass(frozen=True)
class GraphCost:
    """One call of a graph.

    Attributes:
        nodes: in the graph's order, those of If's and Loop's bodies once.
        weights: constants, each once.
        inputs, outputs: the graph's own.
    """

    nodes: tuple[NodeCost, ...]
    weights: Amount
    inputs: Amount
    outputs: Amount

    @property
    def flops(self) -> dict[Work, int]:
        """Operations by kind."""
        return {kind: sum(node.flops.get(kind, 0) for node in self.nodes) for kind in Work}

    @property
    def total(self) -> int:
        """Operations of all kinds."""
        return sum(self.flops.values())

    @property
    def moved(self) -> Amount:
        """Activations read and written were every node a kernel of its own: what fusion saves from."""
        return _sum(node.moved for node in self.nodes)

    @property
    def least(self) -> Amount:
        """What any engine must move: inputs, outputs and weights, each once."""
        return self.inputs + self.outputs + self.weights

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Nodes whose sizes aren't known."""
        return tuple(node.node for node in self.nodes if not node.counted)

    def intensity(self, precision: Precision = Precision.FP32) -> float:
        """Operations for each byte that must be moved."""
        return self.total / max(1, self.least.nbytes(precision))


def graph_cost(model: ir.Model) -> GraphCost:
    """The cost of a graph of static sizes.

    Raises:
        BadInputError: a convolution whose sizes aren't static.
    """
    typed = infer_shapes(model)
    nodes, weights = [], {}
    for node in typed.graph.all_nodes():
        if node.op_type == "Constant" and not node.domain:
            continue
        for value in node.inputs:
            if value is not None and _is_constant(value):
                weights[id(value)] = _amount(value)
        nodes.append(_node_cost(node))
    initializers = typed.graph.initializers
    return GraphCost(
        nodes=tuple(nodes),
        weights=_sum(amount for amount in weights.values() if amount is not None),
        inputs=_sum(_amount(v) or Amount() for v in typed.graph.inputs if v.name not in initializers),
        outputs=_sum(_amount(v) or Amount() for v in typed.graph.outputs),
    )


def calls_per_frame(program: Program, frames: int, choices: Choices | None = None) -> dict[str, float]:
    """How often each graph is called for a frame, over a clip of so many (see `graph_calls`)."""
    return {graph: calls / frames for graph, calls in graph_calls(program, frames, choices).items()}


@dataclass(frozen=True)
class Bound:
    """The least time of one call on a target.

    Attributes:
        compute_s: operations over the peak rate.
        memory_s: bytes over the bandwidth.
    """

    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """No engine is faster."""
        return max(self.compute_s, self.memory_s)

    @property
    def limit(self) -> str:
        """Which of the two it is."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


def figures(target: Target, precision: Precision) -> tuple[float, float] | None:
    """Peak operations and bytes a second at a precision; None where the catalogue lacks either."""
    peak = target.peak_tops.get(str(precision))
    if peak is None or target.bandwidth_gbs is None:
        return None
    return peak.value * 1e12, target.bandwidth_gbs.value * 1e9


def roofline(cost: GraphCost, target: Target, precision: Precision) -> Bound | None:
    """The least time of one call on a target; None where the catalogue has no figures.

    A lower bound, and a generous one: all operations at the peak of the precision's matrix products, every
    tensor in that precision, nothing moved twice.
    """
    known = figures(target, precision)
    if known is None:
        return None
    rate, bandwidth = known
    return Bound(cost.total / rate, cost.least.nbytes(precision) / bandwidth)


def _node_cost(node: ir.Node) -> NodeCost:
    name = node.name or next((value.name for value in node.outputs if value.name), "") or node.op_type
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    activations = [v for v in node.inputs if v is not None and not _is_constant(v)]
    amounts = [_amount(v) for v in (*activations, *(v for v in node.outputs if v.name))]
    try:
        flops = node_flops(node)
    except ValueError:
        return NodeCost(name, op, {}, Amount(), counted=False)
    if op in _VIEWS:
        return NodeCost(name, op, flops, Amount())
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) and op not in MOVES:
        return NodeCost(name, op, flops, _sum(known), counted=False)
    return NodeCost(name, op, flops, _sum(known))


def _is_constant(value: ir.Value) -> bool:
    return constant_value(value) is not None


def _amount(value: ir.Value) -> Amount | None:
    shape = static_shape(value)
    if shape is None or value.dtype is None:
        return None
    count = 1
    for size in shape:
        count *= size
    if value.dtype.is_floating_point():
        return Amount(floats=count)
    return Amount(other=-(-count * value.dtype.bitwidth // 8))


def _sum(amounts: Iterable[Amount]) -> Amount:
    return sum(amounts, start=Amount())
