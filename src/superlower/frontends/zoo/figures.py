"""What each architecture is and costs, known without PyTorch: figures.json, and how its entries are made.

`python docs/generate_models.py` writes the file; a test computes it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends.base import ExportRequest, ZooFrontend
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.build import missing_torch
from superlower.program.analysis import Direction, analyze, directions, graph_calls
from superlower.program.model import Program

HEIGHT, WIDTH = 180, 320
"""Low-resolution pixels that the stored figures are for, as most published ones."""

CLIP = 11
"""Frames of the clip that a bidirectional network's figures are means over: its ends cost less."""

VARIANTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("edvr-l", {"frames": "7"}),
    ("edvr-m", {"tsa": "no"}),
    ("iconvsr", {"window": "7"}),
    ("sofvsr", {"scale": "2"}),
    ("sofvsr", {"scale": "3"}),
    ("vespcn", {"channels": "1"}),
)
"""Stored beside each architecture's defaults: what published figures are of."""

_FILE = "figures.json"
_SEEDED = "random:0"


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An architecture with certain options at one frame size.

    Attributes:
        name: architecture.
        options: those that aren't the defaults.
        parameters: trained numbers.
        macs: multiply-accumulates of the convolutions in one call of each graph.
        macs_a_frame: of a frame's calls: in mid-clip, where frames may be given as they come; over a clip of
            `CLIP` frames, where the whole clip is needed. No patch of a routed one skips anything.
        look_ahead: frames after t that must have arrived before output t can be given; None for the whole
            clip.
        states: streams that carry something from frame to frame.
        program: with that frame size; its provenance is left out.
    """

    name: str
    options: dict[str, str]
    parameters: int
    macs: dict[str, int]
    macs_a_frame: float
    look_ahead: int | None
    states: tuple[str, ...]
    program: Program


@runtime_checkable
class Planned(Protocol):
    """An architecture that can say what it would export."""

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """The network and its program."""
        ...


@cache
def stored() -> tuple[Figures, ...]:
    """The figures in the file: each architecture with its defaults, then in `VARIANTS`."""
    return parse(files("superlower.frontends.zoo").joinpath(_FILE).read_bytes())


def stored_of(name: str, options: Mapping[str, str] | None = None) -> Figures | None:
    """The stored figures of an architecture; None for a third party's, and for options not in the file."""
    return next((f for f in stored() if f.name == name and f.options == (options or {})), None)


def parse(text: bytes) -> tuple[Figures, ...]:
    """Figures from JSON."""
    return msgspec.json.decode(text, type=tuple[Figures, ...])


def blueprint(
    architecture: ZooFrontend, options: Mapping[str, str], height: int = HEIGHT, width: int = WIDTH
) -> Blueprint:
    """The network on the meta device, which holds shapes alone, and its program.

    Raises:
        BadInputError: unknown or bad options, or an architecture of a third party that can't say.
        MissingSdkError: PyTorch isn't installed.
    """
    if not isinstance(architecture, Planned):
        raise BadInputError(f"{architecture.name} has no blueprint: its cost is known once it is exported")
    if (reason := missing_torch()) is not None:
        raise MissingSdkError(f"costs at a size are counted on the networks themselves: {reason}")

    import torch

    request = ExportRequest(Path(_SEEDED), height, width, options, _SEEDED)
    with torch.device("meta"):
        return architecture.blueprint(request)


def measure(
    architecture: ZooFrontend, options: Mapping[str, str], height: int = HEIGHT, width: int = WIDTH
) -> Figures:
    """Figures of an architecture, counted anew.

    Raises: as `blueprint`.
    """
    plan = blueprint(architecture, options, height, width)
    macs = plan.macs()
    known = stored_of(architecture.name, options)
    if known is None:
        facts = analyze(plan.program)
        look_ahead, states = facts.latency, tuple(n for n, s in facts.streams.items() if s.state)
    else:  # neither changes with the size, and finding the look-ahead of a sparse program takes seconds
        look_ahead, states = known.look_ahead, known.states
    return Figures(
        name=architecture.name,
        options=dict(options),
        parameters=plan.parameters,
        macs=macs,
        macs_a_frame=a_frame(plan.program, macs),
        look_ahead=look_ahead,
        states=states,
        program=msgspec.structs.replace(plan.program, provenance={}),
    )


def a_frame(program: Program, each: Mapping[str, float]) -> float:
    """What a frame's calls come to, with `each` call of a graph; see `Figures.macs_a_frame`."""
    calls = graph_calls(program, CLIP)
    if not {Direction.BACKWARD, Direction.MIXED} & set(directions(program).values()):
        # What is done for the first frame only is in both.
        longer = graph_calls(program, 2 * CLIP)
        calls = Counter({graph: count - calls[graph] for graph, count in longer.items()})
    return sum(each[graph] * count for graph, count in calls.items()) / CLIP
