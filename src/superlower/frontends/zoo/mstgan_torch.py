"""MST-GAN's generator in PyTorch: our own build of what is published of it, for there is no public code.

Published: a window of three frames; flow and alignment of features at several scales; residual boosting; a
generator like ResNet-50; about 28 M parameters and 950 GFLOPs for a frame of 1280x720. docs/models.md lists
what is assumed beyond that. Imports torch: import it inside methods only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.prunable_torch import Channels, Layout, PrunableNet, Row, Unrolled, narrow
from superlower.frontends.zoo.layers_torch import (
    PictureNet,
    ResidualBlock,
    conv3x3,
    double,
    flow_warp,
    leaky,
    slide,
    slide_over,
)

FEATURES = 64
LEVELS = 3
BLOCKS = 11
"""Residual blocks on each frame by itself, at its full size."""

_WINDOW = 3
_SLOPE = 0.1
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 1), (512, 3, 2))
"""Width, bottlenecks and stride of ResNet-50's stages; the first and the third don't halve here."""

_EXPANSION = 4


def _layout(estimators: int) -> Layout:
    """What pruning may take: channels within a block or between two convolutions, not those that blocks,
    scales or shortcuts add to. Flows are made of features that are pruned: nothing of them is frozen.

    Args:
        estimators: of flow.
    """
    pairs = [
        *(f"boost.refine.{i}.0" for i in range(LEVELS)),
        *(f"pyramid.refine.{i}" for i in range(LEVELS - 1)),
    ]
    chains = [[f"{block}.conv1", f"{block}.conv2"] for block in pairs]
    chains += [[f"align.estimate.{i}.{layer}" for layer in (0, 2, 4)] for i in range(estimators)]
    for stage, (_, count, _) in enumerate(_STAGES):
        chains += [[f"backbone.stages.{stage}.{i}.conv{k}" for k in (1, 2, 3)] for i in range(count)]
    return Layout(
        rows=(Row("pyramid.blocks", "conv1", "conv2"),),
        channels=(
            *(Channels(*pair) for chain in chains for pair in pairwise(chain)),
            Channels("upconv1", "upconv2", filters=4),
            Channels("upconv2", "conv_hr", filters=4),
            Channels("conv_hr", "conv_last"),
        ),
    )


def _blocks(count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(FEATURES) for _ in range(count)))


class _Pyramid(nn.Module):
    """A frame's features at three scales; they depend on no other frame."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.entry = conv3x3(3, FEATURES)
        self.blocks = _blocks(blocks)
        self.halve = nn.ModuleList(
            nn.Conv2d(FEATURES, FEATURES, 3, stride=2, padding=1) for _ in range(LEVELS - 1)
        )
        self.refine = nn.ModuleList(ResidualBlock(FEATURES) for _ in range(LEVELS - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> [N, 64, H / 2^l, W / 2^l] for l = 0, 1, 2."""
        levels = [self.blocks(leaky(self.entry(x)))]
        for halve, refine in zip(self.halve, self.refine, strict=True):
            levels.append(refine(leaky(halve(levels[-1]))))
        return levels


class _Alignment(nn.Module):
    """A neighbour's features moved to the frame's at every scale, along a flow made from coarse to fine.

    Args:
        multiscale: each scale corrects the flow of the next coarser one; else the coarsest's serves all.
    """

    def __init__(self, multiscale: bool) -> None:
        super().__init__()
        self.estimate = nn.ModuleList(
            nn.Sequential(
                conv3x3(2 * FEATURES + 2, FEATURES),
                nn.LeakyReLU(_SLOPE),
                conv3x3(FEATURES, FEATURES // 2),
                nn.LeakyReLU(_SLOPE),
                conv3x3(FEATURES // 2, 2),
            )
            for _ in range(LEVELS if multiscale else 1)
        )

    def forward(self, neighbour: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
        """Both pyramids finest first -> the neighbour's, aligned, finest first."""
        flow = torch.zeros_like(reference[-1][:, :2])
        moved = neighbour[-1]
        aligned: list[Tensor] = []
        for i, (features, target) in enumerate(zip(neighbour[::-1], reference[::-1], strict=True)):
            if i > 0:
                flow = double(flow) * 2
                moved = flow_warp(features, flow, padding="border")
            if i < len(self.estimate):
                flow = flow + self.estimate[i](torch.cat((target, moved, flow), dim=1))
                moved = flow_warp(features, flow, padding="border")
            aligned.append(moved)
        return aligned[::-1]


class _Boosting(nn.Module):
    """Scales put together by strengthen, operate, subtract: r(f + c) - c, with c what is known from coarser
    scales (as in Dong et al., CVPR 2020, equation 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(nn.Conv2d(_WINDOW * FEATURES, FEATURES, 1) for _ in range(LEVELS))
        self.refine = nn.ModuleList(_blocks(1) for _ in range(LEVELS))
        self.enlarge = nn.ModuleList(conv3x3(FEATURES, FEATURES) for _ in range(LEVELS - 1))

    def forward(self, pyramids: Sequence[Sequence[Tensor]]) -> Tensor:
        """The window's aligned pyramids, each finest first -> [N, 64, H, W]."""
        boosted: Tensor | None = None
        for level in reversed(range(LEVELS)):
            fused = leaky(self.fuse[level](torch.cat([pyramid[level] for pyramid in pyramids], dim=1)))
            if boosted is None:
                boosted = self.refine[level](fused)
            else:
                coarse = self.enlarge[level](double(boosted))
                boosted = self.refine[level](fused + coarse) - coarse
        assert boosted is not None
        return boosted


class _Bottleneck(nn.Module):
    """ResNet-50's block (He et al., CVPR 2016, figure 5), without batch normalisation."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(width, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class _Backbone(nn.Module):
    """ResNet-50's stages at the frame's size, a half, a half and a quarter; and a decoder back."""

    def __init__(self) -> None:
        super().__init__()
        stages = []
        inputs = FEATURES
        for width, count, stride in _STAGES:
            blocks = [_Bottleneck(inputs, width, stride)]
            inputs = _EXPANSION * width
            blocks += [_Bottleneck(inputs, width, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.reduce = nn.Conv2d(2048, 512, 1)
        self.lateral = nn.Conv2d(1024, 512, 1)
        self.middle = conv3x3(512, 256)
        self.last = conv3x3(256, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> the same shape."""
        full = self.stages[0](x)
        half = self.stages[2](self.stages[1](full))
        decoded = double(self.reduce(self.stages[3](half))) + self.lateral(half)
        decoded = leaky(self.middle(leaky(decoded)))
        decoded = leaky(self.last(double(decoded) + full))
        return decoded + x


class MstGanNet(PrunableNet, PictureNet):
    """The network. `upscale` is the step of the program; `forward` runs it over a clip.

    Args:
        multiscale: as in `_Alignment`.
        blocks: residual blocks on each frame by itself.
        pruned: a checkpoint with as few channels as the network is to have; none for all.
    """

    def __init__(
        self, *, multiscale: bool = True, blocks: int = BLOCKS, pruned: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.layout = _layout(LEVELS if multiscale else 1)
        self.multiscale = multiscale
        self.blocks = blocks
        self.pyramid = _Pyramid(blocks)
        self.align = _Alignment(multiscale)
        self.boost = _Boosting()
        self.backbone = _Backbone()
        self.add_upsampler(FEATURES)
        self.widths = narrow(self, pruned or {})

    @property
    def structure(self) -> dict[str, str]:
        """As of a prunable network."""
        found = {"blocks": str(self.blocks)}
        if self.widths:
            found["widths"] = "; ".join(f"{name} {width}" for name, width in self.widths.items())
        return found

    def flows(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """None that could be shared: they are made of the features."""
        return ()

    def unroll(self, frames: Sequence[Tensor], flows: tuple[list[Tensor], ...]) -> Unrolled:
        """Frame by frame; nothing is carried along."""
        return Unrolled(slide_over(self.upscale, frames, 1, mirror=True), [])

    def upscale(self, before: Tensor, x: Tensor, after: Tensor) -> Tensor:
        """The upscaled `x` [N, 3, 4H, 4W], from three frames [N, 3, H, W] in 0..1, H and W
        multiples of four."""
        previous, reference, following = (self.pyramid(frame) for frame in (before, x, after))
        window = [self.align(previous, reference), reference, self.align(following, reference)]
        return self.picture(self.backbone(self.boost(window)), x)

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]; frames beyond the ends mirror those within."""
        return slide(self.upscale, frames, 1, mirror=True)
