"""RSDN (Isobe et al., ECCV 2020) as a temporal program: one recurrent step with three states.

    h[t], d[t], s[t], output[t] = step(x=frame[t], previous=frame[t-1], h[t-1], d[t-1], s[t-1])

h is the hidden state; d and s are the detail and the structure picture, folded into the frame's size. Before
the first frame the states are zeros and the frame is the second one, as in the authors' code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.build import (
    clip_reference,
    frame_of,
    known_options,
    missing_torch,
    network_of,
    provenance,
    read_weights,
)
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.rsdn_torch import RsdnNet

FEATURES = 128
SCALE = 4
PICTURE = 3 * SCALE**2


class Rsdn:
    """`superlower export rsdn`: RSDN 9-128. No options."""

    name: ClassVar[str] = "rsdn"
    title: ClassVar[str] = "RSDN 9-128"
    paper: ClassVar[str] = "https://arxiv.org/abs/2008.00455"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = ()

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan `step` for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an option.
            MissingSdkError: PyTorch isn't installed.
        """
        # Structure is the frame at half its size and back.
        frame = frame_of(request, scale=SCALE, multiple=2)
        network = self._network(request)
        return Blueprint(network, _program(request, frame), {"step": network.step})

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> RsdnNet:
        known_options(self.name, request.options, ())
        state = read_weights(request)

        from superlower.frontends.zoo.rsdn_torch import RsdnNet

        return network_of(RsdnNet, state, request, self.title)


def _program(request: ExportRequest, frame: Frame) -> Program:
    picture = Stream(shape=(1, PICTURE, "H", "W"))
    return Program(
        name=Rsdn.name,
        frame=frame,
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REFLECT),
            "h": Stream(shape=(1, FEATURES, "H", "W")),
            "d": picture,
            "s": picture,
            "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
        },
        equations=(
            Equation(
                name="step",
                graph="step",
                inputs={
                    "x": "frame[t]",
                    "previous": "frame[t-1]",
                    "hidden": "h[t-1]",
                    "detail": "d[t-1]",
                    "structure": "s[t-1]",
                },
                outputs={"hidden_next": "h", "detail_next": "d", "structure_next": "s", "output": "output"},
            ),
        ),
        provenance=provenance(Rsdn.name, Rsdn.paper, request),
    )
