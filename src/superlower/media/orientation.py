"""Turning frames upright as a file's display matrix says."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a frame down: transposed first, then flipped left-right and top-bottom."""

    transposed: bool = False
    flipped_x: bool = False
    flipped_y: bool = False

    @staticmethod
    def of(frame: Any) -> Orientation:
        """Read it off a decoded frame (`av.VideoFrame`); other angles are left as they are, with a warning.

        The matrix is nine 32-bit integers (libavutil's AV_FRAME_DATA_DISPLAYMATRIX): a pixel at (x, y), y
        downwards, goes to (m0 x + m3 y, m1 x + m4 y).
        """
        from av.sidedata.sidedata import Type

        data = frame.side_data.get(Type.DISPLAYMATRIX)
        if data is None:
            return Orientation()
        xx, xy, _, yx, yy, *_ = struct.unpack("=9i", bytes(data))
        if not xy and not yx and xx and yy:
            return Orientation(False, xx < 0, yy < 0)
        if not xx and not yy and xy and yx:
            return Orientation(True, yx < 0, xy < 0)
        log.warning("the video asks to be shown at an angle of %s degrees: that is ignored", frame.rotation)
        return Orientation()

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turn [H, W, 3] upright."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        if self.flipped_x:
            image = image[:, ::-1]
        if self.flipped_y:
            image = image[::-1]
        return np.ascontiguousarray(image)
