"""ESPCN in PyTorch (Shi et al., CVPR 2016), as EGVSR's authors have it: three layers and a choice of tails.

Parameter names are those of their checkpoint, which holds all three tails. Imports torch: import it inside
methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.layers_torch import conv3x3, resize_bilinear

SCALE = 4
FEATURES = 32


class EspcnNet(nn.Module):
    """The network, on luma.

    Args:
        tail: "shuffle" (1x1 convolution and pixel shuffle: the paper's), "resize" (bilinear, corners aligned,
            then a 1x1 convolution) or "transposed" (5x5 convolution of stride 4).
    """

    def __init__(self, tail: str = "shuffle") -> None:
        super().__init__()
        self.tail = tail
        self.conv1 = nn.Conv2d(1, 64, 5, padding=2)
        self.conv2 = conv3x3(64, FEATURES)
        self.conv3 = conv3x3(FEATURES, FEATURES)
        self.pwconv = nn.Conv2d(FEATURES, SCALE**2, 1)
        self.reconv = nn.Conv2d(FEATURES, 1, 1)
        self.deconv = nn.ConvTranspose2d(FEATURES, 1, 5, stride=SCALE, padding=2, output_padding=SCALE - 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] in 0..1 -> [N, 1, 4H, 4W] in 0..1, each frame by itself."""
        features = x
        for layer in (self.conv1, self.conv2, self.conv3):
            features = torch.tanh(layer(features))
        if self.tail == "shuffle":
            picture = F.pixel_shuffle(self.pwconv(features), SCALE)
        elif self.tail == "resize":
            height, width = x.shape[2:]
            large = resize_bilinear(features, SCALE * height, SCALE * width, align_corners=True)
            picture = self.reconv(large)
        else:
            picture = self.deconv(features)
        return torch.sigmoid(picture)
