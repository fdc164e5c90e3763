"""SkipVSR in PyTorch: BasicVSR whose residual blocks are skipped patch by patch (MM 2024).

Before the trunk of a propagation step runs, an estimator predicts for every patch how far the picture would
be off if the patch kept the state that it has; only where that is too much, or where the state hasn't settled
yet, the trunk runs, on a window around the patch. The two estimators are in `backward_skip` and
`forward_skip`; all other names are BasicSR's. Imports torch: import it inside methods only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.zoo.basicvsr_torch import FEATURES, BasicVsrNet
from superlower.frontends.zoo.layers_torch import flow_warp

LEVELS = 255.0
"""Deviations are in levels of 8-bit pictures; frames are in 0..1."""

EVIDENCE = ("change", "peak", "detail")
"""What an estimator goes by; see `Estimator`."""

_FLOOR = 1e-3
"""Added to evidence before the logarithm: a thousandth of a level, far below what changes a picture."""

_SPOT = 5
"""Pixels of the side of what `peak` is a mean over."""


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


@dataclass(frozen=True)
class Rule:
    """When a patch's residual blocks are skipped.

    Attributes:
        threshold: levels that the patch may be off, as estimated; 0 for no skipping at all.
        settle: steps in a row, 1 or more, that the trunk still runs after an estimate above that, and at
            least runs where a sweep begins. States gather detail over the first frames of what stands still.
    """

    threshold: float
    settle: int


class Estimator(nn.Module):
    """How many levels the picture would be off in a patch that keeps its state, as
    2^bias * change^a * peak^b * detail^c, fitted to what is seen in training clips.

    change: mean |x - the frame that the state is of|, in levels.
    peak: the largest mean of that over 5x5 pixels.
    detail: mean |x - its mean over 3x3 pixels|, in levels.

    Exponents a, b, c are at least 0, so that more of any never makes a patch easier.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((len(EVIDENCE),), 1 / len(EVIDENCE)))
        self.register_buffer("bias", torch.zeros(1))

    def evidence(self, x: Tensor, seen: Tensor, patches: Patches) -> Tensor:
        """log2 of the three, [N, 3, rows, columns].

        Args:
            x: the frame [N, 3, H, W] in 0..1.
            seen: what it showed, patch by patch, when the state was made.
            patches: how the frame is cut.
        """
        size = (patches.height, patches.width)
        smooth = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        changed = LEVELS * torch.abs(x - seen).mean(1, keepdim=True)
        detail = LEVELS * torch.abs(x - smooth).mean(1, keepdim=True)
        spots = F.avg_pool2d(changed, _SPOT, stride=1, padding=_SPOT // 2)
        found = [
            F.avg_pool2d(changed, size, stride=size),
            F.max_pool2d(spots, size, stride=size),
            F.avg_pool2d(detail, size, stride=size),
        ]
        return torch.log2(torch.cat(found, dim=1) + _FLOOR)

    def forward(self, evidence: Tensor) -> Tensor:
        """log2 of the levels, [N, 1, rows, columns]."""
        return (evidence * self.weight.view(1, -1, 1, 1)).sum(1, keepdim=True) + self.bias


class SkipVsrNet(BasicVsrNet):
    """The network. The methods `estimate_flow`, `skip_*`, `run_*` and `reconstruct` are the steps of the
    program; `forward` runs them over a clip.

    Args:
        blocks: residual blocks in each of the two trunks.
        patches: how frames are cut.
        rule: which of them are skipped.
    """

    limit: Tensor

    def __init__(self, blocks: int, patches: Patches, rule: Rule) -> None:
        super().__init__(blocks)
        self.patches = patches
        self.rule = rule
        limit = math.log2(rule.threshold) if rule.threshold else -math.inf
        self.register_buffer("limit", torch.tensor(limit), persistent=False)
        self.backward_skip = Estimator()
        self.forward_skip = Estimator()

    def skip_backward(
        self, x: Tensor, hidden: Tensor, flow: Tensor, seen: Tensor, still: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a backward step knows before its trunk has run.

        Args:
            x: the frame [N, 3, H, W] in 0..1.
            hidden: the state [N, 64, H, W] at the frame after it.
            flow: from `x` to that frame [N, 2, H, W] in pixels.
            seen: the frame [N, 3, H, W] that this state was made of, patch by patch.
            still: steps in a row that each patch was estimated within the threshold [N, 1, rows, columns].

        Returns:
            The state aligned to `x`; `seen` and `still` for the next step; and for every patch whether the
            trunk is to run, int32 [N, 1, rows, columns].
        """
        return self._skip(self.backward_skip, x, hidden, flow, seen, still)

    def skip_forward(
        self, x: Tensor, hidden: Tensor, flow: Tensor, seen: Tensor, still: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `skip_backward`, from the frame before."""
        return self._skip(self.forward_skip, x, hidden, flow, seen, still)

    def run_backward(self, x: Tensor, aligned: Tensor) -> Tensor:
        """The state [N, 64, H, W] that the backward trunk makes of the aligned one."""
        state: Tensor = self.backward_trunk(torch.cat((x, aligned), dim=1))
        return state

    def run_forward(self, x: Tensor, aligned: Tensor) -> Tensor:
        """The state [N, 64, H, W] that the forward trunk makes of the aligned one."""
        state: Tensor = self.forward_trunk(torch.cat((x, aligned), dim=1))
        return state

    def forward(self, frames: Tensor) -> Tensor:
        """[T, 3, H, W] in 0..1 -> [T, 3, 4H, 4W]."""
        clip = [frames[t : t + 1] for t in range(len(frames))]
        backs = self._sweep(clip[::-1], self.skip_backward, self.backward_trunk)[::-1]
        states = self._sweep(clip, self.skip_forward, self.forward_trunk)
        return torch.cat([self.reconstruct(x, b, f) for x, b, f in zip(clip, backs, states, strict=True)])

    def _skip(
        self, estimator: Estimator, x: Tensor, hidden: Tensor, flow: Tensor, seen: Tensor, still: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        moves = estimator(estimator.evidence(x, seen, self.patches)) > self.limit
        run = moves | (still < self.rule.settle)
        height, width = self.patches.height, self.patches.width
        wide = run.to(x.dtype).repeat_interleave(height, 2).repeat_interleave(width, 3)
        return (
            flow_warp(hidden, flow),
            torch.where(wide > 0, x, seen),
            torch.where(moves, torch.zeros_like(still), still + 1),
            run.to(torch.int32),
        )

    def _sweep(
        self, clip: Sequence[Tensor], skip: Callable[..., tuple[Tensor, ...]], trunk: nn.Module
    ) -> list[Tensor]:
        x = clip[0]
        height, width = x.shape[2:]
        state = x.new_zeros(len(x), FEATURES, height, width)
        seen, none = torch.zeros_like(x), x.new_zeros(len(x), 2, height, width)
        still = x.new_zeros(len(x), 1, height // self.patches.height, width // self.patches.width)
        found: list[Tensor] = []
        for i, x in enumerate(clip):
            flow = self.estimate_flow(x, clip[i - 1]) if i else none
            aligned, seen, still, choice = skip(x, state, flow, seen, still)
            state = self._routed(trunk, torch.cat((x, aligned), dim=1), state, choice)
            found.append(state)
        return found

    def _routed(self, trunk: nn.Module, given: Tensor, skipped: Tensor, choice: Tensor) -> Tensor:
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
