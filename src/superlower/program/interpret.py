"""The meaning of a program, said as plainly as can be: the oracle every schedule and runtime is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.program.model import Program
from superlower.program.routes import RoutedCall, routings
from superlower.program.unroll import Element, Unrolled

Array = NDArray[np.generic]
CallGraph = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""Graph name and feeds by input name -> outputs by name."""


def interpret(program: Program, frames: Sequence[Array], call_graph: CallGraph) -> list[Array]:
    """The output stream over a clip, one element a frame; see `evaluate`."""
    known = evaluate(program, frames, call_graph)
    return [known[Element(program.output, t)] for t in range(len(frames))]


def evaluate(program: Program, frames: Sequence[Array], call_graph: CallGraph) -> dict[Element, Array]:
    """Evaluate every equation at every frame, whichever is ready, until all are done.

    Nothing is scheduled, freed or overlapped.

    Args:
        program: a legal program.
        frames: elements of the input stream, each of the input stream's shape.
        call_graph: evaluates one graph.

    Returns:
        Every element of every stream.
    """
    unrolled = Unrolled(program, len(frames))
    routes = routings(program)
    known = {Element(program.input, t): frame for t, frame in enumerate(frames)}
    waiting = list(unrolled.calls())
    while waiting:
        later = []
        for call in waiting:
            reads = unrolled.reads(call)
            if any(element is not None and element not in known for element in reads.values()):
                later.append(call)
                continue
            equation = unrolled.equations[call.equation]
            values = {
                name: known[element] if element is not None else _zeros(program, equation.reads[name].stream)
                for name, element in reads.items()
            }
            if equation.route is None:
                outputs = call_graph(equation.graph, values)
            else:
                outputs = _route(routes[equation.name].call(values), call_graph)
            for name, element in unrolled.writes(call).items():
                known[element] = outputs[name]
        if len(later) == len(waiting):
            raise BadInputError(f"cyclic read: {', '.join(map(str, later[:4]))} wait for one another")
        waiting = later
    return known


def _route(call: RoutedCall, call_graph: CallGraph) -> Mapping[str, Array]:
    for part in call.parts:
        call.take(part, call_graph(part.graph, call.feeds(part)))
    return call.outputs


def _zeros(program: Program, stream: str) -> Array:
    return np.zeros(program.sizes(stream), program.streams[stream].dtype)
