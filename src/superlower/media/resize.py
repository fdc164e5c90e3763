"""MATLAB's `imresize(..., "bicubic")`, the resampler that super-resolution papers make their inputs with."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float64]


def imresize(image: npt.NDArray[np.generic], scale: float) -> Pixels:
    """Resample rows, then columns, in double precision and without rounding.

    The kernel is Keys' cubic with a = -0.5; when shrinking it is stretched by 1/scale (antialiasing, so 16
    taps for a quarter). Pixels outside the image mirror it, edge pixels repeated.

    Args:
        image: [H, W] or [H, W, C], any real type.
        scale: output pixels per input pixel and side.

    Returns:
        float64 [ceil(scale*H), ceil(scale*W)] or with C; values may overshoot the input's by the cubic's
        lobes.
    """
    out = image.astype(np.float64)
    for axis in (0, 1):
        indices, weights = taps(out.shape[axis], scale)
        out = _gather(out, indices, weights, axis)
    return out


def to_uint8(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """Round halves up, as MATLAB's uint8() does for these non-negative values, and clamp to 0..255."""
    return np.floor(np.clip(pixels, 0, 255) + 0.5).astype(np.uint8)


@lru_cache(maxsize=64)
def taps(size: int, scale: float) -> tuple[npt.NDArray[np.intp], Pixels]:
    """Which input samples, and how much of each, make every output sample of an axis of `size` samples.

    Returns:
        (indices, weights), both [ceil(scale*size), taps]; the weights of an output sum to 1.
    """
    stretch = min(scale, 1.0)
    width = 4 / stretch
    # Output sample i covers the input about its own centre: pixel centres lie at i + 0.5 on both axes.
    centres = (np.arange(int(np.ceil(size * scale - 1e-9))) + 0.5) / scale - 0.5
    indices = np.floor(centres - width / 2).astype(np.intp)[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = _cubic(stretch * (centres[:, None] - indices))
    weights /= weights.sum(1, keepdims=True)
    mirror = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    used = (weights != 0).any(0)
    return mirror[indices[:, used] % (2 * size)], weights[:, used]


def _cubic(x: Pixels) -> Pixels:
    """Keys' cubic convolution kernel, a = -0.5 (Keys, IEEE ASSP 1981, equation 15)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel: Pixels = np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
    return kernel


def _gather(image: Pixels, indices: npt.NDArray[np.intp], weights: Pixels, axis: int) -> Pixels:
    shape = list(image.shape)
    shape[axis] = len(indices)
    along = [1] * image.ndim
    along[axis] = -1
    out = np.zeros(shape)
    # A tap at a time: all taps at once would hold the image some 16 times over.
    for column in range(indices.shape[1]):
        out += image.take(indices[:, column], axis) * weights[:, column].reshape(along)
    return out
