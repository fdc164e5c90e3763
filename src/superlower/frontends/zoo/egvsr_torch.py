"""EGVSR's generator in PyTorch (Cao et al., 2021), as released: FRVSR's, with a pixel shuffle for a tail.

Its flow network has no batch normalisation, though the paper speaks of one. Imports torch: import it inside
methods only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.frvsr_torch import FEATURES, SCALE, FrameRecurrentNet, UpscalingNet
from superlower.frontends.zoo.layers_torch import conv3x3


class _CheapUpscalingNet(UpscalingNet):
    """Pixel shuffle by 4 (64 to 4 channels), ReLU and a convolution; nothing is added to what it makes.

    The transposed convolutions stay, for published checkpoints hold them; no output depends on them.
    """

    def __init__(self, blocks: Sequence[int], upsampler: nn.Module) -> None:
        super().__init__(blocks, upsampler)
        self.conv_out = conv3x3(FEATURES // SCALE**2, 3)

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """As in FRVSR's."""
        features = self.resblocks(self.conv_in(torch.cat((x, previous), dim=1)))
        picture: Tensor = self.conv_out(F.relu(F.pixel_shuffle(features, SCALE)))
        return picture


class EgvsrNet(FrameRecurrentNet):
    """The generator; arguments and steps are FRVSR's."""

    def _upscaling_net(self, blocks: Sequence[int]) -> nn.Module:
        return _CheapUpscalingNet(blocks, self.upsample_func)
