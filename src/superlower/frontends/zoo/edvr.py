"""EDVR (Wang et al., CVPR workshops 2019): a window of five or seven frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from superlower.errors import BadInputError
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
    require_middle,
    whole_option,
)
from superlower.frontends.zoo.window import window_blueprint
from superlower.program.model import Edge, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.edvr_torch import EdvrNet

SCALE = 4
GROUPS = 8
"""Deformable groups."""

MULTIPLE = 4
"""Features are aligned at a quarter of the size too."""

DEFAULT_FRAMES = 5
_BLOCK = r"reconstruction\.(\d+)\."
_FUSED = {True: "fusion.feat_fusion.weight", False: "fusion.weight"}


class Edvr:
    """EDVR. Options: `features`, channels; `blocks`, residual blocks of the reconstruction; `frames` of the
    window, 3 or more and odd; `tsa`, yes or no, temporal and spatial attention. Each is as in the checkpoint,
    or the published network's for seeded weights."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.02716"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = ()
    features: ClassVar[int]
    blocks: ClassVar[int]

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
                self.name,
                self.paper,
                request,
                features=network.features,
                blocks=network.blocks,
                frames=network.frames,
                tsa="yes" if network.attention else "no",
            ),
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> EdvrNet:
        options = request.options
        known_options(self.name, options, ["features", "blocks", "frames", "tsa"])
        asked_features = whole_option(self.name, options, "features", "channels")
        asked_blocks = whole_option(self.name, options, "blocks", "residual blocks")
        asked_frames = whole_option(self.name, options, "frames", "frames", least=3)
        asked_tsa = choice_option(self.name, options, "tsa", ("yes", "no"))
        state = read_weights(request)

        first = state.get("conv_first.weight")
        features = asked_features or (self.features if first is None else len(first))
        if features % GROUPS:
            raise BadInputError(f"{self.name} option features={features} is no multiple of {GROUPS}")
        blocks = asked_blocks or count_of(state, _BLOCK, self.blocks)
        attention = asked_tsa == "yes" if asked_tsa else not state or _FUSED[True] in state
        fused = state.get(_FUSED[attention])
        frames = asked_frames or (DEFAULT_FRAMES if fused is None else fused.shape[1] // features)
        require_middle(self.name, "frames", frames)

        from superlower.frontends.zoo.edvr_torch import EdvrNet

        return network_of(
            lambda: EdvrNet(features, blocks, frames, attention=attention),
            state,
            request,
            f"EDVR of {features} channels, {blocks} blocks and {frames} frames, "
            f"{'with' if attention else 'without'} attention",
        )


class EdvrM(Edvr):
    """`superlower export edvr-m`."""

    name: ClassVar[str] = "edvr-m"
    title: ClassVar[str] = "EDVR-M"
    features: ClassVar[int] = 64
    blocks: ClassVar[int] = 10


class EdvrL(Edvr):
    """`superlower export edvr-l`."""

    name: ClassVar[str] = "edvr-l"
    title: ClassVar[str] = "EDVR-L"
    features: ClassVar[int] = 128
    blocks: ClassVar[int] = 40
