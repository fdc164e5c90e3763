"""Least squares after pruning: what is left learns in one step to say what was said before.

A convolution that lost inputs is given the weights that best reproduce its former outputs on real frames (He
et al., "Channel pruning for accelerating very deep neural networks", ICCV 2017, section 3.1). In a row of
residual blocks the blocks are refitted in order, each on what reaches it in the pruned row, towards what the
whole row holds after it and after the blocks removed behind it: it takes over from those, and corrects the
ones before.

Imports torch: import it inside methods only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower.frontends.bfloat16_torch import fast_convolutions
from superlower.frontends.prunable_torch import Channels, PrunableNet, Row, widths_of
from superlower.frontends.pruning_torch import Plan, kept_filters

RIDGE = 1e-4
"""Of the inputs' mean square: keeps weights near their former ones where frames say nothing about them."""

LOT = 8
"""Frames at a time."""

PIXELS = 576
"""That a frame contributes to each fit, at random: 577 unknowns of some hundred frames need no more."""


def refit(
    pruned: PrunableNet,
    whole: PrunableNet,
    plan: Plan,
    batches: Sequence[Sequence[Tensor]],
    seed: int = 0,
    *,
    rounds: int = 2,
    passed: Callable[[str], object] = lambda _: None,
) -> None:
    """Set the weights of `pruned` that read pruned channels or stand in for removed blocks.

    First on what the whole network hands on; then again with the hidden states that `pruned` itself now
    carries along, so that a clip's errors are corrected, not only a frame's, and with them what reads those.

    Args:
        pruned: `whole` after the plan; changed in place.
        whole: the network before.
        plan: what was kept.
        batches: clips of T frames [N, C, H, W].
        seed: of the pixels taken.
        rounds: 1 or more; the first is on what the whole network hands on.
        passed: told the name of each row, once it is refitted, and of each reader.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = whole.layout.rows
    readers = [group for group in whole.layout.channels if group.producer in plan.channels]
    grams: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        gram = _gram(_patches(_convolution(whole, name), x, _some(x, generator)))
        grams[name] = grams[name] + gram if name in grams else gram

    with torch.no_grad():
        flows = [whole.flows(frames) for frames in batches]
    with torch.no_grad(), fast_convolutions():
        seen = (*(row.name for row in rows), *whole.layout.readers)
        with _watched(whole, [group.consumer for group in readers], add):
            reached = _reached(whole, batches, flows, seen)
        for group in readers:
            _reread(pruned, whole, group, plan, grams[group.consumer])
        own = reached
        for _ in range(rounds):
            for row in rows:
                _walk(pruned, whole, row, plan, reached[row.name], own[row.name], generator)
                passed(row.name)
            own = _reached(pruned, batches, flows, seen)
            for name in whole.layout.readers:
                said = _in_lots(_convolution(whole, name), reached[name])
                wanted = said[:, kept_filters(whole, name, plan)]
                _adjust(pruned, name, name, own[name], wanted, generator)
                passed(name)


def _reached(
    network: PrunableNet,
    batches: Sequence[Sequence[Tensor]],
    flows: Sequence[tuple[list[Tensor], ...]],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """What reaches modules [M, F, H, W] while a network runs clips, by name."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    with _watched(network, names, lambda name, x: found[name].append(x.float())):
        for frames, motion in zip(batches, flows, strict=True):
            network.unroll(frames, motion)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _walk(
    pruned: PrunableNet,
    whole: PrunableNet,
    row: Row,
    plan: Plan,
    before: Tensor,
    after: Tensor,
    generator: torch.Generator,
) -> None:
    """Refit a row's blocks in order.

    Args:
        before, after: what reaches the row in `whole` and in `pruned` [M, F, H, W].
    """
    count = len(widths_of(whole.state_dict(), row))
    kept = plan.blocks.get(row.name, tuple(range(count)))
    at = 0
    for place, following in enumerate((*kept[1:], count)):
        while at < following:
            before = _in_lots(whole.get_submodule(f"{row.name}.{at}"), before)
            at += 1
        name = f"{row.name}.{place}"
        _adjust(pruned, name, f"{name}.{row.second}", after, before, generator)
        after = _in_lots(pruned.get_submodule(name), after)


def _adjust(
    pruned: PrunableNet, name: str, last: str, x: Tensor, wanted: Tensor, generator: torch.Generator
) -> None:
    """Change a module's last convolution for the module to make `wanted` of `x`, [M, F, H, W] each."""
    module, convolution = pruned.get_submodule(name), _convolution(pruned, last)
    inputs: list[Tensor] = []
    gram, cross = torch.zeros(()), torch.zeros(())
    with _watched(pruned, [last], lambda _, h: inputs.append(h)):
        for part, target in zip(torch.split(x, LOT), torch.split(wanted, LOT), strict=True):
            missing = (target - module(part)).movedim(1, -1).flatten(0, -2)
            chosen = _some(part, generator)
            patches = _patches(convolution, inputs.pop(), chosen)
            gram = gram + _gram(patches)
            cross = cross + (patches @ missing[chosen]).double()
    change = torch.linalg.solve(_ridged(gram), cross).to(convolution.weight)
    assert convolution.bias is not None
    convolution.weight += change[:-1].T.reshape(convolution.weight.shape)
    convolution.bias += change[-1]


def _reread(pruned: PrunableNet, whole: PrunableNet, group: Channels, plan: Plan, gram: Tensor) -> None:
    """Make a convolution that reads only some of its inputs say what it said of all.

    Args:
        gram: of all the inputs' patches and 1, [k^2 C + 1, k^2 C + 1].
    """
    now, before = _convolution(pruned, group.consumer), _convolution(whole, group.consumer)
    taps = before.weight[0, 0].numel()
    kept = torch.tensor(plan.channels[group.producer])
    places = (kept[:, None] * taps + torch.arange(taps)).flatten()
    places = torch.cat((places, torch.tensor([len(gram) - 1])))
    assert before.bias is not None
    assert now.bias is not None
    wanted = torch.cat((before.weight.flatten(1), before.bias[:, None]), dim=1).double().T
    plain = gram[places][:, places]
    ridged = _ridged(plain)
    # The ridge pulls towards the weights that these inputs had.
    found = torch.linalg.solve(ridged, gram[places] @ wanted + (ridged - plain) @ wanted[places])
    rows = kept_filters(whole, group.consumer, plan)
    now.weight.copy_(found[:-1].T[rows].reshape(now.weight.shape))
    now.bias.copy_(found[-1][rows])


def _some(x: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of `PIXELS` pixels a frame, of all the pixels of frames [N, C, H, W]."""
    return torch.randint(0, len(x) * x[0, 0].numel(), (PIXELS * len(x),), generator=generator)


def _patches(convolution: nn.Conv2d, x: Tensor, chosen: Tensor) -> Tensor:
    """What those of a convolution's output pixels read, and 1 for its bias: [k^2 C + 1, pixels]."""
    assert not isinstance(convolution.padding, str)
    down, aside = convolution.padding
    rows, columns = convolution.weight.shape[2:]
    height, width = x.shape[2:]
    padded = F.pad(x.float(), (aside, aside, down, down))
    frame, row, column = chosen // (height * width), chosen // width % height, chosen % width
    taps = [padded[frame, :, row + i, column + j] for i in range(rows) for j in range(columns)]
    patches = torch.stack(taps, dim=2).flatten(1)
    return torch.cat((patches, patches.new_ones(len(patches), 1)), dim=1).T


def _gram(patches: Tensor) -> Tensor:
    return (patches @ patches.T).double()


def _ridged(gram: Tensor) -> Tensor:
    """With `RIDGE` on the diagonal, not on that of the bias."""
    diagonal = torch.full((len(gram),), RIDGE * float(gram.diagonal()[:-1].mean()), dtype=gram.dtype)
    diagonal[-1] = 0
    return gram + diagonal.diag()


def _in_lots(block: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([block(part).float() for part in torch.split(x, LOT)])


def _convolution(network: PrunableNet, name: str) -> nn.Conv2d:
    found = network.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


@contextmanager
def _watched(
    network: PrunableNet, names: Sequence[str], seen: Callable[[str, Tensor], object]
) -> Iterator[None]:
    """While the block runs, `seen` is told what reaches each module, by its name."""

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen(name, inputs[0])

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(network.get_submodule(name).register_forward_pre_hook(watch(name)).remove)
        yield
