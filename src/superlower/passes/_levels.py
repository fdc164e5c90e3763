"""Scales and zero points of 8-bit tensors, as QuantizeLinear and DequantizeLinear take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError

Array = NDArray[np.generic]

SIGNED, UNSIGNED = "int8", "uint8"
"""Element types of quantized activations."""

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Levels:
    """real = (level - zero) * scale, for 8-bit levels.

    Attributes:
        scale: above 0.
        zero: the level that stands for 0; 0 for signed levels.
        dtype: "int8" or "uint8".
    """

    scale: float
    zero: int
    dtype: str


def levels_for(low: float, high: float, dtype: str) -> Levels:
    """The levels of a tensor whose values lie in low..high.

    Signed levels are symmetric about 0, as TensorRT wants them. Unsigned ones span the range as it is, with 0
    a level of its own: convolutions pad with it. A tensor of zeros alone gets scale 1.

    Raises:
        BadInputError: the range isn't finite, or upside down.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise BadInputError(
            f"{low:g}..{high:g} is no range to quantize: calibrate on frames of finite values"
        )
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _SMALLEST * 255:
        return Levels(1.0, 0, dtype)
    if dtype == SIGNED:
        return Levels(max(-low, high) / 127, 0, dtype)
    scale = (high - low) / 255
    return Levels(scale, round(-low / scale), dtype)


def quantized_weight(weight: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric levels and scales of a convolution's weight, one scale an output channel.

    Args:
        weight: [Cout, Cin / groups, kh, kw].

    Returns:
        int8 of the same shape in -127..127, and float32 [Cout] above 0: 1 for a channel of zeros.
    """
    exact = np.asarray(weight, np.float64)
    largest = np.abs(exact).reshape(exact.shape[0], -1).max(axis=1)
    scale = np.where(largest < _SMALLEST * 127, 1.0, largest / 127).astype(np.float32)
    rounded = np.rint(exact / scale.reshape(-1, *[1] * (exact.ndim - 1)))
    return np.clip(rounded, -127, 127).astype(np.int8), scale
