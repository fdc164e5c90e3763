"""Images between their pixels, in float64: the arithmetic of GridSample, and part of that of DeformConv."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from superlower.probes.cases._build import Floats

CUBIC_A = -0.75
"""The cubic kernel's coefficient in GridSample, whose text names none but refers to PyTorch."""
CUBIC_GAIN = 1.375
"""Largest sum of |weights| of the four cubic taps, halfway between two pixels, for a = -0.75."""
CUBIC_SLOPE = 3.0
"""Largest sum of their |derivatives|, there too."""


def normalized(places: Floats, sizes: tuple[int, ...], aligned: bool) -> Floats:
    """Positions in pixels, innermost axis first, as a grid: -1 and 1 are corner centres or outer corners."""
    span = np.array(sizes[::-1], np.float64)
    return 2 * places / (span - 1) - 1 if aligned else (2 * places + 1) / span - 1


def pixels(grid: Floats, sizes: tuple[int, ...], aligned: bool) -> Floats:
    """The inverse of `normalized`."""
    span = np.array(sizes[::-1], np.float64)
    return (grid + 1) / 2 * (span - 1) if aligned else ((grid + 1) * span - 1) / 2


def sample(x: Floats, places: Floats, taps: int, padding: str, aligned: bool) -> Floats:
    """The image at positions in pixels, by the text of ONNX's GridSample-22.

    Args:
        x: [N, C, D1, ..., Dr].
        places: [N, O1, ..., Or, r], innermost axis first.
        taps: along an axis: 1 nearest (halves to even), 2 linear, 4 cubic.
        padding: "zeros", "border", "reflection"; applied to the place of each tap.
        aligned: reflection folds at the border pixels' centres, else at their outer edges.

    Returns:
        [N, C, O1, ..., Or].
    """
    sizes, axes = x.shape[2:], places.shape[-1]
    p = np.moveaxis(places[..., ::-1], -1, 0)
    low = np.rint(p) if taps == 1 else np.floor(p)
    starts = {1: 0, 2: 0, 4: -1}[taps]
    batch = np.arange(x.shape[0]).reshape(-1, *(1,) * axes)
    out = np.zeros((*places.shape[:-1], x.shape[1]))
    last = np.moveaxis(x, 1, -1)
    for steps in itertools.product(range(starts, starts + taps), repeat=axes):
        weight = np.ones(places.shape[:-1])
        index = []
        for axis, step in enumerate(steps):
            place = low[axis] + step
            weight = weight * _weight(p[axis] - place, taps)
            inside, folded = _padded(place, sizes[axis], padding, aligned)
            weight = weight * inside
            index.append(folded)
        out += weight[..., None] * last[(batch, *index)]
    return np.moveaxis(out, -1, 1)


def _weight(distance: Floats, taps: int) -> Floats | float:
    t = np.abs(distance)
    if taps == 1:
        return 1.0
    if taps == 2:
        return 1 - t
    return cubic(t, CUBIC_A)


def cubic(t: Floats, a: float) -> Floats:
    """Weights at distances t >= 0 from a tap: Keys, "Cubic convolution interpolation for digital image
    processing", 1981, equation 4 with a free coefficient."""
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _padded(place: Floats, size: int, padding: str, aligned: bool) -> tuple[Any, Any]:
    """Weight of a tap's whole place, and the pixel it reads."""
    inside: Any = 1.0
    if padding == "zeros":
        inside = (place >= 0) & (place < size)
    elif padding == "reflection":
        low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
        turn = max(high - low, 1.0)
        rest = np.mod(place - low, 2 * turn)
        place = low + np.minimum(rest, 2 * turn - rest)
    return inside, np.clip(place, 0, size - 1).astype(np.int64)
