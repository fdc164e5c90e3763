"""BasicVSR in PyTorch (Chan et al., CVPR 2021): the steps of its temporal program, and the whole clip.

Parameter names are BasicSR's, so that its public checkpoints load as they are. Imports torch: import it
inside methods only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.prunable_torch import Channels, Layout, PrunableNet, Row, Unrolled, widths_of
from superlower.frontends.zoo.layers_torch import PictureNet, SpyNet, Trunk, flow_warp

FEATURES = 64
_SLOPE = 0.1

LAYOUT = Layout(
    rows=(
        Row("backward_trunk.main.2", "conv1", "conv2"),
        Row("forward_trunk.main.2", "conv1", "conv2"),
    ),
    channels=(
        Channels("fusion", "upconv1"),
        Channels("upconv1", "upconv2", filters=4),
        Channels("upconv2", "conv_hr", filters=4),
        Channels("conv_hr", "conv_last"),
    ),
    readers=("fusion",),
    frozen=("spynet.",),
)
"""What pruning may take: not the 64 channels of the trunks, for every block adds to them."""


@dataclass(frozen=True)
class Widths:
    """Channels where pruning may leave fewer than 64.

    Attributes:
        backward, forward: inner channels of each residual block of the two trunks.
        fusion, upconv1, upconv2, conv_hr: channels that each of these makes, after a pixel shuffle if any.
    """

    backward: tuple[int, ...]
    forward: tuple[int, ...]
    fusion: int = FEATURES
    upconv1: int = FEATURES
    upconv2: int = FEATURES
    conv_hr: int = FEATURES

    @classmethod
    def whole(cls, blocks: int) -> Widths:
        """Nothing pruned."""
        return cls((FEATURES,) * blocks, (FEATURES,) * blocks)

    @classmethod
    def found(cls, state: Mapping[str, Tensor]) -> Widths:
        """Those of a checkpoint; what it hasn't is taken for whole, for strict loading to find."""
        backward, forward = (widths_of(state, row) for row in LAYOUT.rows)
        made = {
            group.producer: len(state[key]) // group.filters
            for group in LAYOUT.channels
            if (key := f"{group.producer}.weight") in state
        }
        return cls(backward, forward, **made)

    @property
    def blocks(self) -> str:
        """Residual blocks: "30", or "18 backward, 22 forward" where they differ."""
        backward, forward = len(self.backward), len(self.forward)
        return str(backward) if backward == forward else f"{backward} backward, {forward} forward"


class BasicVsrNet(PrunableNet, PictureNet):
    """The network. `estimate_flow`, `propagate_backward` and `propagate_forward` are the steps of the
    program; `forward` runs them over a clip.

    Args:
        blocks: residual blocks in each of the two trunks, or the widths of a pruned network.
    """

    layout = LAYOUT

    def __init__(self, blocks: int | Widths) -> None:
        super().__init__()
        widths = Widths.whole(blocks) if isinstance(blocks, int) else blocks
        self.widths = widths
        self.spynet = SpyNet()
        self.backward_trunk = Trunk(FEATURES + 3, FEATURES, widths.backward)
        self.forward_trunk = Trunk(FEATURES + 3, FEATURES, widths.forward)
        self.fusion = nn.Conv2d(2 * FEATURES, widths.fusion, 1)
        self.add_upsampler(widths.fusion, widths.upconv1, widths.upconv2, widths.conv_hr)

    @property
    def structure(self) -> dict[str, str]:
        """As of a prunable network."""
        widths = self.widths
        found = {"blocks": widths.blocks}
        if widths != Widths((FEATURES,) * len(widths.backward), (FEATURES,) * len(widths.forward)):
            inner = {name: v if isinstance(v, tuple) else (v,) for name, v in asdict(widths).items()}
            found["widths"] = "; ".join(f"{name} {' '.join(map(str, v))}" for name, v in inner.items())
        return found

    def estimate_flow(self, ref: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] in pixels that warps `sup` onto `ref`, both [N, 3, H, W] in 0..1."""
        flow: Tensor = self.spynet(ref, sup)
        return flow

    def propagate_backward(self, x: Tensor, hidden: Tensor, flow: Tensor) -> Tensor:
        """The backward hidden state [N, 64, H, W] at `x` [N, 3, H, W], from that of the frame after it."""
        state: Tensor = self.backward_trunk(torch.cat((x, flow_warp(hidden, flow)), dim=1))
        return state

    def propagate_forward(
        self, x: Tensor, hidden: Tensor, flow: Tensor, back: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The forward hidden state at `x`, from that of the frame before it, and the upscaled frame.

        Args:
            back: the backward hidden state at `x`.
        """
        state: Tensor = self.forward_trunk(torch.cat((x, flow_warp(hidden, flow)), dim=1))
        return state, self.reconstruct(x, back, state)

    def reconstruct(self, x: Tensor, back: Tensor, state: Tensor) -> Tensor:
        """The upscaled frame [N, 3, 4H, 4W] at `x`, from its backward and forward hidden states."""
        return self.picture(F.leaky_relu(self.fusion(torch.cat((back, state), dim=1)), _SLOPE), x)

    def flows(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """From every frame [N, 3, H, W] to the one after it, and to the one before it; zeros at the ends."""
        none = torch.zeros_like(frames[0][:, :2])
        ahead = [self.estimate_flow(x, after) for x, after in pairwise(frames)]
        behind = [self.estimate_flow(x, before) for before, x in pairwise(frames)]
        return [*ahead, none], [none, *behind]

    def unroll(self, frames: Sequence[Tensor], flows: tuple[list[Tensor], ...]) -> Unrolled:
        """Backward over the clip, then forward (section 3.1).

        Args:
            frames: each [N, 3, H, W] in 0..1.
            flows: as `flows` gives them.
        """
        start = frames[0].new_zeros(len(frames[0]), FEATURES, *frames[0].shape[2:])
        ahead, behind = flows
        backs: list[Tensor] = []
        hidden = start
        for x, flow in zip(reversed(frames), reversed(ahead), strict=True):
            hidden = self.propagate_backward(x, hidden, flow)
            backs.insert(0, hidden)
        hidden, states, outputs = start, [], []
        for x, flow, back in zip(frames, behind, backs, strict=True):
            hidden, output = self.propagate_forward(x, hidden, flow, back)
            states.append(hidden)
            outputs.append(output)
        return Unrolled(outputs, [*backs, *states])

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]."""
        clip = list(frames.unsqueeze(1))
        return torch.cat(self.unroll(clip, self.flows(clip)).outputs)
