"""FRVSR's generator in PyTorch (Sajjadi et al., CVPR 2018), and TecoGAN's (Chu et al., SIGGRAPH 2020).

Parameter names are those of the public PyTorch ports. Imports torch: import it inside methods only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.prunable_torch import Layout, PrunableNet, Row, Unrolled
from superlower.frontends.zoo.layers_torch import conv3x3, flow_warp, mirrored, resize_bilinear

FEATURES = 64
SCALE = 4
MAX_VELOCITY = 24.0
"""Pixels: the largest component of a flow."""

FLOW_STEP = 8
"""The flow network halves three times, rounding down: its flow covers a multiple of this."""

LAYOUT = Layout(rows=(Row("srnet.resblocks", "conv.0", "conv.2"),), frozen=("fnet.",))
"""What pruning may take."""

_SLOPE = 0.2
_CUBIC = -0.75


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        conv3x3(inputs, outputs),
        nn.LeakyReLU(_SLOPE),
        conv3x3(outputs, outputs),
        nn.LeakyReLU(_SLOPE),
    )


class FlowNet(nn.Module):
    """FRVSR's flow network (section 3.2): an encoder of three halvings, a decoder of three doublings."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1 = _two_convolutions(6, 32)
        self.encoder2 = _two_convolutions(32, 64)
        self.encoder3 = _two_convolutions(64, 128)
        self.decoder1 = _two_convolutions(128, 256)
        self.decoder2 = _two_convolutions(256, 128)
        self.decoder3 = _two_convolutions(128, 64)
        self.flow = nn.Sequential(conv3x3(64, 32), nn.LeakyReLU(_SLOPE), conv3x3(32, 2))

    def forward(self, ref: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] in pixels from `ref` to `sup` [N, 3, H, W]; rows and columns beyond the last
        whole step of eight, where the network has none, mirror those before them."""
        height, width = ref.shape[2:]
        out = torch.cat((ref, sup), dim=1)
        for encoder in (self.encoder1, self.encoder2, self.encoder3):
            out = F.max_pool2d(encoder(out), 2)
        for decoder in (self.decoder1, self.decoder2, self.decoder3):
            out = decoder(out)
            out = resize_bilinear(out, 2 * out.shape[2], 2 * out.shape[3])
        flow = torch.tanh(self.flow(out)) * MAX_VELOCITY
        missing = (height - flow.shape[2], width - flow.shape[3])
        return F.pad(flow, (0, missing[1], 0, missing[0]), mode="reflect") if any(missing) else flow


class BilinearUpsampler(nn.Module):
    """To four times the size, for models of bicubic degradation (BI)."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, 4H, 4W]."""
        return resize_bilinear(x, SCALE * x.shape[2], SCALE * x.shape[3])


class BicubicUpsampler(nn.Module):
    """To four times the size by cubic convolution (Keys, 1981, equation 4, with a = -0.75), for models of
    blur and subsampling (BD): output pixel 4 p + i lies at p + i / 4 of the input, so that both grids begin
    at one point. Edges are repeated.

    One convolution makes the sixteen phases, a pixel shuffle puts them in their places.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        a = _CUBIC
        powers = torch.tensor([[(i / SCALE) ** p for p in range(4)] for i in range(SCALE)])
        taps = torch.tensor(
            [[0, a, -2 * a, a], [1, 0, -(a + 3), a + 2], [0, -a, 2 * a + 3, -(a + 2)], [0, 0, a, -a]]
        )
        self.register_buffer("kernels", powers @ taps.T)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, 4H, 4W]."""
        channels = x.shape[1]
        phases = torch.einsum("ia,jb->ijab", self.kernels, self.kernels).reshape(SCALE**2, 1, 4, 4)
        padded = F.pad(x, (1, 2, 1, 2), mode="replicate")
        out = F.conv2d(padded, phases.repeat(channels, 1, 1, 1), groups=channels)
        return F.pixel_shuffle(out, SCALE)


class _Block(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv3x3(FEATURES, inner), nn.ReLU(), conv3x3(inner, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv(x)
        return x + residual


class UpscalingNet(nn.Module):
    """FRVSR's super-resolution network (section 3.2), its upsampler's picture added to what it makes.

    Args:
        blocks: inner channels of each residual block.
        upsampler: for the picture.
    """

    def __init__(self, blocks: Sequence[int], upsampler: nn.Module) -> None:
        super().__init__()
        self.conv_in = nn.Sequential(conv3x3((SCALE**2 + 1) * 3, FEATURES), nn.ReLU())
        self.resblocks = nn.Sequential(*(_Block(inner) for inner in blocks))
        self.conv_up = nn.Sequential(
            nn.ConvTranspose2d(FEATURES, FEATURES, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(FEATURES, FEATURES, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
        )
        self.conv_out = conv3x3(FEATURES, 3)
        self.upsample_func = upsampler

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """The upscaled frame [N, 3, 4H, 4W].

        Args:
            x: [N, 3, H, W].
            previous: the last upscaled frame, moved to `x` and folded to its size [N, 48, H, W].
        """
        features = self.resblocks(self.conv_in(torch.cat((x, previous), dim=1)))
        picture: Tensor = self.conv_out(self.conv_up(features)) + self.upsample_func(x)
        return picture


def space_to_depth(x: Tensor, size: int = SCALE) -> Tensor:
    """[N, C, s H, s W] -> [N, s s C, H, W], channels by row, column, channel (TensorFlow's order)."""
    count, channels, height, width = x.shape
    cells = x.reshape(count, channels, height // size, size, width // size, size)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // size, width // size)


class FrameRecurrentNet(PrunableNet):
    """The generator. `estimate_flow` and `upscale` are the steps of the program; `forward` runs a clip.

    Args:
        blocks: residual blocks, or the inner channels of each where they are pruned.
        bicubic: upsample by cubic convolution (BD) and not bilinearly (BI).
        warm_up: frames after the first that are run before it, backwards, to have a picture to go on.
    """

    layout = LAYOUT

    def __init__(self, blocks: int | Sequence[int], *, bicubic: bool, warm_up: int) -> None:
        super().__init__()
        inner = (FEATURES,) * blocks if isinstance(blocks, int) else tuple(blocks)
        self.inner = inner
        self.bicubic = bicubic
        self.warm_up = warm_up
        self.upsample_func = BicubicUpsampler() if bicubic else BilinearUpsampler()
        self.fnet = FlowNet()
        self.srnet = self._upscaling_net(inner)

    def _upscaling_net(self, blocks: Sequence[int]) -> nn.Module:
        return UpscalingNet(blocks, self.upsample_func)

    @property
    def structure(self) -> dict[str, str]:
        """As of a prunable network."""
        found = {"blocks": str(len(self.inner))}
        if set(self.inner) != {FEATURES}:
            found["widths"] = " ".join(map(str, self.inner))
        return found

    def estimate_flow(self, ref: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] in pixels that warps `sup` onto `ref`, both [N, 3, H, W] in 0..1."""
        flow: Tensor = self.fnet(ref, sup)
        return flow

    def upscale(self, x: Tensor, flow: Tensor, previous: Tensor) -> Tensor:
        """The upscaled frame [N, 3, 4H, 4W] of `x` [N, 3, H, W].

        Args:
            flow: from `x` to the frame before, in pixels of `x`.
            previous: the upscaled frame before.
        """
        picture: Tensor = self.srnet(x, space_to_depth(self.compensate(flow, previous)[1]))
        return picture

    def compensate(self, flow: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """The flow at the output's size and in its pixels, and the upscaled frame before moved along it."""
        large: Tensor = SCALE * self.upsample_func(flow)
        return large, flow_warp(previous, large, padding="border")

    def flows(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """From every frame [N, 3, H, W] to the one before it; zeros at the first."""
        none = torch.zeros_like(frames[0][:, :2])
        return ([none, *(self.estimate_flow(x, before) for before, x in pairwise(frames))],)

    def unroll(self, frames: Sequence[Tensor], flows: tuple[list[Tensor], ...]) -> Unrolled:
        """Forwards from the first frame, without warm-up; the outputs are the only state.

        Args:
            frames: each [N, 3, H, W] in 0..1.
            flows: as `flows` gives them.
        """
        count, channels, height, width = frames[0].shape
        output = frames[0].new_zeros(count, channels, SCALE * height, SCALE * width)
        outputs = []
        for x, flow in zip(frames, *flows, strict=True):
            output = self.upscale(x, flow, output)
            outputs.append(output)
        return Unrolled(outputs, [])

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]: forwards, after the mirrored `warm_up` frames."""
        count, _, height, width = frames.shape
        output = frames.new_zeros(1, 3, SCALE * height, SCALE * width)
        before: Tensor | None = None
        outputs = []
        for t in range(-self.warm_up, count):
            index = mirrored(t, count)
            x = frames[index : index + 1]
            flow = x.new_zeros(1, 2, height, width) if before is None else self.estimate_flow(x, before)
            output = self.upscale(x, flow, output)
            before = x
            outputs.append(output)
        return torch.cat(outputs[self.warm_up :])
