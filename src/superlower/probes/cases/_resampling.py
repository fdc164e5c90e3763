"""Resize in float64, axis by axis as products with matrices, by the text of ONNX's Resize-19."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superlower.probes.cases._build import Floats
from superlower.probes.cases._sampling import cubic


@dataclass(frozen=True)
class Resampling:
    """Resize's attributes, by their own names.

    `start` and `end` are an axis's region of interest, normalized, for "tf_crop_and_resize".
    """

    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation_value: float = 0.0

    @property
    def taps(self) -> int:
        """Pixels along an axis that make a pixel, where nothing is antialiased."""
        return {"nearest": 1, "linear": 2, "cubic": 4}[self.mode]


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        old, new: lengths.
        scale: the factor between coordinates; new / old where sizes are given.
        target: the length before it was made whole.
        start, end: region of interest, normalized.
    """

    old: int
    new: int
    scale: float
    target: float
    start: float = 0.0
    end: float = 1.0


def positions(axis: Axis, how: Resampling) -> Floats:
    """Where each new pixel lies in the old axis, pixels."""
    i = np.arange(axis.new, dtype=np.float64)
    last = axis.old - 1
    match how.coordinate_transformation_mode:
        case "half_pixel":
            return (i + 0.5) / axis.scale - 0.5
        case "half_pixel_symmetric":
            offset = axis.old / 2 * (1 - axis.new / axis.target)
            return offset + (i + 0.5) / axis.scale - 0.5
        case "pytorch_half_pixel":
            return (i + 0.5) / axis.scale - 0.5 if axis.new > 1 else 0 * i
        case "align_corners":
            return i * last / (axis.new - 1) if axis.new > 1 else 0 * i
        case "asymmetric":
            return i / axis.scale
        case _:
            if axis.new == 1:
                return 0 * i + 0.5 * (axis.start + axis.end) * last
            return axis.start * last + i * (axis.end - axis.start) * last / (axis.new - 1)


def matrix(axis: Axis, how: Resampling) -> Floats:
    """[new, old]: what each old pixel gives to each new one. Taps outside read the border's pixel."""
    p = positions(axis, how)[:, None]
    if how.mode == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(p - 0.5),
            "round_prefer_ceil": np.floor(p + 0.5),
            "floor": np.floor(p),
            "ceil": np.ceil(p),
        }[how.nearest_mode]
        return _spread(rounded, np.ones_like(p), axis.old)
    # "Stretching the resampling filter by a factor max(1, 1 / scale)".
    stretch = max(1.0, 1 / axis.scale) if how.antialias else 1.0
    reach = int(np.ceil(how.taps / 2 * stretch))
    taps: Floats = np.floor(p) + np.arange(-reach, reach + 2.0)
    t = np.abs(p - taps) / stretch
    weight = np.maximum(1 - t, 0) if how.mode == "linear" else cubic(t, how.cubic_coeff_a)
    if how.exclude_outside:
        weight = weight * ((taps >= 0) & (taps < axis.old))
    return _spread(taps, weight / weight.sum(axis=1, keepdims=True), axis.old)


def resize(x: Floats, axes: Sequence[Axis], how: Resampling) -> Floats:
    """The image with all its axes resized, one `Axis` each."""
    out = x
    outside = np.zeros([axis.new for axis in axes], bool)
    for index, axis in enumerate(axes):
        if axis.old == axis.new and axis.scale == 1 and (axis.start, axis.end) == (0, 1):
            continue
        out = np.moveaxis(np.tensordot(matrix(axis, how), out, axes=(1, index)), 0, index)
        p = positions(axis, how)
        shape = [-1 if other == index else 1 for other in range(len(axes))]
        outside |= ((p < 0) | (p > axis.old - 1)).reshape(shape)
    if how.coordinate_transformation_mode == "tf_crop_and_resize":
        out = np.where(outside, how.extrapolation_value, out)
    return out


def _spread(taps: Floats, weight: Floats, length: int) -> Floats:
    out = np.zeros((len(taps), length))
    rows = np.broadcast_to(np.arange(len(taps))[:, None], taps.shape)
    np.add.at(out, (rows, np.clip(taps, 0, length - 1).astype(np.int64)), weight)
    return out
