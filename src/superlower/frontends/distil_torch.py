"""Fine-tuning a pruned network by distillation (Hinton et al., 2015): on short clips it learns the outputs
and the hidden states of the network it was cut from, and the ground truth a little.

Imports torch: import it inside methods only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superlower.errors import BadInputError
from superlower.folders import replacing_file
from superlower.frontends.bfloat16_torch import fast_convolutions
from superlower.frontends.prunable_torch import PrunableNet
from superlower.frontends.quiet import quiet

_EPSILON = 1e-3
"""Of the Charbonnier loss sqrt(d^2 + epsilon^2): a quarter of an 8-bit step, as errors below don't show."""

WARM_UP = 50
"""Steps over which the learning rate rises: Adam's first ones move every weight by it, whichever way."""


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; with the clips and the weights, it decides the result.

    Attributes:
        steps: of Adam (betas 0.9, 0.99).
        batch: clips a step.
        learning_rate: at most; it rises over `WARM_UP` steps, and falls to 0 along half a cosine.
        truth, states: weights of the losses against the ground truth and against the teacher's hidden states
            (in their standard deviations); that against the teacher's outputs is 1.
        seed: of the clips drawn, and how they are mirrored, transposed and reversed.
    """

    steps: int
    batch: int = 4
    learning_rate: float = 2e-4
    truth: float = 0.2
    states: float = 0.02
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        falling = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * falling * min(1.0, (step + 1) / WARM_UP)


@dataclass(frozen=True)
class Windows:
    """Short clips cut from videos.

    Attributes:
        low: uint8 [M, T, h, w, 3].
        high: the ground truth, uint8 [M, T, s h, s w, 3].
    """

    low: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    high: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

    def batches(self, size: int, count: int) -> list[list[Tensor]]:
        """The first `count` or all, in order, `size` at a time: clips of T frames [N, 3, h, w] in 0..1."""
        low = self.low[:count]
        return [frames_of(low[i : i + size]) for i in range(0, len(low), size)]


def frames_of(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[Tensor]:
    """uint8 [N, T, H, W, 3] as T frames [N, 3, H, W] in 0..1."""
    moved = np.ascontiguousarray(pixels.transpose(1, 0, 4, 2, 3))
    return list(torch.from_numpy(moved).float() / 255)


class Distillation:
    """A fine-tuning that can be stopped and taken up again: the same steps give the same weights.

    Args:
        pruned: learns; its weights are changed in place.
        whole: teaches.
        windows: to learn from.
        recipe: how.
    """

    def __init__(self, pruned: PrunableNet, whole: PrunableNet, windows: Windows, recipe: Recipe) -> None:
        self.pruned, self.whole, self.windows, self.recipe = pruned, whole, windows, recipe
        self.step = 0
        self._arrange(torch.channels_last)
        for name, parameter in pruned.named_parameters():
            parameter.requires_grad_(not name.startswith(pruned.layout.frozen))
        learning = [parameter for parameter in pruned.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(learning, lr=recipe.learning_rate, betas=(0.9, 0.99))

    def state(self) -> dict[str, object]:
        """Everything that the steps to come depend on, for `restore` and `save`."""
        return {
            "step": self.step,
            "params": self.pruned.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state` gave; the weights, `params`, are in the network already."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def close(self) -> None:
        """Lay the weights of both networks out as others expect them."""
        self._arrange(torch.contiguous_format)

    def take_step(self) -> float:
        """Learn from one batch; its loss, before."""
        loss = self._loss(*self._draw())
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _arrange(self, memory_format: torch.memory_format) -> None:
        for network in (self.pruned, self.whole):
            network.to(memory_format=memory_format)  # type: ignore[call-overload]

    def _loss(self, low: list[Tensor], high: list[Tensor]) -> Tensor:
        with torch.no_grad():
            flows = self.whole.flows(low)
            with fast_convolutions():
                taught = self.whole.unroll(low, flows)
        with fast_convolutions():
            said = self.pruned.unroll(low, flows)
        loss = torch.zeros(())
        for y, wanted, truth in zip(said.outputs, taught.outputs, high, strict=True):
            loss = loss + (_charbonnier(y - wanted) + self.recipe.truth * _charbonnier(y - truth)) / len(low)
        for state, taught_state in zip(said.states, taught.states, strict=True):
            wanted = taught_state.float()
            error = _charbonnier((state.float() - wanted) / wanted.std().clamp(min=_EPSILON))
            loss = loss + self.recipe.states * error / len(said.states)
        return loss

    def _draw(self) -> tuple[list[Tensor], list[Tensor]]:
        """Clips of the step, which its number and the seed alone decide."""
        draw = np.random.default_rng((self.recipe.seed, self.step))
        count = len(self.windows.low)
        chosen = draw.choice(count, size=self.recipe.batch, replace=self.recipe.batch > count)
        low, high = self.windows.low[chosen], self.windows.high[chosen]
        for axis in (1, 2, 3):
            if draw.random() < 0.5:
                low, high = np.flip(low, axis), np.flip(high, axis)
        if draw.random() < 0.5:
            low, high = low.swapaxes(2, 3), high.swapaxes(2, 3)
        return frames_of(low), frames_of(high)


def save(state: Mapping[str, object], path: Path) -> None:
    """Write tensors, numbers and texts in dictionaries and lists: whole, or not at all.

    Raises:
        BadInputError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as aside, aside.open("wb") as file:
            torch.save(dict(state), file)
    except OSError as error:
        raise BadInputError(f"can't write {path}: {error.strerror}; choose another output") from error


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; nothing in the file is executed.

    Raises:
        BadInputError: it is damaged, or something else.
    """
    try:
        with quiet():
            state = torch.load(path, weights_only=True)
        if isinstance(state, dict):
            return state
    except Exception as error:
        raise BadInputError(f"{path} is no saved fine-tuning: remove it to begin anew") from error
    raise BadInputError(f"{path} is no saved fine-tuning: remove it to begin anew")


def _charbonnier(difference: Tensor) -> Tensor:
    return (difference.square() + _EPSILON**2).sqrt().mean()
