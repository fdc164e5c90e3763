"""ESPCN (Shi et al., CVPR 2016) as a temporal program: every frame by itself.

output[t] = upscale(x=frame[t])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.build import (
    choice_option,
    clip_reference,
    frame_of,
    known_options,
    missing_torch,
    network_of,
    provenance,
    read_weights,
)
from superlower.program.model import Edge, Equation, Program, Stream, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.espcn_torch import EspcnNet

SCALE = 4
TAILS = ("shuffle", "resize", "transposed")


class Espcn:
    """`superlower export espcn`, on luma. Option: `tail`, shuffle (as published), resize or transposed."""

    name: ClassVar[str] = "espcn"
    title: ClassVar[str] = "ESPCN"
    paper: ClassVar[str] = "https://arxiv.org/abs/1609.05158"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = (
        Checkpoint(
            name="egvsr",
            location=(
                "https://raw.githubusercontent.com/Thmen/EGVSR/c8927c3aa876fac8ce2508b00c6ed3a3d6df226c/"
                "pretrained_models/espcn_x4_subconv_100.pth"
            ),
            sha256="df165eaf72ab9d153d73df0cfdbc32210d64064d72837f13f9aba18f9b6ba21c",
            license="MIT",
            trained_on="luma x4, by EGVSR's authors; tail shuffle",
        ),
    )

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan `upscale` for the frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = frame_of(request, scale=SCALE, channels=1)
        network = self._network(request)
        program = Program(
            name=self.name,
            frame=frame,
            streams={
                "frame": Stream(shape=(1, 1, "H", "W"), edge=Edge.REPLICATE),
                "output": Stream(shape=(1, 1, f"{SCALE}*H", f"{SCALE}*W")),
            },
            equations=(
                Equation(
                    name="upscale", graph="upscale", inputs={"x": "frame[t]"}, outputs={"output": "output"}
                ),
            ),
            provenance=provenance(self.name, self.paper, request, tail=network.tail),
        )
        return Blueprint(network, program, {"upscale": network.forward})

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> EspcnNet:
        known_options(self.name, request.options, ["tail"])
        tail = choice_option(self.name, request.options, "tail", TAILS) or TAILS[0]
        state = read_weights(request)

        from superlower.frontends.zoo.espcn_torch import EspcnNet

        return network_of(lambda: EspcnNet(tail), state, request, self.title)
