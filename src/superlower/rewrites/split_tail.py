"""What only the picture needs, cut off the recurrence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from superlower.ir import ancestors, constant_value, infer_shapes, static_shape
from superlower.passes.base import Applied, Site
from superlower.program import legality
from superlower.program.analysis import Direction, directions
from superlower.program.model import Equation, Stream, TemporalModel
from superlower.rewrites._names import relative_shape, unused
from superlower.rewrites._plan import COSTLY
from superlower.rewrites.base import ProgramPass, Rewritten


@dataclass(frozen=True)
class SplitTail(ProgramPass):
    """Cut what no hidden state depends on out of a recurrent equation, into one of its own.

    ::

        hf[t], output[t] = forward(frame[t], hf[t-1], flow_f[t], hb[t])
        ->  hf[t]     = forward(frame[t], hf[t-1], flow_f[t], hb[t])
            output[t] = forward_tail(frame[t], hb[t], hf[t])

    The tail of frame t may then run beside the recurrence of t + 1, or with the tails of other frames in one
    call. The nodes are the same; a value that both halves need is computed in the first and read by the
    second, as an element of a hidden state where it is one, else of a stream of its own.

    An equation is cut if it writes a stream that is recurrent and one that isn't, and a convolution, a
    product of matrices or a sampler is needed by the second kind alone.

    Refused: graphs with functions or with bodies of If or Loop, and values between the halves whose sizes
    aren't static. Routed equations stay as they are.
    """

    name: ClassVar[str] = "split-tail"

    def run(self, model: TemporalModel) -> Rewritten:
        """See the class."""
        return split(model)[0]


def split(model: TemporalModel) -> tuple[Rewritten, dict[str, str]]:
    """What the pass makes, and of each of its graphs the one that it is of, by names."""
    program = model.program
    runs = directions(program)
    recurrent = {name for name, direction in runs.items() if direction is not Direction.NONE}
    rewritten: list[Site] = []
    refused: list[Site] = []
    streams = dict(program.streams)
    graphs = dict(model.graphs)
    origins = {name: name for name in graphs}
    equations: list[Equation] = []
    taken = _Names({*program.streams}, {*model.graphs}, {e.name for e in program.equations})
    for equation in program.equations:
        states = [name for name, stream in equation.outputs.items() if stream in recurrent]
        if equation.route is not None or not 0 < len(states) < len(equation.outputs):
            equations.append(equation)
            continue
        found = _cut(model.graphs[equation.graph], states)
        if isinstance(found, str):
            refused.append(Site(equation.name, found))
        if not isinstance(found, _Cut):
            equations.append(equation)
            continue
        first, last = _halves(model, equation, found, streams, graphs, taken)
        origins |= dict.fromkeys((first.graph, last.graph), equation.graph)
        equations += [first, last]
        given = ", ".join(sorted(last.inputs.values()))
        detail = f"{len(found.tail)} nodes to {last.name}, which reads {given}"
        rewritten.append(Site(equation.name, detail))
    if not rewritten:
        return Rewritten(model, Applied(refused=tuple(refused))), origins
    called = {name for e in equations for name in e.graphs}
    made = TemporalModel(
        msgspec.structs.replace(program, streams=streams, equations=tuple(equations)),
        {name: graph for name, graph in graphs.items() if name in called},
    )
    legality.verify(made.program)
    legality.verify_graphs(made)
    return Rewritten(made, Applied(tuple(rewritten), tuple(refused))), {n: origins[n] for n in made.graphs}


@dataclass(frozen=True)
class _Names:
    """Those in use."""

    streams: set[str]
    graphs: set[str]
    equations: set[str]


@dataclass(frozen=True)
class _Cut:
    """Where a graph is cut.

    Attributes:
        tail: names of the nodes behind the cut, or of their first outputs.
        given: values made before the cut and read behind it.
        made: graph outputs made behind it.
    """

    tail: frozenset[str]
    given: tuple[str, ...]
    made: frozenset[str]


def _cut(graph: ir.Model, states: Collection[str]) -> _Cut | str | None:
    """The cut; why there can't be one; None if there is nothing to cut off."""
    graph = infer_shapes(graph)
    outputs = {str(v.name): v for v in graph.graph.outputs}
    before = ancestors(outputs[name] for name in states)
    tail = [node for node in graph.graph if not before & set(node.outputs)]
    made = frozenset(n for n, v in outputs.items() if v not in before and v.producer() is not None)
    if not made or not any(node.op_type in COSTLY for node in tail):
        return None
    if graph.functions:
        return "its graph calls functions of its own: inline them first"
    for node in graph.graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return f"{node.op_type} '{node.name}' has a body of its own"
    inputs = set(graph.graph.inputs)
    given = []
    for value in dict.fromkeys(v for node in tail for v in node.inputs if v is not None):
        maker = value.producer()
        if maker is None or maker in tail or value in inputs or constant_value(value) is not None:
            continue
        if static_shape(value) is None or value.dtype is None:
            return f"the sizes of '{value.name}', which both halves need, aren't static"
        given.append(str(value.name))
    return _Cut(frozenset(str(node.outputs[0].name) for node in tail), tuple(given), made)


def _halves(
    model: TemporalModel,
    equation: Equation,
    cut: _Cut,
    streams: dict[str, Stream],
    graphs: dict[str, ir.Model],
    taken: _Names,
) -> tuple[Equation, Equation]:
    """The two equations; their graphs and streams are added."""
    whole = infer_shapes(model.graphs[equation.graph])
    values = {str(v.name): v for node in whole.graph for v in node.outputs}
    written = {n: s for n, s in equation.outputs.items() if n not in cut.made}
    reads = dict(equation.inputs)
    for name in cut.given:
        stream = written.get(name)
        if stream is None:
            stream = unused(f"{equation.name}_{name}", taken.streams)
            shape = static_shape(values[name])
            dtype = values[name].dtype
            assert shape is not None
            assert dtype is not None
            kind = relative_shape(model.program, shape)
            streams[stream] = Stream(shape=kind, dtype=dtype.numpy().name)
            written[name] = stream
        reads[name] = f"{stream}[t]"
    shared = sum(equation.graph in e.graphs for e in model.program.equations) > 1
    first_graph = unused(equation.graph, taken.graphs) if shared else equation.graph
    last_graph = unused(f"{equation.graph}_tail", taken.graphs)
    graphs[first_graph] = part(whole, written, ())
    behind = {n: s for n, s in equation.outputs.items() if n in cut.made}
    graphs[last_graph] = part(whole, behind, cut.given)
    return (
        _called(equation, equation.name, first_graph, graphs, reads, written),
        _called(
            equation, unused(f"{equation.name}_tail", taken.equations), last_graph, graphs, reads, behind
        ),
    )


def _called(
    equation: Equation,
    name: str,
    graph: str,
    graphs: Mapping[str, ir.Model],
    reads: Mapping[str, str],
    writes: Mapping[str, str],
) -> Equation:
    inputs = {str(v.name): reads[str(v.name)] for v in graphs[graph].graph.inputs}
    return Equation(name=name, graph=graph, inputs=inputs, outputs=dict(writes), when=equation.when)


def part(whole: ir.Model, outputs: Iterable[str], given: Sequence[str]) -> ir.Model:
    """The part of a graph that computes some of its values.

    Args:
        whole: with shapes inferred, without functions.
        outputs: names of values that become outputs.
        given: names of values that become inputs.
    """
    model = whole.clone()
    graph = model.graph
    values = {str(v.name): v for v in graph.inputs}
    values |= {str(v.name): v for node in graph for v in node.outputs}
    graph.outputs.clear()
    for name in given:
        value = values[name]
        fed = ir.Value(name=name, shape=value.shape, type=value.type)
        ir.convenience.replace_all_uses_with(value, fed)
        value.name = f"{name}_unused"
        graph.inputs.append(fed)
        values[name] = fed
    graph.outputs.extend(values[name] for name in outputs)
    RemoveUnusedNodesPass()(model)
    for value in [v for v in graph.inputs if not v.uses() and not v.is_graph_output()]:
        graph.inputs.remove(value)
    return model
