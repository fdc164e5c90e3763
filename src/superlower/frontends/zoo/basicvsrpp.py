"""BasicVSR++ (Chan et al., CVPR 2022) as a temporal program: four sweeps of second order over a clip.

    feat[t]    = extract(x=frame[t])
    flow_b[t]  = flow(ref=frame[t], sup=frame[t+1])                                  when t < T - 1
    flow_f[t]  = flow(ref=frame[t], sup=frame[t-1])                                  when t > 0
    flow_b2[t] = compose(flow=flow_b[t], further=flow_b[t+1])                        when t < T - 2
    flow_f2[t] = compose(flow=flow_f[t], further=flow_f[t-1])                        when t > 1
    b1[t]      = backward_1(feat[t], b1[t+1], b1[t+2], flow_b[t], flow_b2[t])                when t < T - 1
    b1[t]      = backward_1_start(feat[t])                                                   when t == T - 1
    f1[t]      = forward_1(feat[t], f1[t-1], f1[t-2], flow_f[t], flow_f2[t], b1[t])          when t > 0
    f1[t]      = forward_1_start(feat[t], b1[t])                                             when t == 0
    b2, f2     alike, with the states of all the sweeps before
    output[t]  = reconstruct(x=frame[t], feat[t], b1[t], f1[t], b2[t], f2[t])

Where a sweep begins nothing is aligned, and one frame further the second state and its flow are zeros: the
streams' edges. The composed flows are shared by both sweeps of a direction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.zoo.basicvsr import MMAGIC_RULES
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
    whole_option,
)
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

if TYPE_CHECKING:
    from superlower.frontends.zoo.basicvsrpp_torch import BasicVsrPlusPlusNet

FEATURES = 64
SCALE = 4
DEFAULT_BLOCKS = 7
MINIMUM_SIDE = 64
"""Below it the authors' code refuses: too little is left of a frame at SPyNet's coarsest level."""

SWEEPS = {"backward_1": "b1", "forward_1": "f1", "backward_2": "b2", "forward_2": "f2"}
"""The sweeps in order -> the streams of their states."""

_BLOCK = r"backbone\.forward_2\.main\.2\.(\d+)\."


class BasicVsrPlusPlus:
    """`superlower export basicvsrpp`. Option: `blocks`, residual blocks a sweep (else as in a checkpoint)."""

    name: ClassVar[str] = "basicvsrpp"
    title: ClassVar[str] = "BasicVSR++"
    paper: ClassVar[str] = "https://arxiv.org/abs/2104.13371"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = ()

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load the weights strictly; plan twelve graphs, two of them for each sweep.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = frame_of(request, scale=SCALE, minimum=MINIMUM_SIDE)
        network = self._network(request)
        sweeps: dict[str, Callable[..., object]] = {}
        for sweep in SWEEPS:
            sweeps[sweep] = partial(network.propagate, sweep)
            sweeps[f"{sweep}_start"] = partial(network.start, sweep)
        return Blueprint(
            network,
            _program(request, frame, network.blocks),
            {
                "extract": network.extract,
                "flow": network.estimate_flow,
                "compose": network.compose,
                "reconstruct": network.reconstruct,
                **sweeps,
            },
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request))

    def _network(self, request: ExportRequest) -> BasicVsrPlusPlusNet:
        known_options(self.name, request.options, ["blocks"])
        asked = whole_option(self.name, request.options, "blocks", "residual blocks")
        state = read_weights(request, MMAGIC_RULES)
        # mmagic counts training steps in the generator.
        state = {key: tensor for key, tensor in state.items() if key != "step_counter"}
        blocks = asked or count_of(state, _BLOCK, DEFAULT_BLOCKS)

        from superlower.frontends.zoo.basicvsrpp_torch import BasicVsrPlusPlusNet

        return network_of(
            lambda: BasicVsrPlusPlusNet(blocks), state, request, f"BasicVSR++ with {blocks} blocks"
        )


def _program(request: ExportRequest, frame: Frame, blocks: int) -> Program:
    flow = Stream(shape=(1, 2, "H", "W"))
    features = Stream(shape=(1, FEATURES, "H", "W"))
    found = [
        Equation(name="extract", graph="extract", inputs={"x": "frame[t]"}, outputs={"features": "feat"})
    ]
    for stream, side, one, two in (
        ("flow_b", "+", "t < T - 1", "t < T - 2"),
        ("flow_f", "-", "t > 0", "t > 1"),
    ):
        found += [
            Equation(
                name=stream,
                graph="flow",
                inputs={"ref": "frame[t]", "sup": f"frame[t{side}1]"},
                outputs={"flow": stream},
                when=one,
            ),
            Equation(
                name=f"{stream}2",
                graph="compose",
                inputs={"flow": f"{stream}[t]", "further": f"{stream}[t{side}1]"},
                outputs={"composed": f"{stream}2"},
                when=two,
            ),
        ]
    others: dict[str, str] = {}
    for sweep, stream in SWEEPS.items():
        found += _sweep(sweep, stream, others)
        others[stream] = f"{stream}[t]"
    found.append(
        Equation(
            name="reconstruct",
            graph="reconstruct",
            inputs={"x": "frame[t]", "features": "feat[t]", **others},
            outputs={"output": "output"},
        )
    )
    return Program(
        name=BasicVsrPlusPlus.name,
        frame=frame,
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "feat": features,
            **dict.fromkeys(("flow_b", "flow_b2", "flow_f", "flow_f2"), flow),
            **dict.fromkeys(SWEEPS.values(), features),
            "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
        },
        equations=tuple(found),
        provenance=provenance(BasicVsrPlusPlus.name, BasicVsrPlusPlus.paper, request, blocks=blocks),
    )


def _sweep(sweep: str, stream: str, others: dict[str, str]) -> list[Equation]:
    """Both equations of a sweep's states: where it begins, and everywhere else."""
    backward = sweep.startswith("backward")
    side, flow = ("+", "flow_b") if backward else ("-", "flow_f")
    begins, rest = ("t == T - 1", "t < T - 1") if backward else ("t == 0", "t > 0")
    states = {
        "first": f"{stream}[t{side}1]",
        "second": f"{stream}[t{side}2]",
        "flow": f"{flow}[t]",
        "flow2": f"{flow}2[t]",
    }
    return [
        Equation(
            name=f"{sweep}_start",
            graph=f"{sweep}_start",
            inputs={"features": "feat[t]", **others},
            outputs={"state": stream},
            when=begins,
        ),
        Equation(
            name=sweep,
            graph=sweep,
            inputs={"features": "feat[t]", **states, **others},
            outputs={"state": stream},
            when=rest,
        ),
    ]
