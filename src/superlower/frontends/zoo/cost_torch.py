"""What a network's method costs, seen as it runs: on the meta device from shapes alone. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import superlower.frontends.torch_deform  # noqa: F401  registers the operator

_CONVOLUTION = torch.ops.aten.convolution.default
_DEFORMABLE = torch.ops.superlower.deform_conv.default
_TRANSPOSED = 6
"""Position of `transposed` among aten.convolution's arguments."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-accumulates of all convolutions run inside."""

    def __init__(self, transposed_at_output: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self._at_output = transposed_at_output

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (_CONVOLUTION, _DEFORMABLE):
            spread = func is _CONVOLUTION and args[_TRANSPOSED]
            places = args[0] if spread and not self._at_output else out
            # A weight is [Cout, Cin/g, ...], transposed [Cin, Cout/g, ...]: used once at each place.
            self.macs += args[1].numel() * places.shape[0] * prod(places.shape[2:])
        return out


def count_macs(
    method: Callable[..., object], shapes: Sequence[tuple[int, ...]], *, transposed_at_output: bool = False
) -> int:
    """Multiply-accumulates of the convolutions, deformable ones among them, in one call of a method.

    Counted as `driver.flops.convolutions` counts a graph's: padding's zeros are in, biases and what a
    deformable convolution needs to sample its input aren't.

    Args:
        method: of a network on the meta device.
        shapes: of its arguments.
        transposed_at_output: count a transposed convolution as if each of its outputs read a whole kernel,
            stride^2 times too much, as EGVSR's authors do.
    """
    counter = _Counter(transposed_at_output)
    with torch.no_grad(), torch.device("meta"):
        examples = [torch.zeros(shape) for shape in shapes]
        with counter:
            method(*examples)
    return counter.macs
