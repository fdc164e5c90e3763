"""SkipVSR in PyTorch: BasicVSR whose residual blocks are skipped patch by patch (MM 2024).

A propagation step runs a small trunk, the bypass, over the whole frame; an estimator predicts for every patch
how far the picture would be off if it stayed at that; only where that is too much the step's own trunk of
residual blocks runs, on a window around the patch. What the two add to BasicVSR is in `backward_skip` and
`forward_skip`; all other names are BasicSR's. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.basicvsr_torch import FEATURES, BasicVsrNet
from superlower.frontends.zoo.layers_torch import ResidualBlock, Trunk, conv3x3, flow_warp, leaky

LEVELS = 255.0
"""Deviations are in levels of 8-bit pictures; frames are in 0..1."""

EVIDENCE = ("change", "detail", "revision")
"""What an estimator goes by; see `Estimator`."""

_FLOOR = 1e-3
"""Added to evidence before the logarithm: a thousandth of a level, far below what changes a picture."""


@dataclass(frozen=True)
class Patches:
    """How a frame is cut.

    Attributes:
        height, width: of a patch, in pixels; they divide the frame's.
        halo: pixels around a patch that its trunk sees too. Windows are moved inside the frame at borders.
    """

    height: int
    width: int
    halo: int

    def windows(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a window in a frame."""
        return min(self.height + 2 * self.halo, height), min(self.width + 2 * self.halo, width)


class Bypass(nn.Module):
    """What stands for a trunk where its residual blocks are skipped.

    A trunk's first convolution, a 1x1 convolution over that and the aligned state, and few residual blocks.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv = conv3x3(FEATURES + 3, FEATURES)
        self.fuse = nn.Conv2d(2 * FEATURES, FEATURES, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(FEATURES) for _ in range(blocks)))

    def features(self, x: Tensor, aligned: Tensor) -> Tensor:
        """What `fuse` is given, [N, 128, H, W]: the aligned state, and the first convolution's features."""
        return torch.cat((aligned, leaky(self.conv(torch.cat((x, aligned), dim=1)))), dim=1)

    def forward(self, x: Tensor, aligned: Tensor) -> Tensor:
        """The state [N, 64, H, W] at the frame `x` [N, 3, H, W], from the neighbour's aligned to it."""
        state: Tensor = self.blocks(self.fuse(self.features(x, aligned)))
        return state


class Estimator(nn.Module):
    """How many levels the picture would be off in a patch that stays at the bypass's state, as
    2^bias * change^a * detail^b * revision^c, fitted to what is seen in training clips.

    change: mean |x - the neighbouring frame, warped to it|, in levels.
    detail: mean |x - its mean over 3x3 pixels|, in levels.
    revision: mean |the bypass's state - the aligned state|, by which the frame changes what is known.

    Exponents a, b, c are at least 0, so that more of any never makes a patch easier.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((len(EVIDENCE),), 1 / len(EVIDENCE)))
        self.register_buffer("bias", torch.zeros(1))

    def evidence(
        self, x: Tensor, neighbour: Tensor, aligned: Tensor, state: Tensor, patches: Patches
    ) -> Tensor:
        """log2 of the three, [N, 3, rows, columns].

        Args:
            x: the frame [N, 3, H, W] in 0..1.
            neighbour: the frame next to it, warped to it.
            aligned, state: the aligned state [N, 64, H, W] and what the bypass makes of it.
            patches: how the frame is cut.
        """
        smooth = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        pixels = torch.cat(
            [
                LEVELS * torch.abs(x - neighbour).mean(1, keepdim=True),
                LEVELS * torch.abs(x - smooth).mean(1, keepdim=True),
                torch.abs(state - aligned).mean(1, keepdim=True),
            ],
            dim=1,
        )
        size = (patches.height, patches.width)
        return torch.log2(F.avg_pool2d(pixels, size, stride=size) + _FLOOR)

    def forward(self, evidence: Tensor) -> Tensor:
        """log2 of the levels, [N, 1, rows, columns]."""
        return (evidence * self.weight.view(1, -1, 1, 1)).sum(1, keepdim=True) + self.bias


class Skip(nn.Module):
    """What a direction of propagation has beside its trunk."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.bypass = Bypass(blocks)
        self.estimator = Estimator()


class SkipVsrNet(BasicVsrNet):
    """The network. The methods `estimate_flow`, `skip_*`, `run_*` and `reconstruct` are the steps of the
    program; `forward` runs them over a clip.

    Args:
        blocks: residual blocks in each of the two trunks.
        bypass_blocks: those in each of the bypasses.
        patches: how frames are cut.
        threshold: levels that a patch may be off, as estimated, and be skipped; 0 for none.
    """

    limit: Tensor

    def __init__(self, blocks: int, bypass_blocks: int, patches: Patches, threshold: float) -> None:
        super().__init__(blocks)
        self.patches = patches
        self.threshold = threshold
        limit = math.log2(threshold) if threshold else -math.inf
        self.register_buffer("limit", torch.tensor(limit), persistent=False)
        self.backward_skip = Skip(bypass_blocks)
        self.forward_skip = Skip(bypass_blocks)

    def skip_backward(
        self, x: Tensor, neighbour: Tensor, hidden: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a backward step knows before any residual block of its trunk has run.

        Args:
            x: the frame [N, 3, H, W] in 0..1.
            neighbour: the frame after it.
            hidden: the state [N, 64, H, W] there.
            flow: from `x` to that frame [N, 2, H, W] in pixels.

        Returns:
            The state aligned to `x`; the bypass's state; and the choice, int32 [N, 1, rows, columns]: 1 for
            the patches that the trunk should run on, 0 for those that stay at the bypass's state.
        """
        return self._skip(self.backward_skip, x, neighbour, hidden, flow)

    def skip_forward(
        self, x: Tensor, neighbour: Tensor, hidden: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `skip_backward`, `neighbour` and `hidden` being those of the frame before."""
        return self._skip(self.forward_skip, x, neighbour, hidden, flow)

    def run_backward(self, x: Tensor, aligned: Tensor) -> Tensor:
        """The state [N, 64, H, W] that the backward trunk makes of the aligned one."""
        state: Tensor = self.backward_trunk(torch.cat((x, aligned), dim=1))
        return state

    def run_forward(self, x: Tensor, aligned: Tensor) -> Tensor:
        """The state [N, 64, H, W] that the forward trunk makes of the aligned one."""
        state: Tensor = self.forward_trunk(torch.cat((x, aligned), dim=1))
        return state

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]. Where a sweep begins nothing is skipped."""
        clip = [frames[t : t + 1] for t in range(len(frames))]
        backs = self._sweep(clip[::-1], self.backward_skip, self.backward_trunk)[::-1]
        states = self._sweep(clip, self.forward_skip, self.forward_trunk)
        return torch.cat([self.reconstruct(x, b, f) for x, b, f in zip(clip, backs, states, strict=True)])

    def _skip(
        self, skip: Skip, x: Tensor, neighbour: Tensor, hidden: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        aligned = flow_warp(hidden, flow)
        state = skip.bypass(x, aligned)
        warped = flow_warp(neighbour, flow, padding="border")
        evidence = skip.estimator.evidence(x, warped, aligned, state, self.patches)
        return aligned, state, (skip.estimator(evidence) > self.limit).to(torch.int32)

    def _sweep(self, clip: Sequence[Tensor], skip: Skip, trunk: Trunk) -> list[Tensor]:
        found: list[Tensor] = []
        for i, x in enumerate(clip):
            if i == 0:
                found.append(trunk(torch.cat((x, torch.zeros_like(x[:, :1]).repeat(1, FEATURES, 1, 1)), 1)))
                continue
            flow = self.estimate_flow(x, clip[i - 1])
            aligned, state, choice = self._skip(skip, x, clip[i - 1], found[-1], flow)
            found.append(self._routed(trunk, torch.cat((x, aligned), dim=1), state, choice))
        return found

    def _routed(self, trunk: Trunk, given: Tensor, skipped: Tensor, choice: Tensor) -> Tensor:
        """The trunk on windows around the chosen patches, or on the whole frame where that is less."""
        height, width = given.shape[2:]
        high, wide = self.patches.windows(height, width)
        chosen = choice[0, 0].nonzero().tolist()
        state = skipped.clone()
        whole = trunk(given) if len(chosen) * high * wide >= height * width else None
        for row, column in chosen:
            top, left = row * self.patches.height, column * self.patches.width
            inside = (..., slice(top, top + self.patches.height), slice(left, left + self.patches.width))
            if whole is not None:
                state[inside] = whole[inside]
                continue
            up = min(max(top - self.patches.halo, 0), height - high)
            aside = min(max(left - self.patches.halo, 0), width - wide)
            made = trunk(given[..., up : up + high, aside : aside + wide])
            top, left = top - up, left - aside
            state[inside] = made[..., top : top + self.patches.height, left : left + self.patches.width]
        return state
