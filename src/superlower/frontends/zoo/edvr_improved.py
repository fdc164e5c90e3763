"""The improved EDVR (Huang and Chen, WACV 2022): a window of five frames. What is ours: docs/models.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.build import (
    clip_reference,
    count_of,
    frame_of,
    known_options,
    missing_torch,
    network_of,
    provenance,
    read_weights,
    require_middle,
    whole_option,
)
from superlower.frontends.zoo.window import window_blueprint
from superlower.program.model import Edge, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.edvr_improved_torch import ImprovedEdvrNet

FEATURES = 64
SCALE = 4
MULTIPLE = 4
"""Features are aligned at a quarter of the size."""

DEFAULT_FRAMES = 5
DEFAULT_BLOCKS = 23
_BLOCK = r"reconstruction\.(\d+)\."


class ImprovedEdvr:
    """`superlower export edvr-improved`. Options: `frames` of the window, 3 or more and odd; `blocks`,
    residual blocks of the reconstruction; both else as in the checkpoint."""

    name: ClassVar[str] = "edvr-improved"
    title: ClassVar[str] = "improved EDVR (own build)"
    paper: ClassVar[str] = "Huang and Chen, WACV 2022"
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
        network = self._network(request)
        return window_blueprint(
            network,
            network.upscale,
            name=self.name,
            frame=frame,
            radius=network.frames // 2,
            edge=Edge.REFLECT,
            provenance=provenance(
                self.name, self.paper, request, frames=network.frames, blocks=network.blocks
            ),
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> ImprovedEdvrNet:
        known_options(self.name, request.options, ["frames", "blocks"])
        asked_frames = whole_option(self.name, request.options, "frames", "frames", least=3)
        asked_blocks = whole_option(self.name, request.options, "blocks", "residual blocks")
        state = read_weights(request)
        fused = state.get("fusion.weight")
        frames = asked_frames or (DEFAULT_FRAMES if fused is None else fused.shape[1] // FEATURES)
        require_middle(self.name, "frames", frames)
        blocks = asked_blocks or count_of(state, _BLOCK, DEFAULT_BLOCKS)

        from superlower.frontends.zoo.edvr_improved_torch import ImprovedEdvrNet

        return network_of(
            lambda: ImprovedEdvrNet(frames, blocks),
            state,
            request,
            f"improved EDVR of {frames} frames and {blocks} blocks",
        )
