"""BasicVSR's equations, without its graphs."""

from __future__ import annotations

from superlower.program.model import Edge, Equation, Frame, Program, Stream


def basicvsr_program(height: int = 64, width: int = 64) -> Program:
    """The program of DESIGN: two sweeps over the clip, the flow of each where there is a neighbour."""
    state = (1, 64, "H", "W")
    return Program(
        name="basicvsr",
        frame=Frame(height=height, width=width),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "flow_b": Stream(shape=(1, 2, "H", "W")),
            "flow_f": Stream(shape=(1, 2, "H", "W")),
            "hb": Stream(shape=state),
            "hf": Stream(shape=state),
            "output": Stream(shape=(1, 3, "4*H", "4*W")),
        },
        equations=(
            Equation(
                name="flow_b",
                graph="flow",
                inputs={"ref": "frame[t]", "sup": "frame[t+1]"},
                outputs={"flow": "flow_b"},
                when="t < T - 1",
            ),
            Equation(
                name="flow_f",
                graph="flow",
                inputs={"ref": "frame[t]", "sup": "frame[t-1]"},
                outputs={"flow": "flow_f"},
                when="t > 0",
            ),
            Equation(
                name="backward",
                graph="backward",
                inputs={"x": "frame[t]", "hidden": "hb[t+1]", "flow": "flow_b[t]"},
                outputs={"hidden_out": "hb"},
            ),
            Equation(
                name="forward",
                graph="forward",
                inputs={"x": "frame[t]", "hidden": "hf[t-1]", "flow": "flow_f[t]", "back": "hb[t]"},
                outputs={"hidden_out": "hf", "output": "output"},
            ),
        ),
    )
