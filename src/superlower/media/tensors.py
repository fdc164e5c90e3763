"""Pixels to model tensors and back, as the frame contract of a program says."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from superlower.errors import NOT_FINITE, BadInputError, OutputsDifferError
from superlower.media.resize import imresize
from superlower.program.model import Edge, Frame

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Tensor = npt.NDArray[np.float32]

# ITU-R BT.601-7, "studio swing": R, G, B in 0..1 to Y in 16..235 and Cb, Cr in 16..240 (MATLAB's rgb2ycbcr).
_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
_OFFSET = np.array([16.0, 128.0, 128.0])
_PADDING: dict[Edge, Literal["constant", "edge", "reflect"]] = {
    Edge.ZEROS: "constant",
    Edge.REPLICATE: "edge",
    Edge.REFLECT: "reflect",
}


def to_tensor(rgb: Image, frame: Frame) -> Tensor:
    """One frame as the input stream's element.

    Black and white map to the two ends of `frame.range`. For color "y" the plane is BT.601 luma over 255, not
    rounded, so that it spans 16/255..235/255 of the range, as the luma models were trained. Padding goes to
    the bottom and right; with "zeros" it is the number 0, whatever the range.

    Args:
        rgb: uint8 or uint16 [H, W, 3], H and W those of the contract before padding.
        frame: the contract.

    Returns:
        float32 [1, channels, padded H, padded W].
    """
    _check(rgb, frame)
    if frame.color == "y":
        black, white = frame.range
        planes = ((luma(rgb) / 255) * (white - black) + black).astype(np.float32)[None]
    else:
        table = levels(np.iinfo(rgb.dtype).max, *frame.range)
        planes = table[rgb.transpose(2, 0, 1)]
    height, width = frame.padded
    margins = ((0, 0), (0, height - frame.height), (0, width - frame.width))
    return np.ascontiguousarray(np.pad(planes, margins, mode=_PADDING[frame.padding])[None])


def from_tensor(
    output: npt.NDArray[np.floating],
    frame: Frame,
    source_rgb: Image,
    dtype: type[np.uint8] | type[np.uint16] = np.uint8,
) -> Image:
    """One element of the output stream as pixels: cropped, clamped, rounded half to even (np.rint).

    For color "y" the source's chroma is upscaled with MATLAB's bicubic, then joined to the model's luma.

    Args:
        output: [1, channels, scale * padded H, scale * padded W] of any float type.
        frame: the contract.
        source_rgb: the frame that went in, [H, W, 3]; read for color "y" only.
        dtype: uint8 or uint16 pixels.

    Returns:
        [scale * H, scale * W, 3] of `dtype`.

    Raises:
        OutputsDifferError: the output holds NaN or infinities.
    """
    _check(source_rgb, frame)
    unit = _levels_of(output, frame)
    top = np.iinfo(dtype).max
    pixels = unit.transpose(1, 2, 0)
    if frame.color == "y":
        pixels = np.clip(_join(pixels[..., 0] * 255.0, source_rgb, frame.scale), 0, 1).astype(np.float32)
    # Beyond 24 bits nothing rounds in float32: 65535 * x is exact enough to rint.
    return np.ascontiguousarray(np.rint(pixels * np.float32(top)).astype(dtype))


def picture_of(tensor: npt.NDArray[np.floating], frame: Frame) -> npt.NDArray[np.uint8]:
    """The nearest picture to an element of the input stream of an RGB model: uint8 [H, W, 3]."""
    small = msgspec.structs.replace(frame, scale=1)
    unit = _levels_of(tensor, small)
    return np.ascontiguousarray(np.rint(unit.transpose(1, 2, 0) * np.float32(255)).astype(np.uint8))


def beyond_rounding(
    picture: Image, output: npt.NDArray[np.floating], frame: Frame
) -> npt.NDArray[np.float64]:
    """How much further a picture is from an output than rounding to whole levels takes it, pixel by pixel.

    Args:
        picture: uint8 [scale * H, scale * W, 3] of an RGB model.
        output: the element of the output stream that it should be of, [1, 3, ...].
        frame: the contract.

    Returns:
        float64 [3, scale * H, scale * W], on the contract's range; 0 where rounding alone accounts for it.
    """
    black, white = frame.range
    off = np.abs(picture.transpose(2, 0, 1) / 255 - _levels_of(output, frame).astype(np.float64))
    return np.asarray(np.maximum(off - 0.5 / 255, 0) * (white - black))


def luma_from_tensor(output: npt.NDArray[np.floating], frame: Frame) -> npt.NDArray[np.uint8]:
    """One element of a luma model's output stream as whole levels, without the chroma that a picture needs.

    Args:
        output: [1, 1, scale * padded H, scale * padded W] of any float type.
        frame: a contract of color "y".

    Returns:
        uint8 [scale * H, scale * W].

    Raises:
        OutputsDifferError: the output holds NaN or infinities.
    """
    whole: npt.NDArray[np.uint8] = np.rint(_levels_of(output, frame)[0] * np.float32(255)).astype(np.uint8)
    return whole


def luma(rgb: Image) -> npt.NDArray[np.float64]:
    """BT.601 luma of uint8 or uint16 [H, W, 3]: float64 [H, W] in 16..235, not rounded."""
    y: npt.NDArray[np.float64] = _unit(rgb) @ _YCBCR[0] + _OFFSET[0]
    return y


def _levels_of(output: npt.NDArray[np.floating], frame: Frame) -> Tensor:
    """Without padding, in 0..1: float32 [channels, scale * H, scale * W]."""
    height, width = (frame.scale * side for side in frame.padded)
    if output.shape != (1, frame.channels, height, width):
        raise BadInputError(
            f"the model's output is {list(output.shape)}, its frame contract says "
            f"{[1, frame.channels, height, width]}: correct scale or channels in program.json"
        )
    planes = output[0, :, : frame.scale * frame.height, : frame.scale * frame.width].astype(np.float32)
    if not np.isfinite(planes).all():
        raise OutputsDifferError(NOT_FINITE)
    black, white = frame.range
    unit: Tensor = np.clip((planes - np.float32(black)) / np.float32(white - black), 0, 1)
    return unit


def _join(y: npt.NDArray[np.floating], source: Image, scale: int) -> npt.NDArray[np.float64]:
    chroma = imresize(_unit(source) @ _YCBCR[1:].T + _OFFSET[1:], scale)
    ycbcr = np.concatenate([y[..., None].astype(np.float64), chroma], axis=-1)
    rgb: npt.NDArray[np.float64] = (ycbcr - _OFFSET) @ np.linalg.inv(_YCBCR).T
    return rgb


def _unit(rgb: Image) -> npt.NDArray[np.float64]:
    return rgb / np.float64(np.iinfo(rgb.dtype).max)


@lru_cache(maxsize=8)
def levels(top: int, black: float, white: float) -> Tensor:
    """The value of each of the pixel values 0 to `top`: float32, worked out in double and rounded once."""
    return (np.arange(top + 1) / top * (white - black) + black).astype(np.float32)


def _check(rgb: Image, frame: Frame) -> None:
    if rgb.dtype not in (np.uint8, np.uint16) or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise BadInputError(f"a frame must be uint8 or uint16 [H, W, 3], not {rgb.dtype} {list(rgb.shape)}")
    if rgb.shape[:2] != (frame.height, frame.width):
        raise BadInputError(
            f"this frame is {rgb.shape[0]}x{rgb.shape[1]} pixels, the program was built for "
            f"{frame.height}x{frame.width}: compile it for this size"
        )
