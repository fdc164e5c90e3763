"""Hidden states that an engine can keep to itself."""

from __future__ import annotations

from superlower.program.model import Edge, Program


def state_pairs(program: Program, graph: str) -> tuple[tuple[str, str], ...]:
    """Graph outputs and inputs that an engine can keep to itself: (output name, input name).

    An engine hands the output of its last call to its next one, or zeros to the first. A stream is just that
    if one equation alone calls the graph, at every frame; it alone writes the stream, and reads it once, at
    t - 1 or t + 1; nobody else reads it; and it is zeros outside the clip.
    """
    callers = [e for e in program.equations if graph in e.graphs]
    if len(callers) != 1 or callers[0].when.strip() != "true" or callers[0].route is not None:
        return ()
    (caller,) = callers
    pairs = []
    for made, stream in caller.outputs.items():
        writers = [e.name for e in program.equations for written in e.outputs.values() if written == stream]
        readers = [
            (e.name, name, read.offset)
            for e in program.equations
            for name, read in e.reads.items()
            if read.stream == stream
        ]
        if writers != [caller.name] or len(readers) != 1 or stream == program.output:
            continue
        ((reader, given, offset),) = readers
        if reader == caller.name and abs(offset) == 1 and program.streams[stream].edge is Edge.ZEROS:
            pairs.append((made, given))
    return tuple(pairs)
