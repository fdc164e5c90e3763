"""SOF-VSR in PyTorch (Wang et al., IEEE TIP 2020), on luma: flow at the output's size from three frames.

Parameter names are those of the authors' checkpoints. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.layers_torch import resize_bilinear, slide

FEATURES = 320
SCALES = (2, 3, 4)
_SLOPE = 0.1
_UPSAMPLED = 64
_FLOW_UNIT = 31
"""A flow of 1 is half of this in pixels: it was learnt on patches of 32, where a pixel is 2 / 31."""


def warp(x: Tensor, flow: Tensor, *, align_corners: bool = True) -> Tensor:
    """Sample `x` [N, 1, H, W] along several flows at once.

    Args:
        flow: [N, 2, k H, W]: k flows below one another, in half lengths of the patches trained on.
        align_corners: how the sampler reads positions. Published weights were trained with True, which was
            all there was; the sampler's default has changed since.

    Returns:
        [N, 1, k H, W], the results in the same order.
    """
    height, width = x.shape[2:]
    times = flow.shape[2] // height
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device).repeat(times).view(1, -1, 1)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).view(1, 1, width)
    grid_x = columns + flow[:, 0] * (_FLOW_UNIT / (width - 1))
    grid_y = rows + flow[:, 1] * (_FLOW_UNIT / (height - 1))
    grid = torch.stack((grid_x, grid_y), dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=align_corners)


def drafts(x: Tensor, flow: Tensor, scale: int, *, align_corners: bool = True) -> Tensor:
    """`x` [N, 1, H, W] moved to each of the output's phases by `flow` [N, 2, sH, sW]: [N, s s, H, W]."""
    count, _, height, width = x.shape
    phases = F.pixel_unshuffle(flow, scale).reshape(count, 2, scale**2 * height, width) / scale
    return warp(x, phases, align_corners=align_corners).reshape(count, scale**2, height, width)


class _ShuffleBlock(nn.Module):
    """Half of the channels through a depthwise bottleneck; then both halves interleaved."""

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.body = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.Conv2d(half, half, 1, bias=False),
            nn.LeakyReLU(_SLOPE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, F, H, W] -> the same shape."""
        count, features, height, width = x.shape
        kept, changed = x.chunk(2, dim=1)
        both = torch.stack((kept, self.body(changed)), dim=2)
        return both.reshape(count, features, height, width)


class _Cascade(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_ShuffleBlock(FEATURES) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return features


def _upsampling(scale: int) -> list[nn.Module]:
    """1x1 convolutions and pixel shuffles from 320 to 64 channels at `scale` times the size."""
    layers: list[nn.Module] = []
    inputs = FEATURES
    for factor in (2, 2) if scale == 4 else (scale,):
        layers += [
            nn.Conv2d(inputs, _UPSAMPLED * factor**2, 1, bias=False),
            nn.PixelShuffle(factor),
            nn.LeakyReLU(_SLOPE),
        ]
        inputs = _UPSAMPLED
    return layers


class _FlowNet(nn.Module):
    """Flow in three levels: at half the size, at the size, at the output's (section III-A)."""

    def __init__(self, scale: int, align_corners: bool) -> None:
        super().__init__()
        self.scale = scale
        self.align_corners = align_corners
        self.RNN1 = nn.Sequential(
            nn.Conv2d(4, FEATURES, 3, padding=1, bias=False), nn.LeakyReLU(_SLOPE), _Cascade(3)
        )
        self.RNN2 = nn.Sequential(nn.Conv2d(FEATURES, 2, 3, padding=1, bias=False))
        self.SR = nn.Sequential(
            _Cascade(3), *_upsampling(scale), nn.Conv2d(_UPSAMPLED, 2, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, sH, sW] that warps `sup` onto `x`, both [N, 1, H, W]."""
        height, width = x.shape[2:]
        pair = F.avg_pool2d(torch.cat((sup, x), dim=1), 2)
        flow = self.RNN2(self.RNN1(torch.cat((pair, torch.zeros_like(pair)), dim=1)))
        flow = resize_bilinear(flow, height, width) * 2
        flow = self.RNN2(self._features(x, sup, flow)) + flow
        large = resize_bilinear(flow, self.scale * height, self.scale * width) * self.scale
        fine: Tensor = self.SR(self._features(x, sup, flow)) + large
        return fine

    def _features(self, x: Tensor, sup: Tensor, flow: Tensor) -> Tensor:
        moved = warp(sup, flow, align_corners=self.align_corners)
        features: Tensor = self.RNN1(torch.cat((moved, x, flow), dim=1))
        return features


class _UpscalingNet(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2 * scale**2 + 1, FEATURES, 3, padding=1, bias=False),
            nn.LeakyReLU(_SLOPE),
            _Cascade(8),
            *_upsampling(scale),
            nn.Conv2d(_UPSAMPLED, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.body(x)
        return picture


class SofVsrNet(nn.Module):
    """The network. `upscale` is the step of the program; `forward` runs it over a clip.

    Args:
        scale: 2, 3 or 4.
        align_corners: as in `warp`.
    """

    def __init__(self, scale: int, *, align_corners: bool = True) -> None:
        super().__init__()
        self.scale = scale
        self.align_corners = align_corners
        self.OFR = _FlowNet(scale, align_corners)
        self.SR = _UpscalingNet(scale)

    def upscale(self, previous: Tensor, x: Tensor, following: Tensor) -> Tensor:
        """The upscaled `x`, from three frames in order, [N, 1, H, W] in 0..1, H and W even."""
        cube = [x]
        for frame in (previous, following):
            flow = self.OFR(x, frame)
            cube.append(drafts(frame, flow, self.scale, align_corners=self.align_corners))
        picture: Tensor = self.SR(torch.cat(cube, dim=1))
        return picture

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 1, H, W] in 0..1 -> [T, 1, sH, sW]; beyond the ends stand the first and the last frame."""
        return slide(self.upscale, frames, 1)
