"""IconVSR in PyTorch (Chan et al., CVPR 2021): BasicVSR with keyframes and coupled propagation.

Parameter names are BasicSR's. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from superlower.frontends.zoo.edvr_torch import EdvrExtractor
from superlower.frontends.zoo.layers_torch import PictureNet, SpyNet, Trunk, conv3x3, flow_warp, mirrored

FEATURES = 64


class IconVsrNet(PictureNet):
    """The network. `estimate_flow`, `extract` and the four `propagate_` methods are the steps of the program;
    `forward` runs them over a clip.

    Args:
        blocks: residual blocks in each of the two trunks.
        window: frames that a keyframe's features are made from, an odd number.
        stride: every so many frames one is a keyframe, and the last is.
    """

    def __init__(self, blocks: int, window: int, stride: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.window = window
        self.stride = stride
        self.edvr = EdvrExtractor(FEATURES, window)
        self.spynet = SpyNet()
        self.backward_fusion = conv3x3(2 * FEATURES, FEATURES)
        self.backward_trunk = Trunk(FEATURES + 3, FEATURES, blocks)
        self.forward_fusion = conv3x3(2 * FEATURES, FEATURES)
        self.forward_trunk = Trunk(2 * FEATURES + 3, FEATURES, blocks)
        self.add_upsampler(FEATURES)

    def estimate_flow(self, ref: Tensor, sup: Tensor) -> Tensor:
        """Flow [N, 2, H, W] in pixels that warps `sup` onto `ref`, both [N, 3, H, W] in 0..1."""
        flow: Tensor = self.spynet(ref, sup)
        return flow

    def extract(self, *frames: Tensor) -> Tensor:
        """A keyframe's features [N, 64, H, W], from the window of frames about it."""
        return self.edvr.extract(*frames)

    def propagate_backward(self, x: Tensor, hidden: Tensor, flow: Tensor) -> Tensor:
        """The backward hidden state [N, 64, H, W] at `x` [N, 3, H, W], from that of the frame after it."""
        return self._backward(x, flow_warp(hidden, flow))

    def propagate_backward_key(self, x: Tensor, hidden: Tensor, flow: Tensor, features: Tensor) -> Tensor:
        """The same at a keyframe: `features` refill what was propagated (section 3.3)."""
        refilled = self.backward_fusion(torch.cat((flow_warp(hidden, flow), features), dim=1))
        return self._backward(x, refilled)

    def propagate_forward(
        self, x: Tensor, hidden: Tensor, flow: Tensor, back: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The forward hidden state at `x`, from that of the frame before it, and the upscaled frame.

        Args:
            back: the backward hidden state at `x`.
        """
        return self._forward(x, flow_warp(hidden, flow), back)

    def propagate_forward_key(
        self, x: Tensor, hidden: Tensor, flow: Tensor, back: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same at a keyframe."""
        refilled = self.forward_fusion(torch.cat((flow_warp(hidden, flow), features), dim=1))
        return self._forward(x, refilled, back)

    def _backward(self, x: Tensor, propagated: Tensor) -> Tensor:
        state: Tensor = self.backward_trunk(torch.cat((x, propagated), dim=1))
        return state

    def _forward(self, x: Tensor, propagated: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        state = self.forward_trunk(torch.cat((x, back, propagated), dim=1))
        return state, self.picture(state, x)

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W], H and W multiples of four: backward, then forward.

        A window's frames beyond the clip's ends are taken from inside: the frame at -k is that at radius + k,
        and alike at the other end; in clips too short for that, mirrored.
        """
        count, _, height, width = frames.shape
        features = {
            t: self.extract(*(frames[i : i + 1] for i in self._around(t, count)))
            for t in range(count)
            if t % self.stride == 0 or t == count - 1
        }
        zero = frames.new_zeros(1, 2, height, width)
        hidden = frames.new_zeros(1, FEATURES, height, width)
        backs: list[Tensor] = []
        for t in reversed(range(count)):
            x = frames[t : t + 1]
            flow = self.estimate_flow(x, frames[t + 1 : t + 2]) if t < count - 1 else zero
            if t in features:
                hidden = self.propagate_backward_key(x, hidden, flow, features[t])
            else:
                hidden = self.propagate_backward(x, hidden, flow)
            backs.insert(0, hidden)
        hidden = torch.zeros_like(hidden)
        outputs: list[Tensor] = []
        for t in range(count):
            x = frames[t : t + 1]
            flow = self.estimate_flow(x, frames[t - 1 : t]) if t > 0 else zero
            if t in features:
                hidden, output = self.propagate_forward_key(x, hidden, flow, backs[t], features[t])
            else:
                hidden, output = self.propagate_forward(x, hidden, flow, backs[t])
            outputs.append(output)
        return torch.cat(outputs)

    def _around(self, t: int, count: int) -> list[int]:
        radius = self.window // 2
        found = []
        for i in range(t - radius, t + radius + 1):
            if i < 0:
                i = radius - i  # noqa: PLW2901
            elif i >= count:
                i = 2 * (count - 1) - radius - i  # noqa: PLW2901
            found.append(mirrored(i, count))
        return found
