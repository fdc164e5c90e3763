"""Surgery of one's own: `superlower compile MODEL … --surgery examples/relu_surgery.py:leaky_to_relu`."""

from __future__ import annotations

import onnx_graphsurgeon as gs


def leaky_to_relu(graph: gs.Graph) -> None:
    """Say LeakyRelu with a slope of 0 as Relu, which more backends fuse into the convolution before it."""
    for node in graph.nodes:
        if node.op == "LeakyRelu" and node.attrs.get("alpha", 0.01) == 0.0:
            node.op = "Relu"
            node.attrs.clear()
