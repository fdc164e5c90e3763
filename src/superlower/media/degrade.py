"""How papers make low-resolution frames from ground truth.

"BI" means one thing, "BD" (blur, then drop pixels) three: the kernels differ, and so does the phase of the
pixels kept. A model given the other phase is off by more than a pixel of the ground truth.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from superlower.errors import BadInputError
from superlower.media.resize import Pixels, imresize, to_uint8

Image = npt.NDArray[np.uint8]


def bi(rgb: Image, scale: int) -> Image:
    """MATLAB imresize bicubic with antialiasing, in double, rounded once to uint8.

    Args:
        rgb: uint8 [H, W, 3].
        scale: 2, 3 or 4 in the papers; any from 1 works.

    Returns:
        uint8 [ceil(H/scale), ceil(W/scale), 3]. Papers crop H and W to multiples of the scale first.
    """
    if scale < 1:
        raise BadInputError(f"scale {scale} can't shrink a frame: give 1 or more")
    return to_uint8(imresize(rgb, 1 / scale))


def bd_basicvsr(rgb: Image) -> Image:
    """BasicVSR's and BasicVSR++'s BD x4: 12x12 Gaussian of sigma 1.6, replicated edges, centres at 4k + 1.5.

    An even kernel has no centre pixel: MATLAB's imfilter spans five pixels before to six after, and rows and
    columns 2:4:end-2 (from one) are kept, so a low-resolution pixel stands over the centre of its 4x4 block.

    Args:
        rgb: uint8 [H, W, 3], H and W at least 4.

    Returns:
        uint8 [H // 4, W // 4, 3].
    """
    return _blur_and_sample(rgb, _gaussian(12, 1.6), before=5, keep=slice(1, -2, 4), edge="edge")


def bd_13(rgb: Image) -> Image:
    """RSDN's BD x4, which is DUF's: 13x13 Gaussian of sigma 1.6, reflected edges, centres at 4k.

    Args:
        rgb: uint8 [H, W, 3], H and W at least 7.

    Returns:
        uint8 [ceil(H/4), ceil(W/4), 3].
    """
    return _blur_and_sample(rgb, _gaussian(13, 1.6), before=6, keep=slice(0, None, 4), edge="reflect")


def bd_9(rgb: Image) -> Image:
    """TecoGAN's and EGVSR's BD x4: 9x9 Gaussian of sigma 1.5, reflected edges, centres at 4k.

    Args:
        rgb: uint8 [H, W, 3], H and W at least 5.

    Returns:
        uint8 [ceil(H/4), ceil(W/4), 3].
    """
    return _blur_and_sample(rgb, _gaussian(9, 1.5), before=4, keep=slice(0, None, 4), edge="reflect")


def _gaussian(size: int, sigma: float) -> Pixels:
    x = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    # The square kernel is the outer product of this one with itself, normalisation included.
    normalised: Pixels = kernel / kernel.sum()
    return normalised


def _blur_and_sample(
    rgb: Image, kernel: Pixels, before: int, keep: slice, edge: Literal["edge", "reflect"]
) -> Image:
    least = max(4, before + 1)
    if min(rgb.shape[:2]) < least:  # a reflection can't reach beyond the frame itself
        raise BadInputError(
            f"a {rgb.shape[0]}x{rgb.shape[1]} frame is too small to degrade: give {least}x{least} or more"
        )
    after = len(kernel) - 1 - before
    out = rgb.astype(np.float64)
    for axis in (0, 1):
        margins = [(0, 0)] * out.ndim
        margins[axis] = (before, after)
        padded = np.pad(out, margins, mode=edge)
        kept = np.arange(out.shape[axis])[keep]
        shape = list(out.shape)
        shape[axis] = len(kept)
        out = np.zeros(shape)
        for tap, weight in enumerate(kernel):
            out += weight * padded.take(kept + tap, axis)
    return to_uint8(out)
