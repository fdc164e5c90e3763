"""Networks that make a frame from a window of frames, as a temporal program of one equation:

output[t] = upscale(before1=frame[t-1], x=frame[t], after1=frame[t+1])

What such a graph computes of a single frame it computes for every window the frame is in: hoisting that is a
program pass's work, and no architecture's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from superlower.frontends.zoo.blueprint import Blueprint
from superlower.program.model import Edge, Equation, Frame, Program, Read, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def window_blueprint(
    network: nn.Module,
    upscale: Callable[..., object],
    *,
    name: str,
    frame: Frame,
    radius: int,
    edge: Edge,
    provenance: Mapping[str, str],
) -> Blueprint:
    """A window's network and program.

    Args:
        network: holds the weights.
        upscale: its method from frames t - radius to t + radius, in order, to the upscaled frame t.
        name: the model's.
        frame: its contract.
        radius: frames before and after.
        edge: what stands beyond the clip's ends.
        provenance: where it came from.
    """
    channels, scale = frame.channels, frame.scale
    inputs = {_input(k): str(Read("frame", k)) for k in range(-radius, radius + 1)}
    program = Program(
        name=name,
        frame=frame,
        streams={
            "frame": Stream(shape=(1, channels, "H", "W"), edge=edge),
            "output": Stream(shape=(1, channels, f"{scale}*H", f"{scale}*W")),
        },
        equations=(Equation(name="upscale", graph="upscale", inputs=inputs, outputs={"output": "output"}),),
        provenance=dict(provenance),
    )
    return Blueprint(network, program, {"upscale": upscale})


def _input(offset: int) -> str:
    if offset == 0:
        return "x"
    return f"before{-offset}" if offset < 0 else f"after{offset}"
