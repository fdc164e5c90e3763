"""PSNR of luma as super-resolution papers compute it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from superlower.errors import BadInputError

Plane = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
AnyImage = npt.NDArray[np.generic]

LUMA = np.array([65.481, 128.553, 24.966])
"""BT.601 luma above black's 16, of R, G and B in 0..1."""


def luma(rgb: Image, *, rounded: bool = False) -> Plane:
    """BT.601 luma (65.481 R + 128.553 G + 24.966 B) / 255 + 16 (MATLAB's rgb2ycbcr).

    Args:
        rgb: uint8 [H, W, 3].
        rounded: round halves up to whole levels, as rgb2ycbcr does on uint8 (SOF-VSR); most papers don't.

    Returns:
        float64 [H, W] in 16..235.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise BadInputError(
            f"a frame must be uint8 [H, W, 3] to be compared, not {rgb.dtype} {list(rgb.shape)}"
        )
    y: Plane = rgb @ LUMA / 255 + 16
    return np.floor(y + 0.5) if rounded else y


def psnr(
    image: AnyImage,
    reference: AnyImage,
    *,
    border: int = 0,
    peak: float = 255.0,
) -> float:
    """10 log10(peak^2 / mean squared error), in dB; infinity for identical images.

    Args:
        image, reference: [H, W] or [H, W, C] of one shape and scale.
        border: pixels left out at each edge.
        peak: the largest value a pixel can take.
    """
    a, b = cropped(image, reference, border)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def psnr_y(rgb: Image, reference: Image, *, border: int = 0, rounded: bool = False) -> float:
    """PSNR in dB of the luma of two uint8 [H, W, 3] frames, peak 255."""
    return psnr(luma(rgb, rounded=rounded), luma(reference, rounded=rounded), border=border)


def cropped(image: AnyImage, reference: AnyImage, border: int) -> tuple[Plane, Plane]:
    """Both images in double, without `border` pixels at each edge."""
    if image.shape != reference.shape:
        raise BadInputError(f"can't compare {list(image.shape)} with {list(reference.shape)}: sizes differ")
    if border < 0 or 2 * border >= min(image.shape[:2]):
        raise BadInputError(
            f"a border of {border} leaves nothing of {image.shape[0]}x{image.shape[1]} pixels"
        )
    inner = slice(border, -border or None)
    return image[inner, inner].astype(np.float64), reference[inner, inner].astype(np.float64)
