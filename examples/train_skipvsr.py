"""Train what SkipVSR adds to BasicVSR: for each direction a bypass and an estimator, by distillation.

    python examples/train_skipvsr.py skips.npz
    superlower export skipvsr --weights vimeo90k-bi --set skips=skips.npz --size 180x320 -o skipvsr

The teacher is the published BasicVSR: no ground truth is needed. Over short pieces of two sample clips, most
of them made smaller, its states are kept; then, from the same frame and aligned state,

1. a bypass starts as the linear map that comes nearest to the teacher's state (least squares), and
2. is trained to it. Errors are weighted by what they do to the upscaled picture, to first order, and so are
   in levels of 8-bit pictures. In the second half of the training, half of the aligned states are the
   bypass's own, for errors to be mended rather than kept.
3. An estimator is fitted to the logarithm of what the bypass is off by, patch by patch (least squares,
   exponents at least 0).

Both directions train at the same time, a thread each: some minutes on two quiet cores. All is saved as it
goes, beside the output; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
from superlower.frontends.zoo.layers_torch import Trunk, flow_warp
from superlower.frontends.zoo.skipvsr import TRUNK_SHA256
from superlower.frontends.zoo.skipvsr_torch import EVIDENCE, LEVELS, Bypass, Patches, Skip, SkipVsrNet
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

CROP, MARGIN, BATCH = 40, 4, 4
"""Pixels of a training crop's side, those at its edges whose errors aren't counted, and crops a step."""

FIRST_RATE, LAST_RATE = 1e-3, 1e-5
HARDLY_SEEN = 0.5
"""Levels below which an error counts as its square, above as itself: what is far off is left to the trunk."""

FITTED_TO = ((34, 40), (68, 80))
"""Heights and widths of the patches that estimators are fitted to."""


@dataclass
class Piece:
    """A piece of a clip, and what the teacher makes of it.

    Attributes:
        frames: [T, 3, H, W] in 0..1.
        flows: by direction, to the neighbouring frame, [T, 2, H, W]; zeros where there is none.
        states: by direction, the teacher's, [T, 64, H, W].
        own: by direction, those of the bypass left to itself.
    """

    frames: Tensor
    flows: dict[str, Tensor]
    states: dict[str, Tensor]
    own: dict[str, Tensor] = field(default_factory=dict)

    def aligned(self, direction: str, t: int, states: Tensor) -> Tensor:
        """The neighbour's state aligned to frame `t`; zeros where a sweep begins."""
        neighbour = t + SIDES[direction]
        if not 0 <= neighbour < len(self.frames):
            return torch.zeros_like(states[:1])
        return flow_warp(states[neighbour : neighbour + 1], self.flows[direction][t : t + 1])

    def order(self, direction: str) -> Sequence[int]:
        """Frames as a sweep goes."""
        frames = range(len(self.frames))
        return frames if direction == "forward" else frames[::-1]


def trunk_of(network: SkipVsrNet, direction: str) -> Trunk:
    """The teacher's trunk."""
    trunk: Trunk = getattr(network, f"{direction}_trunk")
    return trunk


def skip_of(network: SkipVsrNet, direction: str) -> Skip:
    """What is trained."""
    skip: Skip = getattr(network, f"{direction}_skip")
    return skip


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
    piece = Piece(frames, {}, {})
    for direction, side in SIDES.items():
        flows = frames.new_zeros(len(frames), 2, *frames.shape[2:])
        states = frames.new_zeros(len(frames), FEATURES, *frames.shape[2:])
        piece.flows[direction], piece.states[direction] = flows, states
        for t in piece.order(direction):
            x, neighbour = frames[t : t + 1], frames[t + side : t + side + 1] if t + side >= 0 else frames[:0]
            if len(neighbour):
                flows[t] = network.estimate_flow(x, neighbour)[0]
            aligned = piece.aligned(direction, t, states)
            states[t] = trunk_of(network, direction)(torch.cat((x, aligned), dim=1))[0]
    return piece


def taught(network: SkipVsrNet, count: int | None, saved: Path) -> list[Piece]:
    """The first `count` pieces with the teacher's states, or all; what `saved` has is taken from there."""
    known = torch.load(saved, weights_only=True) if saved.is_file() else []
    for piece in PIECES[len(known) : count]:
        made = teach(network, read_piece(*piece))
        known.append({"frames": made.frames, "flows": made.flows, "states": made.states})
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
def start(bypass: Bypass, trunk: Trunk, pieces: Sequence[Piece], direction: str) -> None:
    """The linear map nearest to the teacher's states, blocks that add little."""
    bypass.conv.load_state_dict(trunk.main[0].state_dict())
    width = 2 * FEATURES + 1
    gram, target = torch.zeros(width, width).double(), torch.zeros(width, FEATURES).double()
    for piece in pieces:
        states = piece.states[direction]
        for t in range(len(states)):
            given = bypass.features(piece.frames[t : t + 1], piece.aligned(direction, t, states))
            rows = torch.cat((given[0].flatten(1), torch.ones(1, given[0, 0].numel()))).double()
            gram += rows @ rows.T
            target += rows @ states[t].flatten(1).T.double()
    gram += 1e-4 * gram.diagonal().mean() * torch.eye(width)
    solved = torch.linalg.solve(gram, target).float()
    bypass.fuse.weight.copy_(solved[:-1].T[:, :, None, None])
    bypass.fuse.bias.copy_(solved[-1])
    for block in bypass.blocks:
        block.conv2.weight *= 0.1
        block.conv2.bias.zero_()


@torch.no_grad()
def left_to_itself(bypass: Bypass, pieces: Sequence[Piece], direction: str) -> None:
    """Set the pieces' `own` states of a direction."""
    for piece in pieces:
        own = torch.zeros_like(piece.states[direction])
        for t in piece.order(direction):
            own[t] = bypass(piece.frames[t : t + 1], piece.aligned(direction, t, own))[0]
        piece.own[direction] = own


def train(skip: Skip, root: Tensor, pieces: Sequence[Piece], direction: str, steps: int, saved: Path) -> None:
    """Train a direction's bypass, from where `saved` has it if that is there."""
    bypass = skip.bypass
    optimizer = torch.optim.Adam(bypass.parameters(), lr=FIRST_RATE)
    first = 0
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        bypass.load_state_dict(state["bypass"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["steps"]
        left_to_itself(bypass, pieces, direction)
    shown = math.nan
    for step in range(first, steps):
        if step == steps // 2:
            left_to_itself(bypass, pieces, direction)
        rate = LAST_RATE + (FIRST_RATE - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, aligned, wanted = crops(pieces, direction, own=step >= steps // 2, seed=step)
        error = (bypass(x, aligned) - wanted)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        squared = squared_levels(root, error)
        loss = torch.sqrt(squared + HARDLY_SEEN**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        level = math.sqrt(float(squared.detach().mean()))
        shown = level if math.isnan(shown) else 0.98 * shown + 0.02 * level
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"{direction}: step {step + 1} of {steps}, {shown:.2f} levels off", flush=True)
            state = {"bypass": bypass.state_dict(), "optimizer": optimizer.state_dict(), "steps": step + 1}
            save_aside(state, saved)


def crops(pieces: Sequence[Piece], direction: str, *, own: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch: frames, aligned states and the teacher's states."""
    draw = np.random.default_rng(seed)
    batch = []
    for _ in range(BATCH):
        piece = pieces[draw.integers(len(pieces))]
        # Where a sweep begins the trunk runs, whatever the estimator says.
        t = piece.order(direction)[draw.integers(1, len(piece.frames))]
        states = piece.states[direction]
        source = piece.own[direction] if own and draw.random() < 0.5 else states
        aligned = piece.aligned(direction, t, source)
        top, left = (int(draw.integers(side - CROP + 1)) for side in aligned.shape[2:])
        area = (..., slice(top, top + CROP), slice(left, left + CROP))
        batch.append((piece.frames[t : t + 1][area], aligned[area], states[t : t + 1][area]))
    x, aligned, wanted = (torch.cat(parts) for parts in zip(*batch, strict=True))
    return x, aligned, wanted


@torch.no_grad()
def fit(skip: Skip, root: Tensor, pieces: Sequence[Piece], direction: str) -> float:
    """Fit a direction's estimator; the correlation of estimated with real logarithms."""
    evidence, off = [], []
    for piece in pieces:
        states, side = piece.states[direction], SIDES[direction]
        for t in piece.order(direction)[1:]:
            x, aligned = piece.frames[t : t + 1], piece.aligned(direction, t, states)
            flow = piece.flows[direction][t : t + 1]
            neighbour = flow_warp(piece.frames[t + side : t + side + 1], flow, padding="border")
            made = skip.bypass(x, aligned)
            squared = squared_levels(root, made - states[t : t + 1])[:, None]
            for height, width in FITTED_TO:
                size = (min(height, x.shape[2]), min(width, x.shape[3]))
                area = (..., slice(x.shape[2] // size[0] * size[0]), slice(x.shape[3] // size[1] * size[1]))
                seen = skip.estimator.evidence(
                    x[area], neighbour[area], aligned[area], made[area], Patches(*size, 0)
                )
                evidence.append(seen[0].flatten(1))
                off.append(torch.log2(torch.nn.functional.avg_pool2d(squared[area], size)).flatten() / 2)
    given, wanted = torch.cat(evidence, dim=1).T.double(), torch.cat(off).double()
    used = list(range(len(EVIDENCE)))
    while True:
        columns = torch.cat((given[:, used], torch.ones(len(given), 1).double()), dim=1)
        solved = torch.linalg.lstsq(columns, wanted[:, None]).solution[:, 0]
        if not used or float(solved[:-1].min()) >= 0:
            break
        del used[int(solved[:-1].argmin())]
    skip.estimator.weight.zero_()
    skip.estimator.weight[used] = solved[:-1].float()
    skip.estimator.bias.copy_(solved[-1:].float())
    return float(torch.corrcoef(torch.stack((columns @ solved, wanted)))[0, 1])


def save(network: SkipVsrNet, output: Path, weights: FetchedFile) -> None:
    """Write what was trained, in half precision, and for which checkpoint."""
    arrays = {
        name: tensor.numpy().astype(np.float16)
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
    parser.add_argument("--blocks", type=int, default=4, help="residual blocks of a bypass")
    parser.add_argument("--steps", type=int, default=240, help="of training, each direction")
    parser.add_argument("--pieces", type=int, help="of the clips to learn from (default: all)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)

    weights = fetch_weights(arguments.weights, BasicVsr())
    teacher = read_state(weights.path, MMAGIC_RULES)
    network = SkipVsrNet(
        count_of(teacher, BLOCK, DEFAULT_BLOCKS), arguments.blocks, Patches(*FITTED_TO[0], 0), 0.0
    )
    network.load_state_dict({**network.state_dict(), **teacher})
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("_skip." in name)
    pieces = taught(network, arguments.pieces, arguments.output.with_suffix(".teacher.pt"))
    roots = sensitivity(network, pieces)

    def run(direction: str) -> None:
        skip = skip_of(network, direction)
        start(skip.bypass, trunk_of(network, direction), pieces, direction)
        saved = arguments.output.with_suffix(f".{direction}.pt")
        train(skip, roots[direction], pieces, direction, arguments.steps, saved)
        correlation = fit(skip, roots[direction], pieces, direction)
        weight, bias = skip.estimator.weight.tolist(), skip.estimator.bias.item()
        terms = ", ".join(f"{name} {w:.3f}" for name, w in zip(EVIDENCE, weight, strict=True))
        print(f"{direction}: estimator {terms}, bias {bias:.3f}; correlation {correlation:.3f}", flush=True)

    with ThreadPoolExecutor(len(SIDES)) as pool:
        list(pool.map(run, SIDES))
    save(network, arguments.output, weights)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
