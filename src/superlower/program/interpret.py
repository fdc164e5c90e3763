"""The meaning of a program, said as plainly as can be: the oracle every schedule and runtime is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.program.model import Program
from superlower.program.unroll import Element, Unrolled

Array = NDArray[np.generic]
CallGraph = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""Graph name and feeds by input name -> outputs by name."""


def interpret(program: Program, frames: Sequence[Array], call_graph: CallGraph) -> list[Array]:
    """Evaluate every equation at every frame, whichever is ready, until all are done.

    Nothing is scheduled, freed or overlapped.

    Args:
        program: a legal program.
        frames: elements of the input stream, each of the input stream's shape.
        call_graph: evaluates one graph.

    Returns:
        The output stream, one element a frame.
    """
    unrolled = Unrolled(program, len(frames))
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
            feeds = {
                name: known[element] if element is not None else _zeros(program, equation.reads[name].stream)
                for name, element in reads.items()
            }
            outputs = call_graph(equation.graph, feeds)
            for name, element in unrolled.writes(call).items():
                known[element] = outputs[name]
        if len(later) == len(waiting):
            raise BadInputError(f"cyclic read: {', '.join(map(str, later[:4]))} wait for one another")
        waiting = later
    return [known[Element(program.output, t)] for t in range(len(frames))]


def _zeros(program: Program, stream: str) -> Array:
    return np.zeros(program.sizes(stream), program.streams[stream].dtype)
