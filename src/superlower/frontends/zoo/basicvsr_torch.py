"""BasicVSR in PyTorch (Chan et al., CVPR 2021): the steps of its temporal program, and the whole clip.

Parameter names are BasicSR's, so that its public checkpoints load as they are. Imports torch: import it
inside methods only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.layers_torch import PictureNet, SpyNet, Trunk, flow_warp

FEATURES = 64
_SLOPE = 0.1


class BasicVsrNet(PictureNet):
    """The network. `estimate_flow`, `propagate_backward` and `propagate_forward` are the steps of the
    program; `forward` runs them over a clip.

    Args:
        blocks: residual blocks in each of the two trunks.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.spynet = SpyNet()
        self.backward_trunk = Trunk(FEATURES + 3, FEATURES, blocks)
        self.forward_trunk = Trunk(FEATURES + 3, FEATURES, blocks)
        self.fusion = nn.Conv2d(2 * FEATURES, FEATURES, 1)
        self.add_upsampler(FEATURES)

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

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]: backward over the clip, then forward (section 3.1)."""
        count, _, height, width = frames.shape
        hidden = frames.new_zeros(1, FEATURES, height, width)
        backs: list[Tensor] = []
        for t in reversed(range(count)):
            x = frames[t : t + 1]
            flow = x.new_zeros(1, 2, height, width)
            if t < count - 1:
                flow = self.estimate_flow(x, frames[t + 1 : t + 2])
            hidden = self.propagate_backward(x, hidden, flow)
            backs.insert(0, hidden)
        hidden = torch.zeros_like(hidden)
        outputs: list[Tensor] = []
        for t in range(count):
            x = frames[t : t + 1]
            flow = x.new_zeros(1, 2, height, width)
            if t > 0:
                flow = self.estimate_flow(x, frames[t - 1 : t])
            hidden, output = self.propagate_forward(x, hidden, flow, backs[t])
            outputs.append(output)
        return torch.cat(outputs)
