"""tOF: how far a clip's motion is from its ground truth's (Chu et al., TecoGAN, ACM TOG 2020, section 5.3).

The flow is OpenCV's of Farnebäck (SCIA 2003), with the settings of TecoGAN's published evaluation.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from superlower.errors import MissingSdkError
from superlower.metrics.psnr import Image, cropped

if TYPE_CHECKING:
    from superlower.metrics.psnr import Plane

_PYRAMID_SCALE, _LEVELS, _WINDOW, _ITERATIONS, _POLY_N, _POLY_SIGMA = 0.5, 3, 15, 3, 5, 1.2


def missing_opencv() -> str | None:
    """Why no flow can be estimated here, with the install command; None if it can."""
    return None if find_spec("cv2") else "OpenCV isn't installed: pip install 'superlower[metrics]'"


def optical_flow(before: Image, after: Image) -> Plane:
    """Where each pixel of a frame is in the next, as Farnebäck's method on grey pictures estimates it.

    Args:
        before, after: uint8 [H, W, 3].

    Returns:
        float64 [H, W, 2], x then y, in pixels: what is at (x, y) before is at (x, y) + flow after.

    Raises:
        MissingSdkError: OpenCV isn't installed.
    """
    if (reason := missing_opencv()) is not None:
        raise MissingSdkError(reason)

    import cv2

    first, second = (cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY) for x in (before, after))
    flow: Any = cv2.calcOpticalFlowFarneback(
        first, second, None, _PYRAMID_SCALE, _LEVELS, _WINDOW, _ITERATIONS, _POLY_N, _POLY_SIGMA, 0
    )
    return np.asarray(flow, np.float64)


def tof(flow: Plane, reference: Plane, *, border: int = 0) -> float:
    """Mean length of the difference of two flows, in pixels; 0 for identical motion.

    TecoGAN's tables give ten times this, and leave out 8 to 24 pixels at each edge, so that the sides are
    multiples of 32.

    Args:
        flow, reference: [H, W, 2] in pixels.
        border: pixels left out at each edge, of the flows: they are of whole frames.
    """
    a, b = cropped(flow, reference, border)
    return float(np.mean(np.hypot(*np.moveaxis(a - b, -1, 0))))
