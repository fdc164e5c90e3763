"""Fit what SkipVSR adds to BasicVSR: for each direction an estimator of what a patch loses by being skipped.

    python examples/train_skipvsr.py skips.npz
    superlower export skipvsr --weights vimeo90k-bi --set skips=skips.npz --size 180x320 -o skipvsr

The teacher is the published BasicVSR: no ground truth is needed. Over short pieces of two sample clips, most
of them made smaller, its states are kept. Of each, patch by patch,

1. it is measured what the picture would be off by if the state of one to three steps before stood in its
   place: to first order, in levels of 8-bit pictures; and
2. an estimator is fitted to the logarithm of that (least squares, exponents at least 0).

The teacher's states are saved as they are made, beside the output; the same command goes on from there.
Convolutions compute in bfloat16 where the CPU has tiles for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from superlower.frontends.bfloat16_torch import fast_convolutions
from superlower.frontends.fetch import FetchedFile, fetch
from superlower.frontends.weights import fetch_weights
from superlower.frontends.zoo.basicvsr import (
    BLOCK,
    DEFAULT_BLOCKS,
    FEATURES,
    MMAGIC_RULES,
    SCALE,
    BasicVsr,
)
from superlower.frontends.zoo.build import count_of
from superlower.frontends.zoo.checkpoint import read_state
from superlower.frontends.zoo.layers_torch import flow_warp
from superlower.frontends.zoo.skipvsr import TRUNK_SHA256
from superlower.frontends.zoo.skipvsr_torch import EVIDENCE, LEVELS, Estimator, Patches, Rule, SkipVsrNet
from superlower.media.clip import open_clip
from superlower.media.degrade import bi
from superlower.media.samples import SAMPLES

PIECES = (
    # clip, first frame, frames, shrunk by, rows, columns (of the shrunk frame)
    *(("bikes", first, 8, 4, slice(0, 68), slice(0, 160)) for first in (2, 64, 120, 178, 238)),
    ("carphone", 20, 8, 2, slice(0, 72), slice(0, 88)),
    *(("bikes", first, 6, 1, slice(90, 158), slice(200, 360)) for first in (148, 194)),
    *(("bikes", first, 6, 2, slice(40, 108), slice(80, 240)) for first in (30, 130, 216)),
    ("carphone", 80, 6, 1, slice(20, 88), slice(10, 160)),
)
"""What is learned from: every scene of one clip and some of another, at sizes of 68x160 and about."""

SIDES = {"backward": 1, "forward": -1}
"""Where a direction's state comes from: the frame after, or before."""

FITTED_TO = ((34, 40), (68, 80))
"""Heights and widths of the patches that estimators are fitted to."""

LAGS = (1, 2, 3)
"""How many steps old the states are that stand in for new ones."""

SETTLED = 2
"""Steps of a sweep after which states are taken: those before gather detail fast."""


@dataclass
class Piece:
    """A piece of a clip, and what the teacher makes of it.

    Attributes:
        frames: [T, 3, H, W] in 0..1.
        states: by direction, the teacher's, [T, 64, H, W].
    """

    frames: Tensor
    states: dict[str, Tensor]

    def order(self, direction: str) -> Sequence[int]:
        """Frames as a sweep goes."""
        frames = range(len(self.frames))
        return frames if direction == "forward" else frames[::-1]


def read_piece(name: str, first: int, count: int, shrink: int, rows: slice, columns: slice) -> Tensor:
    """Frames of a sample clip, [T, 3, H, W] in 0..1."""
    sample = SAMPLES[name]
    with open_clip(fetch(sample.location, sha256=sample.sha256).path) as clip:
        pictures = [picture.rgb.astype(np.uint8) for picture in islice(clip, first, first + count)]
    if shrink > 1:
        pictures = [bi(picture, shrink) for picture in pictures]
    frames = np.stack([picture[rows, columns].transpose(2, 0, 1) for picture in pictures])
    return torch.from_numpy(frames.astype(np.float32) / np.float32(LEVELS))


@torch.no_grad()
def teach(network: SkipVsrNet, frames: Tensor) -> Piece:
    """Run the teacher over a piece."""
    piece = Piece(frames, {})
    for direction, side in SIDES.items():
        trunk = network.run_backward if direction == "backward" else network.run_forward
        states = piece.states[direction] = frames.new_zeros(len(frames), FEATURES, *frames.shape[2:])
        for i, t in enumerate(piece.order(direction)):
            x, aligned = frames[t : t + 1], torch.zeros_like(states[:1])
            if i:
                before = slice(t + side, t + side + 1)
                aligned = flow_warp(states[before], network.estimate_flow(x, frames[before]))
            with fast_convolutions():
                states[t] = trunk(x, aligned)[0]
    return piece


def taught(network: SkipVsrNet, count: int | None, saved: Path) -> list[Piece]:
    """The first `count` pieces with the teacher's states, or all; what `saved` has is taken from there."""
    known = torch.load(saved, weights_only=True) if saved.is_file() else []
    for piece in PIECES[len(known) : count]:
        made = teach(network, read_piece(*piece))
        known.append({"frames": made.frames, "states": made.states})
        save_aside(known, saved)
        print(f"teacher: {len(known)} pieces", flush=True)
    return [Piece(**entry) for entry in known[:count]]


def save_aside(state: object, path: Path) -> None:
    """`torch.save` that leaves the old file or the new one, whenever it is stopped."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, aside)
    aside.replace(path)


def sensitivity(
    network: SkipVsrNet, pieces: Sequence[Piece], draws: int = 24, side: int = 24
) -> dict[str, Tensor]:
    """By direction, R [64, 64]: an error e of a state moves the picture by |R e| levels, root mean square.

    R'R is the mean of J'J over pixels, J being the picture's derivative by the state (Hutchinson's estimator:
    for a random u of unit variance, E[J'u u'J] = J'J). A tenth of its mean eigenvalue is added to each, since
    states also become other states.
    """
    generator = torch.Generator().manual_seed(0)
    found = {direction: torch.zeros(FEATURES, FEATURES) for direction in SIDES}
    for draw in range(draws):
        piece = pieces[draw % len(pieces)]
        t, top, left = (
            int(torch.randint(count, (1,), generator=generator))
            for count in (len(piece.frames), piece.frames.shape[2] - side, piece.frames.shape[3] - side)
        )
        area = (slice(t, t + 1), slice(None), slice(top, top + side), slice(left, left + side))
        states = [piece.states[direction][area].clone().requires_grad_() for direction in SIDES]
        picture = network.reconstruct(piece.frames[area], *states)
        u = torch.randn(picture.shape, generator=generator)
        for direction, gradient in zip(SIDES, torch.autograd.grad((picture * u).sum(), states), strict=True):
            inner = gradient[0, :, 4:-4, 4:-4].reshape(FEATURES, -1)
            found[direction] += inner @ inner.T / inner.shape[1] / draws
    roots = {}
    for direction, product in found.items():
        squared = product * LEVELS**2 / (3 * SCALE**2)
        squared += 0.1 * squared.diagonal().mean() * torch.eye(FEATURES)
        roots[direction] = torch.linalg.cholesky(squared).T.contiguous()
    return roots


def squared_levels(root: Tensor, error: Tensor) -> Tensor:
    """[N, H, W] of errors [N, 64, H, W]."""
    return torch.einsum("ij,njhw->nihw", root, error).square().sum(1)


@torch.no_grad()
def fit(estimator: Estimator, root: Tensor, pieces: Sequence[Piece], direction: str) -> float:
    """Fit a direction's estimator; the correlation of estimated with real logarithms."""
    evidence, off = [], []
    for piece in pieces:
        order, states = piece.order(direction), piece.states[direction]
        for lag in LAGS:
            for i in range(SETTLED + lag, len(order)):
                t, then = order[i], order[i - lag]
                x, seen = piece.frames[t : t + 1], piece.frames[then : then + 1]
                squared = squared_levels(root, states[then : then + 1] - states[t : t + 1])[:, None]
                for height, width in FITTED_TO:
                    size = (min(height, x.shape[2]), min(width, x.shape[3]))
                    area = (
                        ...,
                        slice(x.shape[2] // size[0] * size[0]),
                        slice(x.shape[3] // size[1] * size[1]),
                    )
                    evidence.append(estimator.evidence(x[area], seen[area], Patches(*size, 0))[0].flatten(1))
                    off.append(torch.log2(torch.nn.functional.avg_pool2d(squared[area], size)).flatten() / 2)
    given, wanted = torch.cat(evidence, dim=1).T.double(), torch.cat(off).double()
    used = list(range(len(EVIDENCE)))
    while True:
        columns = torch.cat((given[:, used], torch.ones(len(given), 1).double()), dim=1)
        solved = torch.linalg.lstsq(columns, wanted[:, None]).solution[:, 0]
        if not used or float(solved[:-1].min()) >= 0:
            break
        del used[int(solved[:-1].argmin())]
    estimator.weight.zero_()
    estimator.weight[used] = solved[:-1].float()
    estimator.bias.copy_(solved[-1:].float())
    return float(torch.corrcoef(torch.stack((columns @ solved, wanted)))[0, 1])


def save(network: SkipVsrNet, output: Path, weights: FetchedFile) -> None:
    """Write what was fitted, and for which checkpoint."""
    arrays = {
        name: tensor.numpy()
        for name, tensor in network.state_dict().items()
        if name.startswith(tuple(f"{direction}_skip." for direction in SIDES))
    }
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    with aside.open("wb") as stream:
        np.savez_compressed(stream, **arrays, **{TRUNK_SHA256: np.array(weights.sha256)})
    aside.replace(output)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--weights", default="vimeo90k-bi", help="of BasicVSR, as for `superlower export`")
    parser.add_argument("--pieces", type=int, help="of the clips to learn from (default: all)")
    arguments = parser.parse_args()

    weights = fetch_weights(arguments.weights, BasicVsr())
    teacher = read_state(weights.path, MMAGIC_RULES)
    blocks = count_of(teacher, BLOCK, DEFAULT_BLOCKS)
    network = SkipVsrNet(blocks, Patches(*FITTED_TO[0], 0), Rule(0.0, 0))
    network.load_state_dict({**network.state_dict(), **teacher})
    network.requires_grad_(False)
    pieces = taught(network, arguments.pieces, arguments.output.with_suffix(".teacher.pt"))
    roots = sensitivity(network, pieces)
    for direction, estimator in (("backward", network.backward_skip), ("forward", network.forward_skip)):
        correlation = fit(estimator, roots[direction], pieces, direction)
        terms = ", ".join(f"{n} {w:.3f}" for n, w in zip(EVIDENCE, estimator.weight.tolist(), strict=True))
        print(f"{direction}: {terms}, bias {estimator.bias.item():.3f}; correlation {correlation:.3f}")
    save(network, arguments.output, weights)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
