"""BasicVSR++ in PyTorch (Chan et al., CVPR 2022): second-order grid propagation, flow-guided alignment.

Parameter names are BasicSR's. Imports torch: import it inside methods only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from superlower.frontends.torch_deform import deform_conv2d
from superlower.frontends.zoo.layers_torch import PictureNet, SpyNet, Trunk, conv3x3, flow_warp

FEATURES = 64
GROUPS = 16
"""Deformable groups."""

SWEEPS = ("backward_1", "forward_1", "backward_2", "forward_2")
_EXTRACTION_BLOCKS = 5
_MAX_RESIDUE = 10.0
_SLOPE = 0.1
_TAPS = 9


class _Alignment(nn.Module):
    """Flow-guided deformable alignment of two states at once (section 3.2): the network predicts what the
    offsets are beyond the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(FEATURES, 2 * FEATURES, 3, 3))
        self.bias = nn.Parameter(torch.zeros(FEATURES))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        layers: list[nn.Module] = []
        for inputs in (3 * FEATURES + 4, FEATURES, FEATURES):
            layers += [conv3x3(inputs, FEATURES), nn.LeakyReLU(_SLOPE)]
        self.conv_offset = nn.Sequential(*layers, conv3x3(FEATURES, 3 * _TAPS * GROUPS))

    def forward(self, x: Tensor, first: Tensor, second: Tensor, flow: Tensor, flow2: Tensor) -> Tensor:
        """The states one and two frames away, `first` and `second` [N, 64, H, W], moved to `x`'s features
        [N, 64, H, W] and put together: [N, 64, H, W].

        Args:
            flow, flow2: from `x` to the frames of those states [N, 2, H, W] in pixels, x then y.
        """
        guide = torch.cat((flow_warp(first, flow), x, flow_warp(second, flow2), flow, flow2), dim=1)
        residue, mask = self.conv_offset(guide).split((2 * _TAPS * GROUPS, _TAPS * GROUPS), dim=1)
        # Half of the groups are of one state. Offsets are y, x for each tap; flows are x, y.
        taps = _TAPS * GROUPS // 2
        along = [torch.cat((f[:, 1:], f[:, :1]), dim=1).repeat(1, taps, 1, 1) for f in (flow, flow2)]
        offset = _MAX_RESIDUE * torch.tanh(residue) + torch.cat(along, dim=1)
        states = torch.cat((first, second), dim=1)
        return deform_conv2d(
            states, offset, self.weight, self.bias, torch.sigmoid(mask), padding=1, groups=GROUPS
        )


class BasicVsrPlusPlusNet(PictureNet):
    """The network. `extract`, `estimate_flow`, `compose`, `start`, `propagate` and `reconstruct` are the
    steps of the program; `forward` runs them over a clip.

    Args:
        blocks: residual blocks in each of the four trunks.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.spynet = SpyNet()
        self.feat_extract = Trunk(3, FEATURES, _EXTRACTION_BLOCKS)
        self.deform_align = nn.ModuleDict({name: _Alignment() for name in SWEEPS})
        self.backbone = nn.ModuleDict(
            {name: Trunk((2 + i) * FEATURES, FEATURES, blocks) for i, name in enumerate(SWEEPS)}
        )
        self.reconstruction = Trunk((1 + len(SWEEPS)) * FEATURES, FEATURES, _EXTRACTION_BLOCKS)
        self.add_upsampler(FEATURES)

    def extract(self, x: Tensor) -> Tensor:
        """A frame's features [N, 64, H, W], `x` [N, 3, H, W] in 0..1."""
        features: Tensor = self.feat_extract(x)
        return features

    def estimate_flow(self, ref: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] in pixels that warps `sup` onto `ref`, both [N, 3, H, W] in 0..1."""
        flow: Tensor = self.spynet(ref, sup)
        return flow

    def compose(self, flow: Tensor, further: Tensor) -> Tensor:
        """The flow to the frame two away: `flow` to the next, and `further` from there on, moved along it."""
        return flow + flow_warp(further, flow)

    def start(self, sweep: str, features: Tensor, *others: Tensor) -> Tensor:
        """The state [N, 64, H, W] where a sweep begins, with nothing to align.

        Args:
            features: the frame's.
            others: states of the sweeps before, at this frame, in order.
        """
        zero = torch.zeros_like(features)
        state: Tensor = self.backbone[sweep](torch.cat((features, *others, zero), dim=1))
        return state

    def propagate(
        self,
        sweep: str,
        features: Tensor,
        first: Tensor,
        second: Tensor,
        flow: Tensor,
        flow2: Tensor,
        *others: Tensor,
    ) -> Tensor:
        """The state from those one and two frames before it in the sweep; see `start` for the others.

        Args:
            flow, flow2: to the frames of `first` and `second`; zeros, as `second`, where there is none.
        """
        aligned = self.deform_align[sweep](features, first, second, flow, flow2)
        state: Tensor = aligned + self.backbone[sweep](torch.cat((features, *others, aligned), dim=1))
        return state

    def reconstruct(self, x: Tensor, features: Tensor, *states: Tensor) -> Tensor:
        """The upscaled frame [N, 3, 4H, 4W], from its features and the states of the four sweeps."""
        return self.picture(self.reconstruction(torch.cat((features, *states), dim=1)), x)

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]."""
        count = len(frames)
        clip = [frames[t : t + 1] for t in range(count)]
        features = [self.extract(x) for x in clip]
        to_next = [self.estimate_flow(clip[t], clip[t + 1]) for t in range(count - 1)]
        to_last = [self.estimate_flow(clip[t + 1], clip[t]) for t in range(count - 1)]
        states: list[list[Tensor]] = []
        for sweep in SWEEPS:
            others = [list(at) for at in zip(*states, strict=True)] or [[] for _ in clip]
            if sweep.startswith("backward"):
                backwards = (features[::-1], to_next[::-1], others[::-1])
                states.append(self._sweep(sweep, *backwards)[::-1])
            else:
                states.append(self._sweep(sweep, features, to_last, others))
        pictures = [
            self.reconstruct(clip[t], features[t], *(sweep[t] for sweep in states)) for t in range(count)
        ]
        return torch.cat(pictures)

    def _sweep(
        self,
        sweep: str,
        features: Sequence[Tensor],
        flows: Sequence[Tensor],
        others: Sequence[Sequence[Tensor]],
    ) -> list[Tensor]:
        """The states in the sweep's order, as all is given; `flows[i]` is from frame i + 1 to frame i."""
        found: list[Tensor] = []
        for i, x in enumerate(features):
            if i == 0:
                found.append(self.start(sweep, x, *others[i]))
                continue
            flow = flows[i - 1]
            second, flow2 = torch.zeros_like(x), torch.zeros_like(flow)
            if i > 1:
                second, flow2 = found[i - 2], self.compose(flow, flows[i - 2])
            found.append(self.propagate(sweep, x, found[i - 1], second, flow, flow2, *others[i]))
        return found
