"""The nodes of a model that can be quantized, grouped by what they do in the recurrence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from superlower.driver.flops import convolutions
from superlower.ir import ancestors, infer_shapes, node_name, static_shape
from superlower.passes.quantize import quantizable
from superlower.program import analysis
from superlower.program.model import TemporalModel
from superlower.program.schedule import schedule

Nodes = Mapping[str, tuple[str, ...]]
"""Graph -> names of nodes."""

FLOPS_PER_BYTE = 16.0
"""fp32 operations that processors do in the time they move a byte, by order of magnitude: the catalogue's
V100 does 17. It weighs what sums of tensors cost against convolutions."""

_COORDINATES = {"GridSample": (1,), "DeformConv": (2, 3)}
_SAVED = 0.75
"""Of the time: 8-bit products run four times as fast as fp32 ones, 8-bit tensors are a fourth of them."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that are quantized together or not at all.

    Attributes:
        name: what they are: see `node_groups`.
        nodes: by graph.
        share: of the time that quantizing all groups would save, estimated.
    """

    name: str
    nodes: Nodes
    share: float

    @property
    def count(self) -> int:
        """How many nodes."""
        return sum(map(len, self.nodes.values()))

    def halves(self) -> tuple[NodeGroup, NodeGroup]:
        """Each graph's nodes nearer to the inputs and those nearer to the outputs; half the share each."""
        first = {graph: names[: (len(names) + 1) // 2] for graph, names in self.nodes.items()}
        second = {graph: names[(len(names) + 1) // 2 :] for graph, names in self.nodes.items()}
        return (
            NodeGroup(f"{self.name}, first half", first, self.share / 2),
            NodeGroup(f"{self.name}, second half", {g: n for g, n in second.items() if n}, self.share / 2),
        )


ROLES = {
    "flow": "convolutions that give nothing but sampling positions",
    "entry": "the first convolutions that hidden states meet",
    "trunk": "convolutions between there and the hidden states",
    "sums": "residual sums between convolutions",
    "features": "convolutions that hidden states and pictures don't pass through",
    "reconstruction": "convolutions after the hidden states",
    "last": "convolutions whose results the pictures are made of directly",
}


def node_groups(model: TemporalModel, frames: int) -> list[NodeGroup]:
    """Every quantizable node in one group, by role, in the order of `ROLES`; roles without any are left out.

    By the structure alone: which streams are hidden states, which graph inputs end as sampling positions, and
    what lies between. A residual sum whose result leaves the graph as the picture is in no group.

    Args:
        frames: of the clip that calls are counted over.
    """
    facts = analysis.analyze(model.program).streams
    states = {name for name, stream in facts.items() if stream.state}
    positions = _position_streams(model)
    calls = schedule(model.program, frames).steps
    found: dict[str, dict[str, list[str]]] = {role: {} for role in ROLES}
    saved = dict.fromkeys(ROLES, 0.0)
    for name, untyped in model.graphs.items():
        graph = infer_shapes(untyped)
        read, written = _streams(model, name)
        roles = _Roles(
            graph.graph,
            state_inputs={i for i, streams in read.items() if streams & states},
            state_outputs={o for o, streams in written.items() if streams & states},
            position_outputs={o for o, streams in written.items() if streams <= positions},
            pictures={o for o, streams in written.items() if model.program.output in streams},
        )
        macs = {c.node: c.macs for c in convolutions(graph)}
        times = sum(step.graph == name for step in calls)
        for node in graph.graph:
            role = roles.of(node)
            if role is None:
                continue
            found[role].setdefault(name, []).append(node_name(node))
            work = 2.0 * macs.get(node_name(node), 0)
            if node.op_type == "Add":
                work = FLOPS_PER_BYTE * 4 * prod(static_shape(node.outputs[0]) or ())
            saved[role] += _SAVED * work * times
    whole = sum(saved.values()) or 1.0
    return [
        NodeGroup(role, {graph: tuple(names) for graph, names in by_graph.items()}, saved[role] / whole)
        for role, by_graph in found.items()
        if by_graph
    ]


def together(groups: Iterable[NodeGroup]) -> dict[str, tuple[str, ...]]:
    """The nodes of several groups, by graph."""
    nodes: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for graph, names in group.nodes.items():
            nodes[graph] = (*nodes.get(graph, ()), *names)
    return nodes


def _streams(model: TemporalModel, graph: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Streams that a graph's inputs are read from and its outputs written to, by any equation."""
    read: dict[str, set[str]] = {}
    written: dict[str, set[str]] = {}
    for equation in model.program.equations:
        if equation.graph == graph:
            for name, source in equation.reads.items():
                read.setdefault(name, set()).add(source.stream)
            for name, stream in equation.outputs.items():
                written.setdefault(name, set()).add(stream)
    return read, written


def _position_streams(model: TemporalModel) -> set[str]:
    """Streams that are read as sampling positions, and nothing else."""
    positions: set[str] = set()
    others = {model.program.output}
    for name, graph in model.graphs.items():
        read, _ = _streams(model, name)
        data = ancestors(graph.graph.outputs, _data)
        for value in graph.graph.inputs:
            streams = read.get(str(value.name), set())
            (others if value in data else positions).update(streams)
    return positions - others


def _data(node: ir.Node) -> list[ir.Value | None]:
    """A node's inputs but for sampling positions."""
    skipped = () if node.domain else _COORDINATES.get(node.op_type, ())
    return [value for i, value in enumerate(node.inputs) if i not in skipped]


class _Roles:
    """What each node of a graph is for."""

    def __init__(
        self,
        graph: ir.Graph,
        *,
        state_inputs: set[str],
        state_outputs: set[str],
        position_outputs: set[str],
        pictures: set[str],
    ) -> None:
        outputs = {str(v.name): v for v in graph.outputs}
        self._state_inputs = state_inputs
        self._to_data = ancestors((v for name, v in outputs.items() if name not in position_outputs), _data)
        self._to_states = ancestors(outputs[n] for n in state_outputs)
        self._to_pictures = ancestors(outputs[n] for n in pictures)
        self._pictures = {outputs[n] for n in pictures}
        self._direct = {v for n in pictures for v in _without_convolutions(outputs[n])}

    def of(self, node: ir.Node) -> str | None:
        """The node's role; None if it isn't to be quantized."""
        if not quantizable(node):
            return None
        made = node.outputs[0]
        if made not in self._to_data:
            return "flow" if node.op_type == "Conv" else None
        if node.op_type == "Add":
            return None if made in self._direct else "sums"
        if made in self._direct:
            return "last"
        if made in self._to_states:
            first = self._reads_state(node)
            return "entry" if first else "trunk"
        return "reconstruction" if made in self._to_pictures else "features"

    def _reads_state(self, node: ir.Node) -> bool:
        data = node.inputs[0]
        assert data is not None
        return any(v.name in self._state_inputs for v in _without_convolutions(data))


def _without_convolutions(start: ir.Value) -> set[ir.Value]:
    """The values that one is computed from with no convolution between."""
    return ancestors([start], lambda node: () if node.op_type == "Conv" else node.inputs)
