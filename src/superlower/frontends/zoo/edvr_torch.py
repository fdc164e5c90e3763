"""EDVR in PyTorch (Wang et al., CVPR workshops 2019): a window of frames, aligned by deformable convolutions.

Parameter names are BasicSR's. Imports torch: import it inside methods only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.torch_deform import deform_conv2d
from superlower.frontends.zoo.layers_torch import (
    PictureNet,
    ResidualBlock,
    conv3x3,
    double,
    leaky,
    slide,
)

GROUPS = 8
"""Deformable groups."""

LEVELS = 3
_EXTRACTION_BLOCKS = 5
_TAPS = 9


class DeformableConvolution(nn.Module):
    """A modulated deformable 3x3 convolution whose offsets and mask come from features of their own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, features, 3, 3))
        self.bias = nn.Parameter(torch.zeros(features))
        self.conv_offset = conv3x3(features, GROUPS * 3 * _TAPS)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Both [N, F, H, W] -> [N, F, H, W]."""
        offset, mask = self.conv_offset(guide).split((GROUPS * 2 * _TAPS, GROUPS * _TAPS), dim=1)
        return deform_conv2d(x, offset, self.weight, self.bias, torch.sigmoid(mask), padding=1, groups=GROUPS)


class Alignment(nn.Module):
    """Pyramid, cascading and deformable alignment (PCD, section 3.2).

    Args:
        features: channels.
        finest: level at which it stops: 1, with the cascade, or 2, without.
    """

    def __init__(self, features: int, finest: int = 1) -> None:
        super().__init__()
        self.finest = finest
        self.offset_conv1 = nn.ModuleDict()
        self.offset_conv2 = nn.ModuleDict()
        self.offset_conv3 = nn.ModuleDict()
        self.dcn_pack = nn.ModuleDict()
        self.feat_conv = nn.ModuleDict()
        for level in range(LEVELS, finest - 1, -1):
            name, coarsest = f"l{level}", level == LEVELS
            self.offset_conv1[name] = conv3x3(2 * features, features)
            self.offset_conv2[name] = conv3x3(features if coarsest else 2 * features, features)
            self.dcn_pack[name] = DeformableConvolution(features)
            if not coarsest:
                self.offset_conv3[name] = conv3x3(features, features)
                self.feat_conv[name] = conv3x3(2 * features, features)
        if finest > 1:
            return
        self.cas_offset_conv1 = conv3x3(2 * features, features)
        self.cas_offset_conv2 = conv3x3(features, features)
        self.cas_dcnpack = DeformableConvolution(features)

    def forward(self, neighbour: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """The neighbour's features of the finest level moved to the reference's, both given level by level,
        finest first: [N, F, H / 2^l, W / 2^l] for l = 0, 1, 2."""
        guide, aligned = self._level(3, neighbour[2], reference[2])
        for level in range(LEVELS - 1, self.finest - 1, -1):
            # An offset of a pixel is one of two pixels at twice the size.
            guide, aligned = self._level(
                level, neighbour[level - 1], reference[level - 1], (double(guide) * 2, double(aligned))
            )
        if self.finest > 1:
            return aligned
        guide = leaky(self.cas_offset_conv1(torch.cat((aligned, reference[0]), dim=1)))
        guide = leaky(self.cas_offset_conv2(guide))
        return leaky(self.cas_dcnpack(aligned, guide))

    def _level(
        self, level: int, neighbour: Tensor, reference: Tensor, coarser: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What offsets are made from, and the aligned features, of a level; `coarser` are those of the next,
        at this one's size."""
        name = f"l{level}"
        guide = leaky(self.offset_conv1[name](torch.cat((neighbour, reference), dim=1)))
        if coarser is None:
            guide = leaky(self.offset_conv2[name](guide))
            return guide, leaky(self.dcn_pack[name](neighbour, guide))
        guide = leaky(self.offset_conv2[name](torch.cat((guide, coarser[0]), dim=1)))
        guide = leaky(self.offset_conv3[name](guide))
        aligned = self.dcn_pack[name](neighbour, guide)
        aligned = self.feat_conv[name](torch.cat((aligned, coarser[1]), dim=1))
        return guide, leaky(aligned) if level > 1 else aligned


class _AttentiveFusion(nn.Module):
    """Temporal and spatial attention (TSA, section 3.3)."""

    def __init__(self, features: int, frames: int) -> None:
        super().__init__()
        self.temporal_attn1 = conv3x3(features, features)
        self.temporal_attn2 = conv3x3(features, features)
        self.feat_fusion = nn.Conv2d(frames * features, features, 1)
        self.spatial_attn1 = nn.Conv2d(frames * features, features, 1)
        self.spatial_attn2 = nn.Conv2d(2 * features, features, 1)
        self.spatial_attn3 = conv3x3(features, features)
        self.spatial_attn4 = nn.Conv2d(features, features, 1)
        self.spatial_attn5 = conv3x3(features, features)
        self.spatial_attn_l1 = nn.Conv2d(features, features, 1)
        self.spatial_attn_l2 = conv3x3(2 * features, features)
        self.spatial_attn_l3 = conv3x3(features, features)
        self.spatial_attn_add1 = nn.Conv2d(features, features, 1)
        self.spatial_attn_add2 = nn.Conv2d(features, features, 1)

    def forward(self, aligned: Sequence[Tensor]) -> Tensor:
        """Each frame's aligned features [N, F, H, W], the middle one the reference -> [N, F, H, W]."""
        reference = self.temporal_attn1(aligned[len(aligned) // 2])
        weighted = []
        for features in aligned:
            likeness = (self.temporal_attn2(features) * reference).sum(dim=1, keepdim=True)
            weighted.append(features * torch.sigmoid(likeness))
        together = torch.cat(weighted, dim=1)
        fused = leaky(self.feat_fusion(together))

        attention = leaky(self.spatial_attn2(_pooled(leaky(self.spatial_attn1(together)))))
        coarse = leaky(self.spatial_attn_l2(_pooled(leaky(self.spatial_attn_l1(attention)))))
        coarse = double(leaky(self.spatial_attn_l3(coarse)))
        attention = leaky(self.spatial_attn3(attention)) + coarse
        attention = self.spatial_attn5(double(leaky(self.spatial_attn4(attention))))
        added: Tensor = self.spatial_attn_add2(leaky(self.spatial_attn_add1(attention)))
        return fused * torch.sigmoid(attention) * 2 + added


def _pooled(x: Tensor) -> Tensor:
    """Maxima and means of 3x3 at half the size, borders counted as zeros in means: [N, 2F, H / 2, W / 2]."""
    return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), dim=1)


class EdvrExtractor(nn.Module):
    """EDVR up to its fused features, which is what IconVSR takes of it.

    Args:
        features: channels.
        frames: of the window, an odd number.
        attention: fuse by temporal and spatial attention (TSA), not by a 1x1 convolution.
    """

    def __init__(self, features: int, frames: int, *, attention: bool = True) -> None:
        super().__init__()
        self.conv_first = conv3x3(3, features)
        self.feature_extraction = nn.Sequential(*(ResidualBlock(features) for _ in range(_EXTRACTION_BLOCKS)))
        self.conv_l2_1 = nn.Conv2d(features, features, 3, stride=2, padding=1)
        self.conv_l2_2 = conv3x3(features, features)
        self.conv_l3_1 = nn.Conv2d(features, features, 3, stride=2, padding=1)
        self.conv_l3_2 = conv3x3(features, features)
        self.pcd_align = Alignment(features)
        self.attention = attention
        self.fusion = (
            _AttentiveFusion(features, frames) if attention else nn.Conv2d(frames * features, features, 1)
        )

    def extract(self, *frames: Tensor) -> Tensor:
        """Fused features [N, F, H, W] of the middle of `frames`, each [N, 3, H, W], H and W
        multiples of four."""
        pyramids = [self._pyramid(frame) for frame in frames]
        reference = pyramids[len(pyramids) // 2]
        aligned = [self.pcd_align(pyramid, reference) for pyramid in pyramids]
        fused: Tensor = self.fusion(aligned if self.attention else torch.cat(aligned, dim=1))
        return fused

    def _pyramid(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A frame's features, finest level first; they depend on no other frame."""
        full = self.feature_extraction(leaky(self.conv_first(frame)))
        half = leaky(self.conv_l2_2(leaky(self.conv_l2_1(full))))
        quarter = leaky(self.conv_l3_2(leaky(self.conv_l3_1(half))))
        return full, half, quarter


class EdvrNet(EdvrExtractor, PictureNet):
    """The network. `upscale` is the step of the program; `forward` runs it over a clip.

    Args:
        features: channels: 64 (M) or 128 (L).
        blocks: residual blocks of the reconstruction: 10 (M) or 40 (L).
        frames: of the window, an odd number.
        attention: fuse by temporal and spatial attention (TSA), not by a 1x1 convolution.
    """

    def __init__(self, features: int, blocks: int, frames: int, *, attention: bool = True) -> None:
        super().__init__(features, frames, attention=attention)
        self.features = features
        self.blocks = blocks
        self.frames = frames
        self.reconstruction = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.add_upsampler(features)

    def upscale(self, *frames: Tensor) -> Tensor:
        """The upscaled middle of `frames` [N, 3, 4H, 4W], each [N, 3, H, W] in 0..1, H and W multiples of
        four."""
        return self.picture(self.reconstruction(self.extract(*frames)), frames[len(frames) // 2])

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]; frames beyond the ends mirror those within."""
        return slide(self.upscale, frames, self.frames // 2, mirror=True)
