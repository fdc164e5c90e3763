"""SOF-VSR in PyTorch as first published (Wang et al., ACCV 2018): x4 on luma, with dense blocks.

Parameter names are those of the authors' checkpoint. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.layers_torch import conv3x3, resize_bilinear, slide
from superlower.frontends.zoo.sofvsr_torch import drafts, warp

SCALE = 4
_GROWTH = 32
_FLOW_FEATURES = 32
_FEATURES = 64
_SLOPE = 0.1


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, _GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, F.leaky_relu(self.conv(x), _SLOPE)), dim=1)


class _DenseBlock(nn.Module):
    """A residual dense block: layers that each see all before them, and a 1x1 convolution back."""

    def __init__(self, layers: int, features: int) -> None:
        super().__init__()
        self.dense_layers = nn.Sequential(*(_DenseLayer(features + i * _GROWTH) for i in range(layers)))
        self.conv_1x1 = nn.Conv2d(features + layers * _GROWTH, features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv_1x1(self.dense_layers(x))
        return x + residual


class _FlowNet(nn.Module):
    """Flow in three levels, each with weights of its own: at half the size, at the size, at the output's.

    A level's flow is taken over by the next as it is: it isn't doubled where the size is.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        for level, (inputs, outputs) in enumerate(((2, 2), (6, 2), (6, 2 * SCALE**2)), start=1):
            self.add_module(f"conv_L{level}_1", nn.Conv2d(inputs, _FLOW_FEATURES, 3, padding=1, bias=False))
            self.add_module(f"RDB{level}_1", _DenseBlock(4, _FLOW_FEATURES))
            self.add_module(f"RDB{level}_2", _DenseBlock(4, _FLOW_FEATURES))
            bottleneck = nn.Conv2d(2 * _FLOW_FEATURES, outputs, 3, padding=1, bias=False)
            self.add_module(f"bottleneck_L{level}", bottleneck)
            self.add_module(f"conv_L{level}_2", conv3x3(outputs, outputs))

    def forward(self, x: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, 4H, 4W] that warps `sup` onto `x`, both [N, 1, H, W]."""
        height, width = x.shape[2:]
        pair = torch.cat((sup, x), dim=1)
        flow = resize_bilinear(self._level(1, F.avg_pool2d(pair, 2)), height, width)
        flow = self._level(2, self._compared(pair, flow)) + flow
        fine = F.pixel_shuffle(self._level(3, self._compared(pair, flow)), SCALE)
        return fine + resize_bilinear(flow, SCALE * height, SCALE * width)

    def _compared(self, pair: Tensor, flow: Tensor) -> Tensor:
        moved = warp(pair[:, :1], flow, align_corners=self.align_corners)
        return torch.cat((pair, moved, pair[:, 1:] - moved, flow), dim=1)

    def _level(self, level: int, x: Tensor) -> Tensor:
        first = self.get_submodule(f"RDB{level}_1")(self.get_submodule(f"conv_L{level}_1")(x))
        second = self.get_submodule(f"RDB{level}_2")(first)
        both = self.get_submodule(f"bottleneck_L{level}")(torch.cat((first, second), dim=1))
        flow: Tensor = self.get_submodule(f"conv_L{level}_2")(both)
        return flow


class _UpscalingNet(nn.Module):
    _BLOCKS = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 + 2 * SCALE**2, _FEATURES, 3, padding=1, bias=False)
        for i in range(1, self._BLOCKS + 1):
            self.add_module(f"RDB_{i}", _DenseBlock(5, _FEATURES))
        self.bottleneck = nn.Conv2d((self._BLOCKS + 1) * _FEATURES, SCALE**2, 1, bias=False)
        self.conv_2 = conv3x3(SCALE**2, SCALE**2)

    def forward(self, x: Tensor) -> Tensor:
        entry = self.conv(x)
        found = [entry]
        for i in range(1, self._BLOCKS + 1):
            found.append(self.get_submodule(f"RDB_{i}")(found[-1]))
        features = self.bottleneck(torch.cat((*found[1:], entry), dim=1))
        return F.pixel_shuffle(self.conv_2(features), SCALE)


class SofVsrAccvNet(nn.Module):
    """The network. `upscale` is the step of the program; `forward` runs it over a clip.

    Args:
        align_corners: as in `sofvsr_torch.warp`.
    """

    scale = SCALE

    def __init__(self, *, align_corners: bool = True) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.OFRnet = _FlowNet(align_corners)
        self.SRnet = _UpscalingNet()

    def upscale(self, previous: Tensor, x: Tensor, following: Tensor) -> Tensor:
        """The upscaled `x`, from three frames in order, [N, 1, H, W] in 0..1, H and W even."""
        moved = [
            drafts(frame, self.OFRnet(x, frame), SCALE, align_corners=self.align_corners)
            for frame in (previous, following)
        ]
        # Phase by phase, the frame before and the one after.
        phases = torch.stack(moved, dim=2).flatten(1, 2)
        picture: Tensor = self.SRnet(torch.cat((previous, x, following, phases), dim=1))
        return picture

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 1, H, W] in 0..1 -> [T, 1, 4H, 4W]; beyond the ends stand the first and the last frame."""
        return slide(self.upscale, frames, 1)
