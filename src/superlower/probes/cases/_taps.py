"""Windows over images of any rank, in float64: what convolutions and pools share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superlower.probes.cases._build import Floats


@dataclass(frozen=True)
class Window:
    """A sliding window. Every tuple has one number an axis, `pads` first all that come before, then after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def before(self) -> tuple[int, ...]:
        """Pads before the image."""
        return self.pads[: len(self.kernel)]

    @property
    def after(self) -> tuple[int, ...]:
        """Pads after the image."""
        return self.pads[len(self.kernel) :]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first tap to the last, both included."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    def output(self, sizes: Sequence[int], ceil: bool = False) -> tuple[int, ...]:
        """Output sizes, by the text of AveragePool-22: no window starts in the pads after the image."""
        made = []
        for axis, size in enumerate(sizes):
            room = size + self.before[axis] + self.after[axis] - self.extent[axis]
            stride = self.strides[axis]
            count = -(-room // stride) + 1 if ceil else room // stride + 1
            if ceil and (count - 1) * stride >= size + self.before[axis]:
                count -= 1
            made.append(count)
        return tuple(made)

    def same(self, sizes: Sequence[int], upper: bool) -> Window:
        """With the pads of auto_pad: SAME_UPPER has an odd one after the image, SAME_LOWER before."""
        before, after = [], []
        for axis, size in enumerate(sizes):
            stride = self.strides[axis]
            total = max((-(-size // stride) - 1) * stride + self.extent[axis] - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if upper else large)
            after.append(large if upper else small)
        return Window(self.kernel, self.strides, self.dilations, (*before, *after))


def windows(x: Floats, window: Window, output: Sequence[int], fill: float) -> Floats:
    """[N, C, k1, ..., kr, o1, ..., or]: what each window reads; `fill` outside of the image."""
    axes = len(window.kernel)
    widths = [(0, 0), (0, 0)]
    for axis in range(axes):
        needed = (output[axis] - 1) * window.strides[axis] + window.extent[axis]
        have = x.shape[2 + axis] + window.before[axis]
        widths.append((window.before[axis], max(needed - have, 0)))
    padded = np.pad(x, widths, constant_values=fill)
    out = np.empty((*x.shape[:2], *window.kernel, *output))
    for tap in np.ndindex(*window.kernel):
        place = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, window.dilations, output, window.strides, strict=True)
        )
        out[(slice(None), slice(None), *tap)] = padded[(slice(None), slice(None), *place)]
    return out
