"""PyTorch building blocks shared by the zoo's networks. Imports torch: import it inside methods only.

Every size is taken from the tensor's static shape, so an export carries constant sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def mirrored(index: int, count: int) -> int:
    """The frame that stands for `index`, inside a clip of `count` frames or not: mirrored about the ends."""
    last = count - 1
    return last - abs(last - index % max(2 * last, 1))


def slide(upscale: Callable[..., Tensor], frames: Tensor, radius: int, *, mirror: bool = False) -> Tensor:
    """A window of frames over a clip, one call a frame.

    Args:
        upscale: called with frames t - radius to t + radius, in order, each [1, C, H, W].
        frames: [T, C, H, W].
        mirror: frames beyond the ends mirror those within; else they repeat the first and the last.
    """
    return torch.cat(slide_over(upscale, torch.split(frames, 1), radius, mirror=mirror))


def slide_over(
    upscale: Callable[..., Tensor], frames: Sequence[Tensor], radius: int, *, mirror: bool = False
) -> list[Tensor]:
    """As `slide`, over a list of frames [N, C, H, W]."""
    count = len(frames)
    outputs = []
    for t in range(count):
        window = range(t - radius, t + radius + 1)
        indices = [mirrored(i, count) if mirror else min(max(i, 0), count - 1) for i in window]
        outputs.append(upscale(*(frames[i] for i in indices)))
    return outputs


def resize_bilinear(x: Tensor, height: int, width: int, *, align_corners: bool = False) -> Tensor:
    """`x` [N, C, h, w] at [N, C, height, width]; no operation at all when it has that size already."""
    if tuple(x.shape[2:]) == (height, width):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)


def flow_warp(x: Tensor, flow: Tensor, *, padding: str = "zeros") -> Tensor:
    """Sample `x` [N, C, H, W] at each pixel's position moved by `flow` [N, 2, H, W] (x then y, in pixels).

    A position p of a side of n pixels is 2 p / (n - 1) - 1 in grid_sample's coordinates with align_corners.
    """
    height, width = x.shape[2:]
    rows = torch.arange(height, dtype=flow.dtype, device=x.device).view(1, height, 1)
    columns = torch.arange(width, dtype=flow.dtype, device=x.device).view(1, 1, width)
    grid_x = 2.0 * (columns + flow[:, 0]) / max(width - 1, 1) - 1.0
    grid_y = 2.0 * (rows + flow[:, 1]) / max(height - 1, 1) - 1.0
    grid = torch.stack((grid_x, grid_y), dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.1, which most networks of the field use."""
    return F.leaky_relu(x, 0.1)


def double(x: Tensor) -> Tensor:
    """`x` [N, C, H, W] at twice the size, bilinearly."""
    return resize_bilinear(x, 2 * x.shape[2], 2 * x.shape[3])


class ResidualBlock(nn.Module):
    """x + conv2(relu(conv1(x))), without batch normalisation.

    Args:
        features: channels of x.
        inner: channels between the convolutions; as many as x has unless the block is pruned.
    """

    def __init__(self, features: int, inner: int | None = None) -> None:
        super().__init__()
        inner = features if inner is None else inner
        self.conv1 = conv3x3(features, inner)
        self.conv2 = conv3x3(inner, features)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F, H, W] -> the same shape."""
        residual: Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + residual


class Trunk(nn.Module):
    """A convolution to `features` channels, LeakyReLU 0.1, then residual blocks: BasicVSR's propagation.

    Args:
        inputs, features: channels.
        blocks: how many, or the inner channels of each.
    """

    def __init__(self, inputs: int, features: int, blocks: int | Sequence[int]) -> None:
        super().__init__()
        inner = [features] * blocks if isinstance(blocks, int) else blocks
        self.main = nn.Sequential(
            conv3x3(inputs, features),
            nn.LeakyReLU(0.1),
            nn.Sequential(*(ResidualBlock(features, width) for width in inner)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, features, H, W]."""
        features: Tensor = self.main(x)
        return features


class PictureNet(nn.Module):
    """A network that ends in BasicVSR's upsampler: `picture` makes the upscaled frame of its features."""

    SCALE = 4
    _SLOPE = 0.1

    def add_upsampler(
        self, features: int, upconv1: int | None = None, upconv2: int = 64, conv_hr: int = 64
    ) -> None:
        """Its parameters, for `picture` to be given `features` channels.

        Args:
            features: of the input.
            upconv1, upconv2, conv_hr: channels that each of these makes, after the pixel shuffle if it has
                one; `upconv1` makes `features` of them unless told.
        """
        upconv1 = features if upconv1 is None else upconv1
        self.upconv1 = conv3x3(features, 4 * upconv1)
        self.upconv2 = conv3x3(upconv1, 4 * upconv2)
        self.conv_hr = conv3x3(upconv2, conv_hr)
        self.conv_last = conv3x3(conv_hr, 3)

    def picture(self, features: Tensor, x: Tensor) -> Tensor:
        """[N, 3, 4H, 4W] from features [N, F, H, W] at the frame `x` [N, 3, H, W], which it is added to."""
        out = F.leaky_relu(F.pixel_shuffle(self.upconv1(features), 2), self._SLOPE)
        out = F.leaky_relu(F.pixel_shuffle(self.upconv2(out), 2), self._SLOPE)
        out = F.leaky_relu(self.conv_hr(out), self._SLOPE)
        height, width = x.shape[2:]
        details: Tensor = self.conv_last(out)
        return details + resize_bilinear(x, self.SCALE * height, self.SCALE * width)


class _FlowLevel(nn.Module):
    """One pyramid level of SPyNet: reference, warped neighbour and flow so far to a flow residual."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 32, 64, 32, 16, 2)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 7, padding=3), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8, H, W] -> [N, 2, H, W]."""
        residual: Tensor = self.basic_module(x)
        return residual


class SpyNet(nn.Module):
    """Optical flow over an image pyramid (Ranjan and Black, CVPR 2017), six levels, as BasicVSR uses it.

    Frames are resized to multiples of 32 for the pyramid, and the flow back, its components rescaled by the
    sides' ratios.
    """

    LEVELS = 6
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(_FlowLevel() for _ in range(self.LEVELS))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, ref: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] in pixels (x, y) from `ref` to `sup`, both RGB [N, 3, H, W] in 0..1."""
        height, width = ref.shape[2:]
        step = 2 ** (self.LEVELS - 1)
        inner_height, inner_width = -(-height // step) * step, -(-width // step) * step
        refs = self._pyramid(resize_bilinear(ref, inner_height, inner_width))
        sups = self._pyramid(resize_bilinear(sup, inner_height, inner_width))
        flow = resize_bilinear(self._estimate(refs, sups), height, width)
        if (inner_height, inner_width) == (height, width):
            return flow
        ratios = [width / inner_width, height / inner_height]
        return flow * torch.tensor(ratios, dtype=flow.dtype, device=flow.device).view(1, 2, 1, 1)

    def _pyramid(self, frame: Tensor) -> list[Tensor]:
        """The normalised frame, coarsest level first."""
        levels = [(frame - self.mean) / self.std]
        for _ in range(self.LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], kernel_size=2, stride=2))
        return levels[::-1]

    def _estimate(self, refs: list[Tensor], sups: list[Tensor]) -> Tensor:
        # At the coarsest level nothing is known yet: a warp by a zero flow is the identity, and is left out.
        zero = torch.zeros_like(refs[0][:, :2])
        flow = self.basic_module[0](torch.cat((refs[0], sups[0], zero), dim=1))
        for module, ref, sup in zip(self.basic_module[1:], refs[1:], sups[1:], strict=True):
            up = resize_bilinear(flow, *ref.shape[2:], align_corners=True) * 2.0
            flow = up + module(torch.cat((ref, flow_warp(sup, up, padding="border"), up), dim=1))
        estimate: Tensor = flow
        return estimate


class Method(nn.Module):
    """One method of a network as a module of its own, which is what the exporter takes.

    The network's names are then under the scope "network".
    """

    def __init__(self, network: nn.Module, method: Callable[..., object]) -> None:
        super().__init__()
        self.network = network
        self._method = method

    def forward(self, *inputs: Tensor) -> object:
        """What the method returns."""
        return self._method(*inputs)
