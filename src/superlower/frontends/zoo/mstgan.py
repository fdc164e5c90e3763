"""MST-GAN's generator: a window of three frames, aligned at several scales. What is ours: docs/models.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.build import (
    choice_option,
    clip_reference,
    count_of,
    frame_of,
    known_options,
    missing_torch,
    network_of,
    provenance,
    read_weights,
    whole_option,
)
from superlower.frontends.zoo.window import window_blueprint
from superlower.program.model import Edge, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.mstgan_torch import MstGanNet

SCALE = 4
MULTIPLE = 4
"""Features are aligned at a quarter of the size too."""

DEFAULT_BLOCKS = 11
_BLOCK = r"pyramid\.blocks\.(\d+)\."
_FINER = "align.estimate.1.0.weight"


class MstGan:
    """`superlower export mstgan`. Options: `alignment`, multi (a flow at every scale) or single (one at the
    coarsest scale, enlarged and used again); `blocks`, residual blocks on each frame by itself; both else as
    in the checkpoint. The discriminator is not deployed."""

    name: ClassVar[str] = "mstgan"
    title: ClassVar[str] = "MST-GAN (own build)"
    paper: ClassVar[str] = "no code or layer table is public"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = ()

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan `upscale` for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = frame_of(request, scale=SCALE, multiple=MULTIPLE)
        network = self.network(request)
        return window_blueprint(
            network,
            network.upscale,
            name=self.name,
            frame=frame,
            radius=1,
            edge=Edge.REFLECT,
            provenance=provenance(
                self.name,
                self.paper,
                request,
                alignment="multi" if network.multiscale else "single",
                **network.structure,
            ),
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self.network(request))

    def network(self, request: ExportRequest) -> MstGanNet:
        """The network in evaluation mode, pruned as its checkpoint is. Raises as `export` does."""
        known_options(self.name, request.options, ["alignment", "blocks"])
        alignment = choice_option(self.name, request.options, "alignment", ("multi", "single"))
        asked = whole_option(self.name, request.options, "blocks", "residual blocks")
        state = read_weights(request)
        multiscale = alignment == "multi" if alignment else not state or _FINER in state
        blocks = asked or count_of(state, _BLOCK, DEFAULT_BLOCKS)

        from superlower.frontends.zoo.mstgan_torch import MstGanNet

        return network_of(
            lambda: MstGanNet(multiscale=multiscale, blocks=blocks, pruned=state),
            state,
            request,
            f"MST-GAN with {'multi' if multiscale else 'single'}-scale alignment and {blocks} blocks",
        )
