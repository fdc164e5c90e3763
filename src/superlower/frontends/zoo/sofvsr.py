"""SOF-VSR (Wang et al., IEEE TIP 2020, and ACCV 2018): a window of three frames of luma."""

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
    from superlower.frontends.zoo.sofvsr_accv_torch import SofVsrAccvNet
    from superlower.frontends.zoo.sofvsr_torch import SofVsrNet

MULTIPLE = 2
"""The coarsest flow is made at half the size."""

MINIMUM_SIDE = 4
DEFAULT_SCALE = 4
SCALES = (2, 3, 4)
_DRAFTS = "SR.body.0.weight"


class SofVsr:
    """`superlower export sofvsr`. Option: `scale`, 2, 3 or 4 (else as in the checkpoint, or 4)."""

    name: ClassVar[str] = "sofvsr"
    title: ClassVar[str] = "SOF-VSR (TIP)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2001.02129"
    scale: ClassVar[int] = DEFAULT_SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = (
        Checkpoint(
            name="bi-x2",
            location=(
                "https://raw.githubusercontent.com/LongguangWang/SOF-VSR/"
                "3f312b21318e66e977413012837bef761452e189/TIP/log/BI_x2.pth"
            ),
            sha256="834f4c78f9cb399b6aba3245fd310f421958b465375c36ea5064fcebfbf6b0d2",
            license="NOASSERTION",
            trained_on="luma, MATLAB bicubic downsampling x2",
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
        return _blueprint(self, request, self._network(request))

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> SofVsrNet:
        known_options(self.name, request.options, ["scale"])
        asked = choice_option(self.name, request.options, "scale", [str(scale) for scale in SCALES])
        state = read_weights(request)
        found = {2 * scale**2 + 1: scale for scale in SCALES}
        first = state.get(_DRAFTS)
        in_file = DEFAULT_SCALE if first is None else found.get(first.shape[1], DEFAULT_SCALE)
        scale = int(asked) if asked else in_file

        from superlower.frontends.zoo.sofvsr_torch import SofVsrNet

        return network_of(lambda: SofVsrNet(scale), state, request, f"{self.title} x{scale}")


class SofVsrAccv:
    """`superlower export sofvsr-accv`: x4, no options."""

    name: ClassVar[str] = "sofvsr-accv"
    title: ClassVar[str] = "SOF-VSR (ACCV)"
    paper: ClassVar[str] = "https://arxiv.org/abs/1809.08573"
    scale: ClassVar[int] = DEFAULT_SCALE
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
        return _blueprint(self, request, self._network(request))

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> SofVsrAccvNet:
        known_options(self.name, request.options, ())
        state = read_weights(request)

        from superlower.frontends.zoo.sofvsr_accv_torch import SofVsrAccvNet

        return network_of(SofVsrAccvNet, state, request, self.title)


def _blueprint(
    frontend: SofVsr | SofVsrAccv, request: ExportRequest, network: SofVsrNet | SofVsrAccvNet
) -> Blueprint:
    return window_blueprint(
        network,
        network.upscale,
        name=frontend.name,
        frame=frame_of(request, scale=network.scale, channels=1, multiple=MULTIPLE, minimum=MINIMUM_SIDE),
        radius=1,
        edge=Edge.REPLICATE,
        provenance=provenance(frontend.name, frontend.paper, request, scale=network.scale),
    )
