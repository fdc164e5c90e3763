"""Where a graph computes sampling coordinates: what must stay in fp32 when the rest doesn't."""

from __future__ import annotations

import onnx_ir as ir

from superlower.ir import static_shape

_COORDINATE_INPUT = {"GridSample": 1, "DeformConv": 2}

_FORWARD = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Clip", "Min", "Max", "Tanh", "Identity", "Pad", "Resize", "Upsample"}
    | {"Transpose", "Reshape", "Slice", "Expand", "ScatterElements", "ScatterND"}
)
_BACKWARD = _FORWARD | {"Concat", "Split", "Gather", "Squeeze", "Unsqueeze", "DepthToSpace", "Cast"}


def coordinate_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Nodes of flow arithmetic: those between convolutions (or inputs) and sampling positions, the samplers
    themselves, and what further happens to a flow on its way out of the graph.

    Backwards from a sampler's coordinates through element-wise arithmetic, movement and resizing, and
    forwards from there through the same, as long as the channel count says that it is still a flow.
    """
    samplers = [n for n in graph if n.domain == "" and n.op_type in _COORDINATE_INPUT]
    found: set[ir.Node] = set(samplers)
    flows: set[ir.Value] = set()
    pending = [n.inputs[_COORDINATE_INPUT[n.op_type]] for n in samplers]
    while pending:
        value = pending.pop()
        if value is None or value in flows or value.dtype is None or not value.dtype.is_floating_point():
            continue
        flows.add(value)
        node = value.producer()
        if node is not None and node.domain == "" and node.op_type in _BACKWARD:
            found.add(node)
            pending += node.inputs
    queue = list(flows)
    while queue:
        value = queue.pop()
        for node, _ in value.uses():
            if node in found or node.domain != "" or node.op_type not in _FORWARD:
                continue
            if _channels(value) is None or _channels(node.outputs[0]) != _channels(value):
                continue
            found.add(node)
            queue += node.outputs
    return found


def _channels(value: ir.Value) -> int | None:
    shape = static_shape(value)
    return shape[1] if shape is not None and len(shape) == 4 else None
