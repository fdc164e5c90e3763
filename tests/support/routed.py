"""Random programs with a routed equation, whose graphs are functions on arrays of any size.

The graphs' receptive fields are known, and their arithmetic is the same at every pixel, so that windows with
enough of a halo give a whole frame's pixels bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from superlower.program.model import Edge, Equation, Frame, Program, Route, Stream

Array = NDArray[np.generic]
HEIGHT, WIDTH = 8, 12
GRAPHS = ("near_1", "far_2")
"""Graphs to choose from; the number is how far their pixels see."""


def call_graph(name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph of `routed_program` by its name."""
    kind, *numbers = name.removeprefix("whole_").split("_")
    x = np.asarray(feeds["x"], np.float32)
    if kind == "choose":
        rows, columns, graphs = map(int, numbers)
        patches = x.reshape(rows, x.shape[2] // rows, columns, x.shape[3] // columns)
        return {"choice": (np.abs(patches).sum((1, 3)) * 7 % (graphs + 1)).astype(np.int32)[None, None]}
    if kind == "coarse":
        return {"y": _doubled(x), "h": 0.5 * x}
    if kind == "join":
        return {"joined": x + np.asarray(feeds["state"], np.float32)}
    if kind == "half":
        return {"half": np.ascontiguousarray(x[:, :, ::2, ::2])}
    if kind == "level":
        return {"level": x.sum(keepdims=True) / x.size}
    for _ in range(int(numbers[0])):
        x = np.tanh(_blur(x))
    if "half" in feeds:
        x = x + _doubled(np.asarray(feeds["half"], np.float32))
    if "level" in feeds:
        x = x + np.asarray(feeds["level"], np.float32)
    return {"y": _doubled(x), "h": 0.25 * x}


def _blur(x: Array) -> Array:
    """A sum of nine unequal neighbours, zeros beyond the edges."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = np.zeros_like(x)
    for k in range(9):
        row, column = divmod(k, 3)
        total += np.float32(0.05 + 0.03 * k) * padded[:, :, row : row + height, column : column + width]
    return total


def _doubled(x: Array) -> Array:
    return x.repeat(2, 2).repeat(2, 3)


def routed_program(
    route: Route, *, graph: str = "", offset: int = -1, half: bool = False, level: bool = False
) -> Program:
    """Output and a hidden state by route, from the frame with the state at t + offset added.

    Args:
        route: of equation "detail", over graphs of `GRAPHS`; choice[t], otherwise coarse[t] and rest[t].
        graph: the whole frame's form.
        offset: -1 for a forward recurrence, 1 for a backward one.
        half, level: whether the graphs also read a stream at half the size, and a single number.
    """
    rows, columns = HEIGHT // route.patch[0], WIDTH // route.patch[1]
    plane, double = (1, 1, "H", "W"), (1, 1, "2*H", "2*W")
    streams = {
        "frame": Stream(shape=plane, edge=Edge.REPLICATE),
        "choice": Stream(shape=(1, 1, rows, columns), dtype="int32"),
        "coarse": Stream(shape=double),
        "rest": Stream(shape=plane),
        "joined": Stream(shape=plane),
        "state": Stream(shape=plane),
        "output": Stream(shape=double),
    }
    inputs = {"x": "joined[t]"}
    equations = [
        Equation(
            name="choose",
            graph=f"choose_{rows}_{columns}_{len(route.graphs)}",
            inputs={"x": "frame[t]"},
            outputs={"choice": "choice"},
        ),
        Equation(name="rest", graph="coarse", inputs={"x": "frame[t]"}, outputs={"y": "coarse", "h": "rest"}),
        Equation(
            name="join",
            graph="join",
            inputs={"x": "frame[t]", "state": f"state[t{offset:+d}]"},
            outputs={"joined": "joined"},
        ),
    ]
    for name, shape, wanted in (("half", (1, 1, "H/2", "W/2"), half), ("level", (1, 1, 1, 1), level)):
        if wanted:
            streams[name] = Stream(shape=shape)
            inputs[name] = f"{name}[t]"
            equations.append(Equation(name=name, graph=name, inputs={"x": "frame[t]"}, outputs={name: name}))
    detail = Equation(
        name="detail", graph=graph, inputs=inputs, outputs={"y": "output", "h": "state"}, route=route
    )
    return Program(
        name="routed",
        frame=Frame(height=HEIGHT, width=WIDTH, channels=1, color="y", scale=2),
        streams=streams,
        equations=(detail, *equations),
    )


def route(**fields: object) -> Route:
    """A route of `routed_program`."""
    known = {
        "choice": "choice[t]",
        "graphs": ("far_2",),
        "patch": (4, 4),
        "otherwise": {"y": "coarse[t]", "h": "rest[t]"},
    }
    return msgspec.convert({**known, **fields}, Route, strict=False)


@st.composite
def routed_programs(draw: st.DrawFn, *, enough: bool = False) -> Program:
    """Patches, halos, batches and graphs at random; halos of what the graphs see if `enough` is asked."""
    graphs = draw(st.sampled_from((("near_1",), ("far_2",), GRAPHS)))
    least = max(int(name[-1]) for name in graphs) if enough else 0
    half = draw(st.booleans())
    even = 2 if half else 1
    halo = draw(st.integers(-(-least // even), 6 // even)) * even
    patch = (draw(st.sampled_from((2, 4, 8))), draw(st.sampled_from((2, 4, 6, 12))))
    whole = len(graphs) == 1 and draw(st.booleans())
    return routed_program(
        route(graphs=graphs, patch=patch, halo=halo, batch=draw(st.integers(1, 3))),
        graph=f"whole_{graphs[0]}" if whole else "",
        offset=draw(st.sampled_from((-1, 1))),
        half=half,
        level=draw(st.booleans()),
    )


def clip(count: int, seed: int = 0) -> list[Array]:
    """Frames for these programs."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 1, HEIGHT, WIDTH)).astype(np.float32) for _ in range(count)]
