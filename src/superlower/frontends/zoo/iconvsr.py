"""IconVSR (Chan et al., CVPR 2021) as a temporal program: BasicVSR whose keyframes take features of a window.

    flow_b[t]        = flow(ref=frame[t], sup=frame[t+1])                            when t < T - 1
    flow_f[t]        = flow(ref=frame[t], sup=frame[t-1])                            when t > 0
    features[t]      = extract(frame[t-2], frame[t-1], frame[t], frame[t+1], frame[t+2])      at keyframes
    hb[t]            = backward_key(x=frame[t], hb[t+1], flow_b[t], features[t])              at keyframes
    hb[t]            = backward(x=frame[t], hb[t+1], flow_b[t])                               elsewhere
    hf[t], output[t] = forward_key(x=frame[t], hf[t-1], flow_f[t], hb[t], features[t])        at keyframes
    hf[t], output[t] = forward(x=frame[t], hf[t-1], flow_f[t], hb[t])                         elsewhere

Every fifth frame is a keyframe, and the last is. Windows that reach beyond the clip take frames from inside
it: that at -k is that at radius + k, and alike at the other end. Each such case is an equation of its own,
with other reads of the same graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.zoo.basicvsr import FLOWS
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
from superlower.program.model import Edge, Equation, Frame, Program, Read, Stream, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.iconvsr_torch import IconVsrNet

FEATURES = 64
SCALE = 4
MULTIPLE = 4
"""Keyframes' features are aligned at a quarter of the size too."""

MINIMUM_SIDE = 36
"""Below it SPyNet's coarsest level is one pixel wide, where no flow is defined."""

DEFAULT_BLOCKS = 30
DEFAULT_WINDOW = 5
DEFAULT_STRIDE = 5
_BLOCK = r"forward_trunk\.main\.2\.(\d+)\."
_FUSED = "edvr.fusion.feat_fusion.weight"


class IconVsr:
    """`superlower export iconvsr`. Options: `blocks`, residual blocks a trunk; `window`, frames that a
    keyframe's features are of, 5 (REDS) or 7 (Vimeo-90K), both as in the checkpoint; `stride`, from keyframe
    to keyframe."""

    name: ClassVar[str] = "iconvsr"
    title: ClassVar[str] = "IconVSR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.02181"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = ()

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan the six graphs for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = frame_of(request, scale=SCALE, multiple=MULTIPLE, minimum=MINIMUM_SIDE, reflect=True)
        network = self._network(request)
        return Blueprint(
            network,
            _program(request, frame, network),
            {
                "flow": network.estimate_flow,
                "extract": network.extract,
                "backward": network.propagate_backward,
                "backward_key": network.propagate_backward_key,
                "forward": network.propagate_forward,
                "forward_key": network.propagate_forward_key,
            },
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> IconVsrNet:
        options = request.options
        known_options(self.name, options, ["blocks", "window", "stride"])
        asked_blocks = whole_option(self.name, options, "blocks", "residual blocks")
        asked_window = whole_option(self.name, options, "window", "frames", least=3)
        stride = whole_option(self.name, options, "stride", "frames") or DEFAULT_STRIDE
        state = read_weights(request)

        blocks = asked_blocks or count_of(state, _BLOCK, DEFAULT_BLOCKS)
        fused = state.get(_FUSED)
        window = asked_window or (DEFAULT_WINDOW if fused is None else fused.shape[1] // FEATURES)
        require_middle(self.name, "window", window)

        from superlower.frontends.zoo.iconvsr_torch import IconVsrNet

        return network_of(
            lambda: IconVsrNet(blocks, window, stride),
            state,
            request,
            f"IconVSR with {blocks} blocks and windows of {window}",
        )


def _program(request: ExportRequest, frame: Frame, network: IconVsrNet) -> Program:
    flow = Stream(shape=(1, 2, "H", "W"))
    features = Stream(shape=(1, FEATURES, "H", "W"))
    stride = network.stride
    key, rest = f"t % {stride} == 0 or t == T - 1", f"t % {stride} != 0 and t != T - 1"
    backward = {"x": "frame[t]", "hidden": "hb[t+1]", "flow": "flow_b[t]"}
    forward = {"x": "frame[t]", "hidden": "hf[t-1]", "flow": "flow_f[t]", "back": "hb[t]"}
    refill = {"features": "features[t]"}
    state, both = {"hidden_next": "hb"}, {"hidden_next": "hf", "output": "output"}
    return Program(
        name=IconVsr.name,
        frame=frame,
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REFLECT),
            "flow_b": flow,
            "flow_f": flow,
            "features": features,
            "hb": features,
            "hf": features,
            "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
        },
        equations=(
            *FLOWS,
            *extractions(network.window // 2, stride),
            *(
                Equation(name=graph, graph=graph, inputs=inputs, outputs=outputs, when=when)
                for graph, inputs, outputs, when in (
                    ("backward_key", {**backward, **refill}, state, key),
                    ("backward", backward, state, rest),
                    ("forward_key", {**forward, **refill}, both, key),
                    ("forward", forward, both, rest),
                )
            ),
        ),
        provenance=provenance(
            IconVsr.name,
            IconVsr.paper,
            request,
            blocks=network.blocks,
            window=network.window,
            stride=stride,
        ),
    )


def extractions(radius: int, stride: int) -> list[Equation]:
    """One equation for each way in which a keyframe's window can lie to the clip's ends.

    Args:
        radius: frames before and after the keyframe.
        stride: from keyframe to keyframe.
    """
    lengths = range(1, 2 * radius + stride + 2)
    cases = {
        (min(t, radius), min(frames - 1 - t, radius))
        for frames in lengths
        for t in range(frames)
        if t % stride == 0 or t == frames - 1
    }
    return [_extraction(before, after, radius, stride) for before, after in sorted(cases, reverse=True)]


def _extraction(before: int, after: int, radius: int, stride: int) -> Equation:
    """The keyframes with `before` frames of the clip before them and `after` after; `radius` means as many or
    more."""
    inputs = {}
    for offset in range(-radius, radius + 1):
        read = offset
        if offset < -before:
            read = radius - 2 * before - offset
        elif offset > after:
            read = 2 * after - radius - offset
        inputs[f"x{offset + radius}"] = str(Read("frame", read))
    start = f"t == {before}" if before < radius else f"t >= {radius}"
    end = f"t == T - {after + 1}" if after < radius else f"t < T - {radius}"
    return Equation(
        name="extract" if before == after == radius else f"extract_{before}_{after}",
        graph="extract",
        inputs=inputs,
        outputs={"features": "features"},
        when=f"(t % {stride} == 0 or t == T - 1) and {start} and {end}",
    )
