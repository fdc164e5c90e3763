"""SSIM as in Wang et al., "Image quality assessment", IEEE TIP 2004, and its authors' MATLAB code."""

from __future__ import annotations

import numpy as np

from superlower.errors import BadInputError
from superlower.metrics.psnr import AnyImage, Image, Plane, cropped, luma

_TAPS = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def ssim(
    image: AnyImage,
    reference: AnyImage,
    *,
    border: int = 0,
    peak: float = 255.0,
) -> float:
    """Mean structural similarity; 1 for identical images.

    11x11 Gaussian window of sigma 1.5, windows wholly inside the image only, K1 = 0.01, K2 = 0.03, and no
    downsampling first, as papers on super-resolution do.

    Args:
        image, reference: [H, W], one shape, at least 11x11 once `border` pixels are left out at each edge.
        peak: the data range L.
    """
    if image.ndim != 2:
        raise BadInputError(f"SSIM takes one plane, not {list(image.shape)}: give luma")
    a, b = cropped(image, reference, border)
    if min(a.shape) < _TAPS:
        raise BadInputError(f"SSIM needs {_TAPS}x{_TAPS} pixels or more, not {a.shape[0]}x{a.shape[1]}")
    mean_a, mean_b = _window(a), _window(b)
    variance_a = _window(a * a) - mean_a**2
    variance_b = _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float(np.mean(luminance * structure))


def ssim_y(rgb: Image, reference: Image, *, border: int = 0, rounded: bool = False) -> float:
    """SSIM of the luma of two uint8 [H, W, 3] frames."""
    return ssim(luma(rgb, rounded=rounded), luma(reference, rounded=rounded), border=border)


def _window(plane: Plane) -> Plane:
    """Gaussian-weighted mean of every whole 11x11 window: [H, W] to [H - 10, W - 10]."""
    x = np.arange(_TAPS) - _TAPS // 2
    kernel = np.exp(-(x**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        count = plane.shape[axis] - _TAPS + 1
        plane = sum(
            (weight * plane.take(range(tap, tap + count), axis) for tap, weight in enumerate(kernel)),
            np.zeros(()),
        )
    return plane
