"""What a clip is, wherever its frames come from or go to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from superlower.media.color import Color

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """One frame and when it is shown.

    Attributes:
        rgb: uint8 or uint16 [H, W, 3].
        index: place in the clip, from 0.
        pts: when it is shown, in units of `time_base` seconds.
        time_base: seconds, as the source counts them.
        duration: how long it is shown, in the same units; 0 where the source doesn't say.
        name: file name it was read from, of a folder's frames.
    """

    rgb: Image
    index: int
    pts: int
    time_base: Fraction
    duration: int = 0
    name: str | None = None


class Clip(Protocol):
    """Frames of one size. Every iteration starts from the first frame."""

    @property
    def path(self) -> Path:
        """Where it is read from."""

    @property
    def height(self) -> int:
        """Pixels, upright: rotation in the file's metadata is already applied."""

    @property
    def width(self) -> int:
        """Pixels, upright."""

    @property
    def frames(self) -> int | None:
        """How many frames the file claims to hold, for progress bars: only iterating tells for sure."""

    @property
    def rate(self) -> Fraction:
        """Average frames per second."""

    @property
    def time_base(self) -> Fraction:
        """The unit of the frames' pts, in seconds."""

    @property
    def color(self) -> Color | None:
        """How the source codes colour; None where it stores RGB."""

    @property
    def sample_aspect_ratio(self) -> Fraction:
        """Width of a pixel over its height."""

    def __iter__(self) -> Iterator[ClipFrame]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """Takes upscaled frames in order; only a clean exit of its `with` block makes the final name appear."""

    @property
    def path(self) -> Path:
        """The final name."""

    @property
    def bits(self) -> int:
        """Bits a colour it can hold, 8 or 16: uint16 frames are for those of 16 only."""

    def write(self, rgb: Image, source: ClipFrame) -> None:
        """Append pixels [height, width, 3], shown when `source` was."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
