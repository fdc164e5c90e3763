"""Between YCbCr as videos code it and RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

UNSPECIFIED = 2
"""FFmpeg's "not said", in matrix, primaries and transfer alike (ITU-T H.273's code points)."""

_BT709, _SMPTE170M = 1, 6
# H.273 matrix coefficients to the numbers swscale knows them by.
_SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class Color:
    """How a video codes colour.

    Attributes:
        matrix: H.273 code point: 1 BT.709, 5 or 6 BT.601, 9 BT.2020 and so on; never "unspecified".
        full: whether luma spans 0..255 ("pc") rather than 16..235 ("tv").
        primaries, transfer: H.273 code points, carried over and never converted; 2 where the source says
            nothing.
        tagged: whether the file named the matrix; False: it was guessed from the size.
    """

    matrix: int
    full: bool = False
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    tagged: bool = True

    @staticmethod
    def of(frame: Any) -> Color | None:
        """Read it off a decoded frame (`av.VideoFrame`); None for a frame that holds RGB.

        A file that names no matrix is taken as BT.709 from 720 lines or 1280 columns on and as BT.601 below,
        as players do.
        """
        if frame.format.is_rgb or frame.format.name.startswith(("gbr", "pal")):
            return None
        tagged = int(frame.colorspace) in _SWSCALE
        return Color(
            matrix=int(frame.colorspace) if tagged else default_matrix(frame.height, frame.width),
            full=int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj"),
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            tagged=tagged,
        )


def default_matrix(height: int, width: int) -> int:
    """The matrix for a video that names none: BT.709 from 720 lines or 1280 columns on, else BT.601."""
    return _BT709 if height >= 720 or width >= 1280 else _SMPTE170M


def output_color(source: Color | None, height: int, width: int) -> Color:
    """What an upscaled video is coded in and tagged as.

    A matrix that the source names is kept, with its range, primaries and transfer. Where it names none, the
    output's own size decides, so that players that go by size are right as well.
    """
    if source is None:
        return Color(default_matrix(height, width))
    if source.tagged:
        return source
    return Color(default_matrix(height, width), source.full, source.primaries, source.transfer)


class Converter:
    """Converts frames through swscale with full chroma interpolation and accurate rounding.

    swscale's fixed-point arithmetic is within one level of the rounded formula in each direction.
    """

    def __init__(self, color: Color | None) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._color = color
        self._swscale = VideoReformatter()
        self._flags = (
            Interpolation.BICUBIC
            | Interpolation.FULL_CHR_H_INT
            | Interpolation.FULL_CHR_H_INP
            | Interpolation.ACCURATE_RND
            | Interpolation.BITEXACT
        )

    def to_rgb(self, frame: Any) -> npt.NDArray[np.uint8]:
        """An `av.VideoFrame` as uint8 [H, W, 3]; deeper formats are rounded to 8 bits."""
        color = self._color
        matrix = {"src_colorspace": _SWSCALE[color.matrix], "src_color_range": self._range} if color else {}
        rgb = self._swscale.reformat(
            frame, format="rgb24", dst_color_range=_FULL, interpolation=self._flags, **matrix
        )
        return np.asarray(rgb.to_ndarray(), np.uint8)

    def from_rgb(self, rgb: npt.NDArray[np.generic], pixel_format: str) -> Any:
        """uint8 [H, W, 3] as an `av.VideoFrame` of a pixel format, tagged."""
        import av

        source = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        color = self._color
        if color is None or av.VideoFormat(pixel_format).is_rgb:
            return self._swscale.reformat(source, format=pixel_format, interpolation=self._flags)
        frame = self._swscale.reformat(
            source,
            format=pixel_format,
            src_color_range=_FULL,
            dst_colorspace=_SWSCALE[color.matrix],
            dst_color_range=self._range,
            interpolation=self._flags,
        )
        self.tag(frame)
        return frame

    def tag(self, target: Any) -> None:
        """Write the tags on a frame or an encoder's context."""
        if self._color is not None:
            target.colorspace = self._color.matrix
            target.color_range = self._range
            target.color_primaries = self._color.primaries
            target.color_trc = self._color.transfer

    @property
    def _range(self) -> int:
        return _FULL if self._color is not None and self._color.full else _LIMITED
