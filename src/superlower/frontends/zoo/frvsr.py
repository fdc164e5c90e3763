"""FRVSR (Sajjadi et al., CVPR 2018) as a temporal program: the last output, moved along, goes back in.

    flow[t]   = flow(ref=frame[t], sup=frame[t-1])
    output[t] = upscale(x=frame[t], flow=flow[t], previous=output[t-1])                  when t > 0

The published figures are of clips with five mirrored frames in front. They are equations of the first frame:

    warm5[0] = upscale(x=frame[5], flow=zeros, previous=zeros)
    warm4[0] = upscale(x=frame[4], flow=flow(ref=frame[4], sup=frame[5]), previous=warm5[0])
    ...
    output[0] = upscale(x=frame[0], flow=flow[0], previous=warm1[0])

so that only the first frame looks ahead. Frames before the clip mirror those in it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    whole_option,
)
from superlower.program.model import Edge, Equation, Program, Read, Stream, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.frvsr_torch import FrameRecurrentNet

SCALE = 4
FEATURES = 64
DEFAULT_BLOCKS = 10
DEFAULT_WARM_UP = 5
MINIMUM_SIDE = 8
"""Below it the flow network's coarsest features are empty."""

_KERNELS = "upsample_func.kernels"


class FrameRecurrent:
    """Generators that take the last output back in. Options: `blocks`, residual blocks (else as in the
    checkpoint); `degradation`, bi or bd, what the weights are trained for (else as in the checkpoint; bd for
    seeded weights); `warmup`, mirrored frames in front of the first (5)."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = ()

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan `flow` and `upscale` for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = frame_of(request, scale=SCALE, minimum=MINIMUM_SIDE)
        network = self.network(request)
        found = provenance(
            self.name,
            self.paper,
            request,
            **network.structure,
            degradation="bd" if network.bicubic else "bi",
            warmup=network.warm_up,
        )
        picture = Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W"))
        flow = Stream(shape=(1, 2, "H", "W"))
        warm = range(1, network.warm_up + 1)
        program = Program(
            name=self.name,
            frame=frame,
            streams={
                "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REFLECT),
                "flow": flow,
                "output": picture,
                **{f"warm_flow{k}": flow for k in warm[:-1]},
                **{f"warm{k}": picture for k in warm},
            },
            equations=_equations(network.warm_up),
            provenance=found,
        )
        return Blueprint(network, program, {"flow": network.estimate_flow, "upscale": network.upscale})

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self.network(request))

    def _make(self, blocks: Sequence[int], bicubic: bool, warm_up: int) -> FrameRecurrentNet:
        from superlower.frontends.zoo.frvsr_torch import FrameRecurrentNet

        return FrameRecurrentNet(blocks, bicubic=bicubic, warm_up=warm_up)

    def network(self, request: ExportRequest) -> FrameRecurrentNet:
        """The network in evaluation mode, pruned as its checkpoint is. Raises as `export` does."""
        options = request.options
        known_options(self.name, options, ["blocks", "degradation", "warmup"])
        blocks = whole_option(self.name, options, "blocks", "residual blocks")
        degradation = choice_option(self.name, options, "degradation", ["bi", "bd"])
        warm_up = whole_option(self.name, options, "warmup", "frames", least=0)
        state = read_weights(request)

        from superlower.frontends.prunable_torch import widths_of
        from superlower.frontends.zoo.frvsr_torch import LAYOUT

        inner = widths_of(state, LAYOUT.rows[0])
        if blocks or not inner:
            inner = (FEATURES,) * (blocks or DEFAULT_BLOCKS)
        bicubic = degradation == "bd" if degradation else not state or _KERNELS in state
        return network_of(
            lambda: self._make(inner, bicubic, DEFAULT_WARM_UP if warm_up is None else warm_up),
            state,
            request,
            f"{self.title} {'BD' if bicubic else 'BI'} with {len(inner)} blocks",
        )


class Frvsr(FrameRecurrent):
    """`superlower export frvsr`."""

    name: ClassVar[str] = "frvsr"
    title: ClassVar[str] = "FRVSR"
    paper: ClassVar[str] = "https://arxiv.org/abs/1801.04590"


def _equations(warm_up: int) -> tuple[Equation, ...]:
    found = [_flow("flow", 0, "flow", "true" if warm_up else "t > 0")]
    for k in range(warm_up, 0, -1):
        # The first of them has nothing before it: at t = 0, both reads of t - 1 are zeros.
        flow, previous = (
            ("flow[t-1]", "output[t-1]") if k == warm_up else (f"warm_flow{k}[t]", f"warm{k + 1}[t]")
        )
        if k < warm_up:
            found.append(_flow(f"warm_flow{k}", k, f"warm_flow{k}", "t == 0"))
        found.append(_upscale(f"warm{k}", k, flow, previous, f"warm{k}", "t == 0"))
    if warm_up:
        found.append(_upscale("first", 0, "flow[t]", "warm1[t]", "output", "t == 0"))
    found.append(_upscale("upscale", 0, "flow[t]", "output[t-1]", "output", "t > 0" if warm_up else "true"))
    return tuple(found)


def _flow(name: str, ahead: int, stream: str, when: str) -> Equation:
    before = ahead + 1 if ahead else -1
    return Equation(
        name=name,
        graph="flow",
        inputs={"ref": _frame(ahead), "sup": _frame(before)},
        outputs={"flow": stream},
        when=when,
    )


def _upscale(name: str, ahead: int, flow: str, previous: str, stream: str, when: str) -> Equation:
    return Equation(
        name=name,
        graph="upscale",
        inputs={"x": _frame(ahead), "flow": flow, "previous": previous},
        outputs={"output": stream},
        when=when,
    )


def _frame(offset: int) -> str:
    return str(Read("frame", offset))
