"""Upsampling by s and convolving, as s x s convolutions at the input's size: what sub-pixel rewrites share.

Along one axis, output i = s q + r is a sum of input[q + m] over taps m that depend on its phase r alone. All
phases' taps in one kernel, filled up with zeros, and a pixel shuffle make one convolution of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.passes._rules import Emitter, integer, tensor

Array = NDArray[np.generic]


Tap = tuple[int, int, float]
"""(m, k, c): input[q + m] times the kernel's entry k, c times."""


@dataclass(frozen=True)
class Phases:
    """The taps of one axis.

    Attributes:
        kernel: [phases, taps, kernel]: how often each tap has each of the original kernel's entries.
        pads: before and after the input.
        skip: outputs of the shuffle before the first that is wanted.
        size: outputs of the shuffle.
    """

    kernel: NDArray[np.float64]
    pads: tuple[int, int]
    skip: int
    size: int

    @property
    def taps(self) -> int:
        """Of the new kernel along the axis."""
        return int(self.kernel.shape[1])


def fewest_taps(taps_of: Callable[[int], Sequence[Tap]], before: int, after: int, scale: int) -> Phases:
    """The phases of an axis.

    The shuffle may give out some outputs before the first: how many decides which outputs share a q, and so
    how many taps all phases have together. The fewest are taken: 2x2 for a 3x3 after a doubling, not 3x3.

    Args:
        taps_of: i - s q -> taps of output i, for q = 0; i below 0 too.
        before, after: sizes.
        scale: s.
    """
    return min((_from(skip, taps_of, before, after, scale) for skip in range(scale)), key=lambda p: p.taps)


def _from(skip: int, taps_of: Callable[[int], Sequence[Tap]], before: int, after: int, scale: int) -> Phases:
    placed = [(r, *tap) for r in range(scale) for tap in taps_of(r - skip)]
    first = min(m for _, m, _, _ in placed)
    count = max(m for _, m, _, _ in placed) - first + 1
    kernel = np.zeros((scale, count, 1 + max(k for _, _, k, _ in placed)))
    for r, m, k, times in placed:
        kernel[r, m - first, k] += times
    rows = -(-(after + skip) // scale)
    # q = 0 .. rows - 1 see inputs first .. rows - 1 + first + count - 1.
    return Phases(kernel, (-first, rows + first + count - 1 - before), skip, rows * scale)


def emit_shuffled(
    op: Emitter,
    node: ir.Node,
    weight: Array,
    bias: Array | None,
    axes: tuple[Phases, Phases],
    after: tuple[int, ...],
    scale: int,
    *,
    data: ir.Value,
    repeat_edges: bool = False,
) -> ir.Value:
    """The convolution at the input's size, its pixel shuffle, and a Slice to the output wanted.

    Args:
        node: the convolution replaced: its groups and its weight's type stay.
        weight: [Cout, Cin / g, kh, kw], in a convolution's order.
        bias: [Cout], or None.
        axes: of rows and of columns.
        after: sizes of the output.
        data: input.
        repeat_edges: beyond the input lie its edges, not zeros.
    """
    rows, columns = axes
    outputs, into = weight.shape[:2]
    dtype = cast(ir.DataType, cast(ir.Value, node.inputs[1]).dtype)
    # Channel order of DepthToSpace's CRD: [Cout, s, s]. Sums of weights (nearest) are taken in float64.
    made = np.einsum("oikl,rmk,cnl->orcimn", weight.astype(np.float64), rows.kernel, columns.kernel)
    kernel = made.reshape(outputs * scale**2, into, rows.taps, columns.taps)
    constants = [op.Constant(value=tensor(kernel, dtype))]
    if bias is not None:
        constants.append(op.Constant(value=tensor(np.repeat(bias, scale**2), dtype)))
    pads = [rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]]
    if repeat_edges or min(pads) < 0:
        # Conv takes no negative pads; Pad does, and cuts off what the output doesn't see.
        ends = op.Constant(value_ints=[0, 0, *pads[:2], 0, 0, *pads[2:]])
        data = op.Pad(data, ends, mode="edge" if repeat_edges else "constant")
        pads = [0, 0, 0, 0]
    convolved = op.Conv(
        data, *constants, kernel_shape=[rows.taps, columns.taps], pads=pads, group=integer(node, "group", 1)
    )
    shuffled = op.DepthToSpace(convolved, blocksize=scale, mode="CRD")
    if all(axis.size == size for axis, size in zip(axes, after[2:], strict=True)):
        return shuffled
    starts = [axis.skip for axis in axes]
    stops = [start + size for start, size in zip(starts, after[2:], strict=True)]
    bounds = [op.Constant(value_ints=b) for b in (starts, stops, [2, 3])]
    return op.Slice(shuffled, *bounds)
