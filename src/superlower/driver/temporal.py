"""What a change to a model does between frames: flicker and motion against the ground truth's, as growth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superlower.media.tensors import from_tensor, luma_from_tensor
from superlower.metrics.clip import clip_quality
from superlower.metrics.flow import missing_opencv
from superlower.metrics.psnr import Image, luma
from superlower.program.model import Frame

Outputs = Sequence[NDArray[np.generic]]


@dataclass(frozen=True)
class Temporal:
    """Means over a clip's pairs of neighbouring frames (see `superlower.metrics.scorers`).

    Attributes:
        flicker: in levels of 255.
        tof: in pixels; None without OpenCV, or for luma alone.
    """

    flicker: float
    tof: float | None

    def growth(self, before: Temporal) -> Temporal:
        """This less that of another run."""
        known = self.tof is not None and before.tof is not None
        tof = self.tof - before.tof if known else None  # type: ignore[operator]
        return Temporal(self.flicker - before.flicker, tof)


def temporal(outputs: Outputs, frame: Frame, truth: Sequence[Image]) -> Temporal:
    """Score a run of a clip.

    Args:
        outputs: elements of the output stream, two or more.
        frame: the contract.
        truth: uint8 [scale * H, scale * W, 3], one a frame.
    """
    if frame.color == "y":
        shown = [luma_from_tensor(np.asarray(o, np.float32), frame) for o in outputs]
        planes = [luma(picture, rounded=True).astype(np.uint8) for picture in truth]
        return Temporal(clip_quality(shown, planes, metrics=("flicker",)).mean("flicker"), None)
    source = np.zeros((frame.height, frame.width, 3), np.uint8)
    images = [from_tensor(np.asarray(o, np.float32), frame, source).astype(np.uint8) for o in outputs]
    flows = missing_opencv() is None
    found = clip_quality(images, truth, metrics=("flicker", "tof") if flows else ("flicker",))
    return Temporal(found.mean("flicker"), found.mean("tof") if flows else None)
