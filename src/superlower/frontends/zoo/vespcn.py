"""VESPCN (Caballero et al., CVPR 2017): a window of three frames."""

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
from superlower.frontends.zoo.window import window_blueprint
from superlower.program.model import Edge, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.vespcn_torch import VespcnNet

SCALE = 4
MULTIPLE = 4
"""The coarse flow is made at a quarter of the size, and shuffled back to it."""


class Vespcn:
    """`superlower export vespcn`. Option: `channels`, 3 for RGB or 1 for luma (else as in the checkpoint).

    Convolutions keep the size, and the neighbours are the frames before and after. The published port's eat a
    border and take the frame after twice, with the same weights.
    """

    name: ClassVar[str] = "vespcn"
    title: ClassVar[str] = "VESPCN"
    paper: ClassVar[str] = "https://arxiv.org/abs/1611.05250"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = (
        Checkpoint(
            name="egvsr",
            location=(
                "https://raw.githubusercontent.com/Thmen/EGVSR/c8927c3aa876fac8ce2508b00c6ed3a3d6df226c/"
                "pretrained_models/vespcn_ep0500.pth"
            ),
            sha256="5378055deb176f36ad75dc81cd92cf30de63344a9dee2edbd497a15cac4ab15d",
            license="MIT",
            trained_on="RGB x4, by EGVSR's authors",
        ),
    )

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan `upscale` for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        network = self._network(request)
        channels = network.channels
        return window_blueprint(
            network,
            network.upscale,
            name=self.name,
            frame=frame_of(request, scale=SCALE, channels=channels, multiple=MULTIPLE),
            radius=1,
            edge=Edge.REPLICATE,
            provenance=provenance(self.name, self.paper, request, channels=channels),
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> VespcnNet:
        known_options(self.name, request.options, ["channels"])
        asked = choice_option(self.name, request.options, "channels", ("1", "3"))
        state = read_weights(request)
        last = state.get("sr.exit.bias")
        channels = int(asked) if asked else 1 if last is not None and len(last) == 1 else 3

        from superlower.frontends.zoo.vespcn_torch import VespcnNet

        return network_of(lambda: VespcnNet(channels), state, request, f"{self.title} of {channels} channels")
