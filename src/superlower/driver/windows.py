"""Videos as training windows, and as clips to score on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from superlower.driver.progress import Progress, received
from superlower.driver.quality import DEGRADATIONS
from superlower.errors import BadInputError
from superlower.frontends.fetch import fetch
from superlower.media.clip import open_clip
from superlower.media.samples import SAMPLES

if TYPE_CHECKING:
    from superlower.frontends.distil_torch import Windows

Pixels = NDArray[np.uint8]

SCALE = 4
MARGIN = 4
"""Low-resolution pixels around a window that its degradation reaches into."""


def clip_path(name: str, progress: Progress) -> Path:
    """The file of a sample clip, fetched if need be, or the path as it is.

    Raises:
        BadInputError: neither.
    """
    if name in SAMPLES:
        title = f"fetching {name}"
        return fetch(
            SAMPLES[name].location, sha256=SAMPLES[name].sha256, progress=received(progress, title)
        ).path
    if not Path(name).exists():
        raise BadInputError(
            f"no such clip: {name}; give a video, a folder of PNG files, or {', '.join(SAMPLES)}"
        )
    return Path(name)


def read_windows(
    names: Sequence[str], count: int, length: int, crop: int, degradation: str, seed: int, progress: Progress
) -> Windows:
    """Short clips at random places of videos, as many of each video, with their ground truth.

    Args:
        names: of videos; see `clip_path`.
        count: windows in all; rounded up to as many of each video.
        length: frames in a row.
        crop: side in low-resolution pixels.
        degradation: a name in `DEGRADATIONS`.
        seed: of the places.

    Raises:
        BadInputError: a clip too small or too short.
    """
    from superlower.frontends.distil_torch import Windows

    progress.stage("cutting windows", len(names))
    draw = np.random.default_rng(seed)
    cut: list[Pixels] = []
    for name in names:
        cut += _cut(
            clip_path(name, progress), -(-count // len(names)), length, SCALE * (crop + 2 * MARGIN), draw
        )
        progress.advance(name)
    high = np.stack(cut)[draw.permutation(len(cut))]
    degrade = DEGRADATIONS[degradation]
    low = np.stack([[degrade(frame, SCALE) for frame in window] for window in high])
    inner, outer = slice(MARGIN, -MARGIN), slice(SCALE * MARGIN, -SCALE * MARGIN)
    return Windows(low[:, :, inner, inner], high[:, :, outer, outer])


def _cut(path: Path, count: int, length: int, side: int, draw: np.random.Generator) -> list[Pixels]:
    """`count` windows uint8 [length, side, side, 3]; read twice: only a clip's end tells its length."""
    with open_clip(path) as clip:
        frames = sum(1 for _ in clip)
        if frames < length or min(clip.height, clip.width) < side:
            raise BadInputError(
                f"{path} is {frames} frames of {clip.height}x{clip.width}: windows take {length} frames of "
                f"{side}x{side}; choose another clip, or smaller windows (--crop, --length)"
            )
        starts, rows, columns = (
            draw.integers(0, limit - size + 1, count).tolist()
            for limit, size in ((frames, length), (clip.height, side), (clip.width, side))
        )
        found: list[list[Pixels]] = [[] for _ in range(count)]
        for t, picture in enumerate(clip):
            for i in range(count):
                if starts[i] <= t < starts[i] + length:
                    found[i].append(_eight_bits(path, picture.rgb[rows[i] :, columns[i] :][:side, :side]))
    return [np.stack(window) for window in found]


def read_clip(
    name: str, frames: int, side: int | None, degradation: str, progress: Progress
) -> tuple[list[Pixels], list[Pixels]]:
    """The first frames of a clip: degraded, and the truth of what that shows, uint8 [H, W, 3] each.

    Args:
        side: of the middle square, in low-resolution pixels; None for the whole frame.

    Raises:
        BadInputError: fewer frames, or smaller ones, or 16 bits a colour.
    """
    path = clip_path(name, progress)
    with open_clip(path) as clip:
        height, width = clip.height // SCALE, clip.width // SCALE
        truth = [_eight_bits(path, p.rgb[: SCALE * height, : SCALE * width]) for p in islice(clip, frames)]
    if len(truth) < frames or min(height, width) < (side or 1):
        raise BadInputError(
            f"{path} is {len(truth)} frames of {height}x{width} once degraded: score on fewer"
        )
    low = [DEGRADATIONS[degradation](frame, SCALE) for frame in truth]
    if side is None:
        return low, truth
    top, left = (height - side) // 2, (width - side) // 2
    return (
        [frame[top:, left:][:side, :side] for frame in low],
        [frame[SCALE * top :, SCALE * left :][: SCALE * side, : SCALE * side] for frame in truth],
    )


def _eight_bits(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Pixels:
    if pixels.dtype != np.uint8:
        raise BadInputError(f"{path} has 16 bits a colour: clips to learn from and score on have 8")
    return np.ascontiguousarray(pixels).astype(np.uint8, copy=False)
