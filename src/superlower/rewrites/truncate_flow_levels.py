"""Flow estimated coarse to fine, without its finest levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.passes._rules import Rule
from superlower.passes.base import QualityBudget, Site
from superlower.rewrites._lossy import BUDGET, BUDGET_DB, Lossy, Unrefined
from superlower.rewrites._pyramids import left_out, refinements


@dataclass(frozen=True)
class TruncateFlowLevels(Lossy):
    """Leave the finest refinements of a flow pyramid out, at a cost that is measured and held.

    ::

        up = Resize(flow_coarse) * f                        (or Resize(flow_coarse * f); f times as large)
        flow = up + Conv(... warp(sup, up), up ...)   ->    flow = up

    In every graph, for every pyramid: the last `levels` such sums of a chain, [N, 2, H, W], f a whole number.
    Whatever only the residuals needed goes with them: in SPyNet (Ranjan and Black, CVPR 2017) each level
    costs four times the next coarser one, so the finest alone is three quarters of the network.

    Refused: sums of an upsampled flow with something that no convolution made, or that isn't estimated from
    it; a pyramid with fewer refinements than `levels`. The coarsest level's own estimate always stays.

    Levels left out are marked in the graph and counted in: run again the pass changes nothing, and with more
    `levels` it leaves out the difference.

    Attributes:
        levels: finest refinements to leave out, 1 or more.
        budget_db: largest loss of luma PSNR in dB over the clip that the model is compiled with.
    """

    name: ClassVar[str] = "truncate-flow-levels"
    budget: ClassVar[QualityBudget] = BUDGET
    levels: int = 1
    budget_db: float = BUDGET_DB

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.levels < 1:
            raise BadInputError(f"{self.name}: levels={self.levels}: write how many to leave out, 1 or more")

    def rules(self, graph: ir.Model) -> tuple[list[Rule], list[Site]]:
        """See the class."""
        finest, refused = refinements(graph)
        chosen = []
        for pyramid in finest:
            levels, gone = pyramid.levels, left_out(pyramid.flow)
            if gone + len(levels) < self.levels:
                it_has = f"levels={self.levels}: it has {gone + len(levels)}"
                refused.append(Site(str(pyramid.node.name), it_has))
            else:
                chosen += levels[: max(0, self.levels - gone)]
        return [Unrefined(chosen)] if chosen else [], refused
