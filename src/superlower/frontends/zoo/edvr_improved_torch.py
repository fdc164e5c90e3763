"""The improved EDVR in PyTorch (Huang and Chen, WACV 2022): our own build from the paper's description.

Published: lighter preprocessing instead of heavy residual blocks; 3-D convolutions in place of part of the
deformable ones; channel attention in the reconstruction; 3.5 M parameters and about 900 GFLOPs for a frame of
480x270. docs/models.md lists what is assumed beyond that. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.edvr_torch import Alignment
from superlower.frontends.zoo.layers_torch import (
    PictureNet,
    ResidualBlock,
    conv3x3,
    double,
    leaky,
    slide,
)

FEATURES = 64
BLOCKS = 23
"""Residual blocks with channel attention in the reconstruction."""

_PREPROCESSING_BLOCKS = 2
_VOLUME_BLOCKS = 2
_REDUCTION = 16


class _VolumeBlock(nn.Module):
    """x + conv2(leaky(conv1(x))), 3x3x3 over frames, rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(FEATURES, FEATURES, 3, padding=1)
        self.conv2 = nn.Conv3d(FEATURES, FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, frames, H, W] -> the same shape."""
        residual: Tensor = self.conv2(leaky(self.conv1(x)))
        return x + residual


class _AttentionBlock(nn.Module):
    """A residual block whose residual's channels are weighted by their means (Zhang et al., ECCV 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv3x3(FEATURES, FEATURES)
        self.conv2 = conv3x3(FEATURES, FEATURES)
        self.squeeze = nn.Conv2d(FEATURES, FEATURES // _REDUCTION, 1)
        self.excite = nn.Conv2d(FEATURES // _REDUCTION, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> the same shape."""
        residual = self.conv2(F.relu(self.conv1(x)))
        means = residual.mean(dim=(2, 3), keepdim=True)
        weighted: Tensor = residual * torch.sigmoid(self.excite(F.relu(self.squeeze(means))))
        return x + weighted


class ImprovedEdvrNet(PictureNet):
    """The network. `upscale` is the step of the program; `forward` runs it over a clip.

    Args:
        frames: of the window, an odd number.
        blocks: residual blocks of the reconstruction.
    """

    def __init__(self, frames: int = 5, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.frames = frames
        self.blocks = blocks
        self.conv_first = conv3x3(3, FEATURES)
        self.preprocessing = nn.Sequential(*(ResidualBlock(FEATURES) for _ in range(_PREPROCESSING_BLOCKS)))
        self.halve = nn.ModuleList(nn.Conv2d(FEATURES, FEATURES, 3, stride=2, padding=1) for _ in range(2))
        self.align = Alignment(FEATURES, finest=2)
        self.merge = conv3x3(2 * FEATURES, FEATURES)
        self.volume = nn.Sequential(*(_VolumeBlock() for _ in range(_VOLUME_BLOCKS)))
        self.fusion = nn.Conv2d(frames * FEATURES, FEATURES, 1)
        self.reconstruction = nn.Sequential(*(_AttentionBlock() for _ in range(blocks)))
        self.add_upsampler(FEATURES)

    def upscale(self, *frames: Tensor) -> Tensor:
        """The upscaled middle of `frames` [N, 3, 4H, 4W], each [N, 3, H, W] in 0..1, H and W multiples of
        four."""
        pyramids = [self._pyramid(frame) for frame in frames]
        reference = pyramids[len(pyramids) // 2]
        merged = [
            leaky(self.merge(torch.cat((pyramid[0], double(self.align(pyramid, reference))), dim=1)))
            for pyramid in pyramids
        ]
        volume = self.volume(torch.stack(merged, dim=2))
        fused = self.fusion(volume.transpose(1, 2).flatten(1, 2))
        return self.picture(self.reconstruction(fused), frames[len(frames) // 2])

    def _pyramid(self, frame: Tensor) -> list[Tensor]:
        """A frame's features, finest level first; they depend on no other frame."""
        levels = [self.preprocessing(leaky(self.conv_first(frame)))]
        for halve in self.halve:
            levels.append(leaky(halve(levels[-1])))
        return levels

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]; frames beyond the ends mirror those within."""
        return slide(self.upscale, frames, self.frames // 2, mirror=True)
