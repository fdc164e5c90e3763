"""What pruning may take of a network, and how it runs one. Imports torch: import it inside methods only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Channels:
    """Channels that one convolution makes and one reads, and nothing else.

    Attributes:
        producer: the convolution that makes them.
        consumer: the one that reads them.
        filters: of the producer for each of the channels: r^2 where a pixel shuffle by r lies between.
    """

    producer: str
    consumer: str
    filters: int = 1


@dataclass(frozen=True)
class Row:
    """Residual blocks in a row, each x + second(act(first(x))): any can be left out, and the channels between
    the two convolutions of each can be fewer.

    Attributes:
        name: of the nn.Sequential.
        first, second: the convolutions, within a block.
    """

    name: str
    first: str
    second: str

    def block(self, index: int) -> Channels:
        """The inner channels of a block."""
        return Channels(f"{self.name}.{index}.{self.first}", f"{self.name}.{index}.{self.second}")


@dataclass(frozen=True)
class Layout:
    """Everything that pruning may take of a network.

    Attributes:
        rows: of residual blocks.
        channels: elsewhere.
        readers: convolutions that read what rows make, to be refitted after those.
        frozen: starts of the names of parameters that fine-tuning leaves alone: those of the flow network,
            whose flows a pruned network and its teacher then share.
    """

    rows: tuple[Row, ...]
    channels: tuple[Channels, ...] = ()
    readers: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unrolled:
    """A network's run over a clip of T frames, N clips at a time.

    Attributes:
        outputs: T upscaled frames [N, C, sH, sW].
        states: the hidden states that it carried along, [N, F, H, W].
    """

    outputs: list[Tensor]
    states: list[Tensor]


class PrunableNet(nn.Module):
    """A network that can be pruned and fine-tuned."""

    layout: Layout

    @property
    def structure(self) -> dict[str, str]:
        """What an export is told of it: `blocks`, and `widths` where it is pruned."""
        raise NotImplementedError

    def flows(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """The motion that `unroll` takes, a list for each sweep over the clip; of frozen parameters only."""
        raise NotImplementedError

    def unroll(self, frames: Sequence[Tensor], flows: tuple[list[Tensor], ...]) -> Unrolled:
        """Run a clip of T frames [N, C, H, W] in 0..1."""
        raise NotImplementedError


def groups_of(state: Mapping[str, Tensor], layout: Layout) -> list[Channels]:
    """Every group of channels that may be pruned: inner ones of the rows' blocks in a state dict, then the
    others."""
    inner = [row.block(i) for row in layout.rows for i in range(len(widths_of(state, row)))]
    return [*inner, *layout.channels]


def narrow(network: PrunableNet, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Give the convolutions of a whole network as few channels as a pruned checkpoint has; its weights are
    still to be loaded. What the checkpoint lacks is left whole, for strict loading to find.

    Args:
        network: with as many blocks in each row as the checkpoint; changed in place.
        state: of the checkpoint.

    Returns:
        Channels of each group that is narrower, by its producer.
    """
    found = {}
    for group in groups_of(network.state_dict(), network.layout):
        producer, consumer = (network.get_submodule(name) for name in (group.producer, group.consumer))
        assert isinstance(producer, nn.Conv2d)
        assert isinstance(consumer, nn.Conv2d)
        made = state.get(f"{group.producer}.weight")
        if made is None or len(made) >= producer.out_channels:
            continue
        found[group.producer] = len(made) // group.filters
        _resize(producer, producer.in_channels, len(made))
        _resize(consumer, found[group.producer], consumer.out_channels)
    return found


def widths_of(state: Mapping[str, Tensor], row: Row) -> tuple[int, ...]:
    """Inner channels of a row's blocks in a state dict, as many as there are."""
    found: list[int] = []
    while (weight := state.get(f"{row.block(len(found)).producer}.weight")) is not None:
        found.append(len(weight))
    return tuple(found)


def _resize(convolution: nn.Conv2d, inputs: int, outputs: int) -> None:
    """Give it other widths, and weights of zero."""
    convolution.in_channels, convolution.out_channels = inputs, outputs
    convolution.weight = nn.Parameter(convolution.weight.new_zeros(outputs, inputs, *convolution.kernel_size))
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(convolution.bias.new_zeros(outputs))
