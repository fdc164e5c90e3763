"""Structured pruning: what each channel and block is worth, which of them go, and the weights without them.

Channels that one convolution makes and another reads go from both (r^2 filters each, with a pixel shuffle
between); residual blocks go as wholes. What the blocks add to, and so the hidden states, keeps its width:
structured sparsity learning (Xia et al., CVPR 2023) prunes BasicVSR in the same places. The weights left have
fewer rows and columns, so that graphs exported from them are smaller.

Imports torch: import it inside methods only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from superlower.frontends.bfloat16_torch import fast_convolutions
from superlower.frontends.prunable_torch import Channels, Layout, PrunableNet, groups_of, widths_of

CLIP = 11
"""Frames of the clip that a frame's cost is a mean over, as in docs/models.md."""


@dataclass(frozen=True)
class Plan:
    """What is kept.

    Attributes:
        blocks: by row, the indices of the blocks kept; all of a row that isn't named.
        channels: by producer, the indices of the channels kept; all of one that isn't named. Blocks are named
            as before any is removed.
    """

    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def groups(network: PrunableNet) -> list[Channels]:
    """Every group of channels that may be pruned: inner ones of the rows' blocks, then the others."""
    return groups_of(network.state_dict(), network.layout)


def kept_filters(network: PrunableNet, name: str, plan: Plan) -> Tensor:
    """Which of a convolution's filters a plan keeps."""
    for group in groups(network):
        if group.producer == name and name in plan.channels:
            return _filters(group, plan.channels[name])
    return torch.arange(len(_weight(network, name)))


def prune_state(state: Mapping[str, Tensor], layout: Layout, plan: Plan) -> dict[str, Tensor]:
    """The weights that a plan keeps, by the names that they have once the blocks are renumbered."""
    kept = dict(state)
    for group in groups_of(state, layout):
        if group.producer in plan.channels:
            channels = torch.tensor(plan.channels[group.producer])
            filters = _filters(group, plan.channels[group.producer])
            for name in (f"{group.producer}.weight", f"{group.producer}.bias"):
                kept[name] = kept[name][filters]
            name = f"{group.consumer}.weight"
            kept[name] = kept[name][:, channels]
    for row in layout.rows:
        if row.name not in plan.blocks:
            continue
        places = {str(old): new for new, old in enumerate(plan.blocks[row.name])}
        renamed = {}
        for name, tensor in kept.items():
            index, dot, rest = name.removeprefix(f"{row.name}.").partition(".")
            if not name.startswith(f"{row.name}.") or not dot:
                renamed[name] = tensor
            elif index in places:
                renamed[f"{row.name}.{places[index]}.{rest}"] = tensor
        kept = renamed
    return {name: tensor.clone() for name, tensor in kept.items()}


@contextmanager
def gated(network: PrunableNet, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, what a consumer reads is multiplied by its gate [N, C], by producer."""

    def through(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        return lambda _, inputs: (inputs[0] * gate[:, :, None, None],)

    with ExitStack() as stack:
        for group in groups(network):
            hook = through(gates[group.producer])
            handle = network.get_submodule(group.consumer).register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        yield


def output_slopes(
    network: PrunableNet, batches: Iterable[Sequence[Tensor]], seed: int = 0
) -> dict[str, Tensor]:
    """How a random projection of all outputs changes with each channel's gate: [samples, C] by producer.

    With v of independent signs, E[(d<v, y>/dg)^2] is |dy/dg|^2 (Hutchinson's estimator): to first order, the
    squared change of all outputs y of a clip when the channel goes, through the recurrence too. Slopes of
    channels that go together add first. One backward pass gives those of all gates, a sample of each clip.

    Args:
        network: in evaluation mode.
        batches: clips of T frames [N, C, H, W], a sample for each of N.
        seed: of the projections.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {}
    for frames in batches:
        with torch.no_grad():
            flows = network.flows(frames)
        gates = {
            group.producer: frames[0].new_ones(len(frames[0]), _channels(network, group)).requires_grad_()
            for group in groups(network)
        }
        with gated(network, gates), fast_convolutions():
            outputs = network.unroll(frames, flows).outputs
        signs = [torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1 for y in outputs]
        projected = torch.stack([(v * y).sum() for v, y in zip(signs, outputs, strict=True)]).sum()
        slopes = torch.autograd.grad(projected, list(gates.values()))
        for name, slope in zip(gates, slopes, strict=True):
            found.setdefault(name, []).append(slope)
    return {name: torch.cat(slopes) for name, slopes in found.items()}


def weight_norms(network: PrunableNet) -> dict[str, Tensor]:
    """Of each channel, the norm of the filters that make it times that of the weights that read it: [1, C] by
    producer. The product stays the same where one is scaled up and the other down by as much."""
    found = {}
    for group in groups(network):
        made = _weight(network, group.producer).flatten(1).reshape(_channels(network, group), -1).norm(dim=1)
        read = _weight(network, group.consumer).transpose(0, 1).flatten(1).norm(dim=1)
        found[group.producer] = (made * read)[None]
    return found


@dataclass(frozen=True)
class _Chunk:
    """Channels that are removed together: the last of a block takes the block along."""

    group: Channels
    channels: tuple[int, ...]
    price: float
    row: str | None
    last: bool


def make_plan(
    network: PrunableNet,
    slopes: Mapping[str, Tensor],
    costs: Mapping[str, float],
    remove: float,
    *,
    units: str = "both",
    multiple: int = 16,
) -> Plan:
    """Take what changes the output least for its cost until `remove` of the whole cost is gone.

    Channels of a group leave by rank, `multiple` at a time (kernels compute that many at once: fewer would be
    no faster), each lot priced by the mean over the samples of (sum of the slopes)^2 and its cost; a price is
    never less than that of the lot before. A block goes with its last channels. Of each row one block stays,
    elsewhere `multiple` channels.

    Args:
        network: to prune.
        slopes: of `output_slopes` or `weight_norms`.
        costs: of one weight of a convolution, by its name: 1 counts parameters, pixels count products.
        remove: share of the cost of the whole network, in 0..1.
        units: blocks (as wholes only), channels (of which `multiple` stay in each block) or both.
        multiple: 1 or more.

    Raises:
        ValueError: so much can't be taken.
    """
    rows = {row.name: len(widths_of(network.state_dict(), row)) for row in network.layout.rows}
    chunks = _chunks(network, slopes, costs, units, multiple)
    widths = {group.producer: _channels(network, group) for group in groups(network)}
    kept = {name: set(range(width)) for name, width in widths.items()}
    whole = _cost(network, {name: len(c) for name, c in kept.items()}, costs)
    for chunk in sorted(chunks, key=lambda c: c.price):
        if _cost(network, {name: len(c) for name, c in kept.items()}, costs) <= (1 - remove) * whole:
            break
        if chunk.row is not None and chunk.last:
            if rows[chunk.row] == 1:
                continue
            rows[chunk.row] -= 1
        kept[chunk.group.producer] -= set(chunk.channels)
    else:
        left = _cost(network, {name: len(c) for name, c in kept.items()}, costs) / whole
        if left > 1 - remove:
            raise ValueError(f"at most {1 - left:.1%} can be removed")
    blocks = {}
    for row in network.layout.rows:
        inner = [kept[row.block(i).producer] for i in range(len(widths_of(network.state_dict(), row)))]
        blocks[row.name] = tuple(i for i, channels in enumerate(inner) if channels)
    channels = {name: tuple(sorted(c)) for name, c in kept.items() if 0 < len(c) < widths[name]}
    return Plan(blocks, channels)


def keep_blocks(network: PrunableNet, slopes: Mapping[str, Tensor], count: int) -> Plan:
    """The `count` blocks of each row that change the output most.

    Raises:
        ValueError: a row has fewer.
    """
    blocks = {}
    for row in network.layout.rows:
        found = len(widths_of(network.state_dict(), row))
        if not 1 <= count <= found:
            raise ValueError(f"{row.name} has {found} blocks")
        prices = [float(slopes[row.block(i).producer].sum(1).square().mean()) for i in range(found)]
        ranked = sorted(range(found), key=lambda i: prices[i], reverse=True)
        blocks[row.name] = tuple(sorted(ranked[:count]))
    return Plan(blocks)


def pixel_costs(network: PrunableNet, height: int, width: int) -> dict[str, float]:
    """How often a frame multiplies each weight of a convolution: its calls' output pixels (input pixels,
    where it is transposed), by its name. The mean over a clip of `CLIP` frames, whose ends cost less.

    Args:
        height, width: of a low-resolution frame.
    """
    bare = copy.deepcopy(network).to("meta")
    # Of clips of more than two frames, each costs what one frame in their middle does more than the last.
    two, three = _pixels(bare, height, width, 2), _pixels(bare, height, width, 3)
    return {name: (two[name] + (CLIP - 2) * (count - two[name])) / CLIP for name, count in three.items()}


def _pixels(bare: PrunableNet, height: int, width: int, frames: int) -> dict[str, int]:
    """Pixels that each convolution's weights are applied at over a clip, by shapes alone."""
    pixels: dict[str, int] = {}

    def counter(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            places = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
            pixels[name] = pixels.get(name, 0) + places[0, 0].numel()

        return count

    clip = [torch.zeros(1, 3, height, width, device="meta") for _ in range(frames)]
    with ExitStack() as stack, torch.no_grad():
        for name, module in bare.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                stack.callback(module.register_forward_hook(counter(name)).remove)
        bare.unroll(clip, bare.flows(clip))
    return pixels


def products(network: PrunableNet, height: int, width: int) -> float:
    """Multiply-accumulates of a frame's convolutions, as `pixel_costs` counts them."""
    costs = pixel_costs(network, height, width)
    return sum(cost * _weight(network, name).numel() for name, cost in costs.items())


def _chunks(
    network: PrunableNet,
    slopes: Mapping[str, Tensor],
    costs: Mapping[str, float],
    units: str,
    multiple: int,
) -> list[_Chunk]:
    inner = {
        row.block(i).producer: row.name
        for row in network.layout.rows
        for i in range(len(widths_of(network.state_dict(), row)))
    }
    found = []
    for group in groups(network):
        row = inner.get(group.producer)
        if row is None and units == "blocks":
            continue
        slope = slopes[group.producer]
        ranked = slope.square().mean(0).argsort().tolist()
        size = len(ranked) if units == "blocks" else multiple
        lots = [tuple(ranked[i : i + size]) for i in range(0, len(ranked), size)]
        if row is None or units == "channels":
            lots = lots[:-1]
        price = 0.0
        for lot in lots:
            change = float(slope[:, list(lot)].sum(1).square().mean())
            price = max(price, change / (len(lot) * _unit_cost(network, group, costs)))
            found.append(_Chunk(group, lot, price, row, last=lot[-1] == ranked[-1]))
    return found


def _unit_cost(network: PrunableNet, group: Channels, costs: Mapping[str, float]) -> float:
    made = _weight(network, group.producer)[0].numel() * group.filters * costs[group.producer]
    return made + _weight(network, group.consumer)[:, 0].numel() * costs[group.consumer]


def _cost(network: PrunableNet, kept: Mapping[str, int], costs: Mapping[str, float]) -> float:
    """Of the weights left when so many channels of each group are."""
    made = {group.producer: kept[group.producer] * group.filters for group in groups(network)}
    read = {group.consumer: kept[group.producer] for group in groups(network)}
    total = 0.0
    for name, cost in costs.items():
        weight = _weight(network, name)
        outputs, inputs = weight.shape[:2]
        share = made.get(name, outputs) / outputs * read.get(name, inputs) / inputs
        total += cost * weight.numel() * share
    return total


def _filters(group: Channels, channels: Sequence[int]) -> Tensor:
    return (torch.tensor(channels)[:, None] * group.filters + torch.arange(group.filters)).flatten()


def _channels(network: PrunableNet, group: Channels) -> int:
    return len(_weight(network, group.producer)) // group.filters


def _weight(network: PrunableNet, name: str) -> Tensor:
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()
