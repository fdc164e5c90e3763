"""RSDN in PyTorch (Isobe et al., ECCV 2020): one recurrent step, and the whole clip.

Parameter names are those of the authors' checkpoint. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.layers_torch import conv3x3, mirrored, resize_bilinear

FEATURES = 128
SCALE = 4
PICTURE = 3 * SCALE**2
"""Channels of a picture at the output's size, folded into the input's: 48."""

_BLOCKS = 9
_SLOPE = 0.1
_KERNEL = 3


class _StructureDetailBlock(nn.Module):
    """Both branches through a residual of their own, whose sum goes to both (section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_d1 = conv3x3(FEATURES, FEATURES)
        self.conv_d2 = conv3x3(FEATURES, FEATURES)
        self.conv_s1 = conv3x3(FEATURES, FEATURES)
        self.conv_s2 = conv3x3(FEATURES, FEATURES)

    def forward(self, detail: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Both [N, 128, H, W] -> both of the same shape."""
        shared = self.conv_d2(F.relu(self.conv_d1(detail))) + self.conv_s2(F.relu(self.conv_s1(structure)))
        return shared + detail, shared + structure


class _Cell(nn.Module):
    """The recurrent cell: hidden state and the last pictures of both branches to the next ones."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 2 * 3 + FEATURES + PICTURE
        self.forget = conv3x3(3, _KERNEL**2)
        self.conv_d = conv3x3(inputs, FEATURES)
        self.conv_s = conv3x3(inputs, FEATURES)
        for i in range(1, _BLOCKS + 1):
            self.add_module(f"SD{i}", _StructureDetailBlock())
        self.conv_hd = conv3x3(FEATURES, FEATURES)
        self.conv_od = conv3x3(FEATURES, PICTURE)
        self.conv_hs = conv3x3(FEATURES, FEATURES)
        self.conv_os = conv3x3(FEATURES, PICTURE)

    def forward(
        self,
        x: Tensor,
        details: Tensor,
        structures: Tensor,
        hidden: Tensor,
        detail: Tensor,
        structure: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden state and both branches' pictures [N, 48, H, W] at `x`.

        Args:
            x: the frame [N, 3, H, W].
            details, structures: the frame before and `x`, split in two [N, 6, H, W].
            hidden, detail, structure: what this returned at the frame before.
        """
        hidden = torch.sigmoid(self._similarity(x, hidden)) * hidden
        d = F.leaky_relu(self.conv_d(torch.cat((details, hidden, detail), dim=1)), _SLOPE)
        s = F.leaky_relu(self.conv_s(torch.cat((structures, hidden, structure), dim=1)), _SLOPE)
        for i in range(1, _BLOCKS + 1):
            d, s = self.get_submodule(f"SD{i}")(d, s)
        state = F.leaky_relu(self.conv_hd(d), _SLOPE) + F.leaky_relu(self.conv_hs(s), _SLOPE)
        return state, self.conv_od(d), self.conv_os(s)

    def _similarity(self, x: Tensor, hidden: Tensor) -> Tensor:
        """`hidden` under the 3x3 filters that the frame predicts for each pixel, one for all channels."""
        filters = F.leaky_relu(self.forget(x), _SLOPE)
        height, width = hidden.shape[2:]
        around = F.pad(hidden, (1, 1, 1, 1))
        taps = [
            around[:, :, row : row + height, column : column + width]
            * filters[:, row * _KERNEL + column].unsqueeze(1)
            for row in range(_KERNEL)
            for column in range(_KERNEL)
        ]
        return torch.stack(taps).sum(dim=0)


class RsdnNet(nn.Module):
    """The network RSDN 9-128. `step` is the step of the program; `forward` runs it over a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.neuro = _Cell()
        self.conv = conv3x3(2 * PICTURE, PICTURE)

    def step(
        self, x: Tensor, previous: Tensor, hidden: Tensor, detail: Tensor, structure: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The hidden state, both branches' pictures and the upscaled frame [N, 3, 4H, 4W] at `x`.

        Args:
            x, previous: the frame and the one before it [N, 3, H, W] in 0..1, H and W even.
            hidden, detail, structure: of the frame before: [N, 128, H, W], [N, 48, H, W], [N, 48, H, W].
        """
        structures = [_structure(frame) for frame in (previous, x)]
        details = torch.cat((previous - structures[0], x - structures[1]), dim=1)
        return self.advance(x, details, torch.cat(structures, dim=1), hidden, detail, structure)

    def advance(
        self,
        x: Tensor,
        details: Tensor,
        structures: Tensor,
        hidden: Tensor,
        detail: Tensor,
        structure: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`step`, of frames that are split already: previous and `x` after one another [N, 6, H, W]."""
        hidden, detail, structure = self.neuro(x, details, structures, hidden, detail, structure)
        picture = F.pixel_shuffle(self.conv(torch.cat((detail, structure), dim=1)), SCALE)
        return hidden, detail, structure, picture

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]; before the first frame stands the second."""
        count, _, height, width = frames.shape
        hidden = frames.new_zeros(1, FEATURES, height, width)
        detail = structure = frames.new_zeros(1, PICTURE, height, width)
        outputs = []
        for t in range(count):
            before = mirrored(t - 1, count)
            hidden, detail, structure, output = self.step(
                frames[t : t + 1], frames[before : before + 1], hidden, detail, structure
            )
            outputs.append(output)
        return torch.cat(outputs)


def _structure(frame: Tensor) -> Tensor:
    """The low frequencies: half the size and back (section 3.2). The rest is detail."""
    height, width = frame.shape[2:]
    return resize_bilinear(resize_bilinear(frame, height // 2, width // 2), height, width)
