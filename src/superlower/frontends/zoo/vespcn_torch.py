"""VESPCN in PyTorch (Caballero et al., CVPR 2017), as EGVSR's authors trained it.

Parameter names are those of their checkpoint. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.layers_torch import slide

FEATURES = 64
SCALE = 4
_FLOW_FEATURES = 24
_GAIN = 32.0
_BLOCKS = 3


class VespcnNet(nn.Module):
    """The network. `upscale` is the step of the program; `forward` runs it over a clip.

    Args:
        channels: 3 for RGB, 1 for luma.
        padded: convolutions of the upscaling part keep the size. The published port has them eat a border.
    """

    def __init__(self, channels: int = 3, *, padded: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.sr = _UpscalingNet(channels, 1 if padded else 0)
        self.mc = _FlowNet(channels)

    def upscale(self, previous: Tensor, x: Tensor, following: Tensor) -> Tensor:
        """The upscaled `x`, from three frames in order, [N, C, H, W] in 0..1, H and W multiples of four."""
        warped = [warp(frame, self.mc(x, frame)) for frame in (previous, following)]
        picture: Tensor = self.sr(torch.cat((*warped, x), dim=1))
        return picture

    def forward(self, frames: Tensor) -> Tensor:
        """[T, C, H, W] in 0..1 -> [T, C, 4H, 4W]; beyond the ends stand the first and the last frame."""
        return slide(self.upscale, frames, 1)


class _ReluBlock(nn.Module):
    """x + conv2(relu(conv1(relu(x))))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.conv2 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + residual


class _UpscalingNet(nn.Module):
    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3 * channels, FEATURES, 3, padding=padding)
        self.exit = nn.Conv2d(FEATURES, channels, 3, padding=padding)
        self.body = nn.Sequential(*(_ReluBlock() for _ in range(_BLOCKS)), nn.ReLU())
        self.conv = nn.Conv2d(FEATURES, FEATURES * SCALE**2, 3, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        features = self.entry(x)
        features = self.conv(self.body(features) + features)
        picture: Tensor = self.exit(F.pixel_shuffle(features, SCALE))
        return picture


class _FlowNet(nn.Module):
    """Coarse to fine flow (section 2.3 of the paper): twice convolutions, a tanh and a pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        n = _FLOW_FEATURES
        self.coarse_flow = nn.Sequential(
            _layer(2 * channels, n, 5, stride=2),
            _layer(n, n, 3),
            _layer(n, n, 5, stride=2),
            _layer(n, n, 3),
            nn.Sequential(nn.Conv2d(n, 2 * 4**2, 3, padding=1), nn.Tanh()),
            nn.PixelShuffle(4),
        )
        self.fine_flow = nn.Sequential(
            _layer(3 * channels + 2, n, 5, stride=2),
            _layer(n, n, 3),
            _layer(n, n, 3),
            _layer(n, n, 3),
            nn.Sequential(nn.Conv2d(n, 2 * 2**2, 3, padding=1), nn.Tanh()),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] that warps `sup` onto `x`, both [N, C, H, W]. The coarse one warps unscaled."""
        coarse = self.coarse_flow(torch.cat((sup, x), dim=1))
        fine = self.fine_flow(torch.cat((sup, x, coarse, warp(sup, coarse)), dim=1))
        flow: Tensor = (fine + coarse) * _GAIN
        return flow


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2), nn.ReLU())


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample `x` [N, C, H, W] along `flow` [N, 2, H, W] as the weights were trained to have it.

    Pixel p of n stands at 2 p / (n - 1) - 1, as if corners were aligned, and a flow of f adds 2 f / n; the
    sampler, though, reads positions as if they weren't. So a flow of zero isn't the identity: it stretches
    the picture by n / (n - 1) about its middle.
    """
    height, width = x.shape[2:]
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device).view(1, height, 1)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).view(1, 1, width)
    grid = torch.stack((columns + flow[:, 0] * (2 / width), rows + flow[:, 1] * (2 / height)), dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
