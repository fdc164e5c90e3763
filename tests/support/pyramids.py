"""Alignment from coarse to fine, small: flow pyramids and deformable offsets, in many spellings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from superlower.program.model import Edge, TemporalModel
from support.windows import WindowBuilder, window

SIDE = 8
FEATURES = 4
GROUPS = 2
_TAPS = 9


class AlignmentBuilder(WindowBuilder):
    """What both kinds are made of."""

    swapped = False
    before_resize = False
    channelwise = False
    bare_residual = False

    def sum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.Add(b, a) if self.swapped else self.Add(a, b)

    def times(self, x: ir.Value, number: float) -> ir.Value:
        factor = self.const(np.full((1, 2, 1, 1), number) if self.channelwise else number)
        return self.Mul(factor, x) if self.swapped else self.Mul(x, factor)

    def enlarge(self, x: ir.Value, by: int = 2) -> ir.Value:
        return self.Resize(x, None, self.const([1.0, 1.0, by, by]), mode="linear")

    def displaced(self, x: ir.Value, by: int = 2, factor: float | None = None) -> ir.Value:
        """A flow or what offsets are made of, `by` times as large."""
        number = by if factor is None else factor
        if self.before_resize:
            return self.enlarge(self.times(x, number), by)
        return self.times(self.enlarge(x, by), number)

    def shrunk(self, x: ir.Value, levels: int) -> ir.Value:
        for _ in range(levels):
            x = self.AveragePool(x, kernel_shape=[2, 2], strides=[2, 2])
        return x

    def warp(self, x: ir.Value, flow: ir.Value, side: int) -> ir.Value:
        columns, rows = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
        scaled = self.Mul(self.Transpose(flow, perm=[0, 2, 3, 1]), self.const([2 / (side - 1)] * 2))
        grid = self.Add(scaled, self.const(np.stack([columns, rows], axis=-1)[None]))
        return self.GridSample(x, grid, padding_mode="border", align_corners=1)


@dataclass(frozen=True)
class FlowPyramid:
    """output[t] = frame[t-1] moved to frame[t] along a flow of three levels, 2x2 to 8x8.

    Attributes:
        estimated: levels with an estimate of their own, coarsest first.
        multiscale: what each level's flow moves is in the output.
        factor: what a flow is multiplied by when it is enlarged.
        independent: residuals don't see the flow.
        activated: residuals go through a Tanh.
        others: spellings.
    """

    estimated: int = 3
    multiscale: bool = False
    factor: float = 2
    independent: bool = False
    activated: bool = False
    swapped: bool = False
    before_resize: bool = False
    channelwise: bool = False
    constants_as_nodes: bool = False
    scalar_shape: tuple[int, ...] = ()

    def model(self) -> TemporalModel:
        g = AlignmentBuilder(self.constants_as_nodes, self.scalar_shape)
        g.swapped, g.before_resize, g.channelwise = self.swapped, self.before_resize, self.channelwise
        sup, ref = g.frames(-1, 0)
        flow: ir.Value | None = None
        moved = []
        for level, side in enumerate((2, 4, 8)):
            small_ref, small_sup = g.shrunk(ref, 2 - level), g.shrunk(sup, 2 - level)
            if flow is None:
                flow = g.conv(g.Concat(small_ref, small_sup, axis=1), 6, 2, 50)
            else:
                up = g.displaced(flow, factor=self.factor)
                if level >= self.estimated:
                    flow = up
                    moved.append(g.warp(small_sup, flow, side))
                    continue
                seen = small_sup if self.independent else g.warp(small_sup, up, side)
                given = [small_ref, seen, *([] if self.independent else [up])]
                residual = g.conv(g.Concat(*given, axis=1), 6 if self.independent else 8, 2, 50 + level)
                if self.activated:
                    residual = g.Tanh(residual)
                flow = g.sum(up, residual)
            moved.append(g.warp(small_sup, flow, side))
        output = moved[-1]
        if self.multiscale:
            output = g.Add(output, g.Add(g.enlarge(moved[1]), g.enlarge(moved[0], 4)))
        return window(g, g.Identity(output), (-1, 0), Edge.REPLICATE)


@dataclass(frozen=True)
class OffsetPyramid:
    """output[t] = features of frame[t-1] moved to frame[t] by deformable convolutions at two or three scales.

    Attributes:
        levels: scales.
        own: scales with offsets of their own, coarsest first.
        masks: with masks.
        others: spellings.
    """

    levels: int = 3
    own: int = 3
    masks: bool = True
    swapped: bool = False
    before_resize: bool = False
    constants_as_nodes: bool = False
    scalar_shape: tuple[int, ...] = ()

    def model(self) -> TemporalModel:
        g = AlignmentBuilder(self.constants_as_nodes, self.scalar_shape)
        g.swapped, g.before_resize = self.swapped, self.before_resize
        sup, ref = g.frames(-1, 0)
        guide = offset = mask = aligned = None
        for level in range(self.levels):
            down = self.levels - 1 - level
            neighbour = g.net(g.shrunk(sup, down))
            if level < self.own:
                given = [neighbour, g.net(g.shrunk(ref, down), 2)]
                given += [] if guide is None else [g.displaced(guide)]
                guide = g.conv(g.Concat(*given, axis=1), FEATURES * len(given), FEATURES, 60 + level)
                made = g.conv(guide, FEATURES, 3 * GROUPS * _TAPS, 70 + level)
                split = g.ints(2 * GROUPS * _TAPS, GROUPS * _TAPS)
                offset, weights = g.Split(made, split, axis=1, outputs=2)
                mask = g.Sigmoid(weights)
            else:
                assert offset is not None
                assert mask is not None
                offset, mask = g.displaced(offset), g.enlarge(mask)
            rng = np.random.default_rng(80 + level)
            weight = g.const(rng.standard_normal((FEATURES, FEATURES, 3, 3)) / 6)
            rest = [g.const(np.zeros(FEATURES)), mask] if self.masks else []
            moved = g.DeformConv(neighbour, weight, offset, *rest, pads=[1] * 4, offset_group=GROUPS)
            aligned = moved if aligned is None else g.Add(moved, g.enlarge(aligned))
        assert aligned is not None
        return window(g, g.conv(aligned, FEATURES, 3, 90), (-1, 0), Edge.REPLICATE)


FLOW_SPELLINGS = {
    "plain": FlowPyramid(),
    "swapped": FlowPyramid(swapped=True),
    "multiplied-first": FlowPyramid(before_resize=True),
    "factor-by-channel": FlowPyramid(channelwise=True),
    "constants-as-nodes": FlowPyramid(constants_as_nodes=True, swapped=True),
    "scalars-of-shape-1": FlowPyramid(scalar_shape=(1,)),
}

OFFSET_SPELLINGS = {
    "plain": OffsetPyramid(),
    "two-scales": OffsetPyramid(levels=2),
    "without-masks": OffsetPyramid(masks=False),
    "swapped": OffsetPyramid(swapped=True, constants_as_nodes=True),
    "multiplied-first": OffsetPyramid(before_resize=True, scalar_shape=(1,)),
}
