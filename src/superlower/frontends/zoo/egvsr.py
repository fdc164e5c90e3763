"""EGVSR (Cao et al., 2021), as it was released: FRVSR's program with a cheaper tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from superlower.frontends.zoo.frvsr import FrameRecurrent

if TYPE_CHECKING:
    from superlower.frontends.zoo.frvsr_torch import FrameRecurrentNet


class Egvsr(FrameRecurrent):
    """`superlower export egvsr`."""

    name: ClassVar[str] = "egvsr"
    title: ClassVar[str] = "EGVSR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2107.05307"

    def _make(self, blocks: Sequence[int], bicubic: bool, warm_up: int) -> FrameRecurrentNet:
        from superlower.frontends.zoo.egvsr_torch import EgvsrNet

        return EgvsrNet(blocks, bicubic=bicubic, warm_up=warm_up)
