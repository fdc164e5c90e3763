"""What a pass is: one named rewrite of an ONNX graph, with its error budget and an account of what it did."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import ClassVar

import onnx_ir as ir


@dataclass(frozen=True)
class Budget:
    """How far a pass may move a graph's outputs, as validation measures it.

    Attributes:
        relative: largest |after - before| over an output, divided by the largest |before| in it (at least 1).
        reason: where the number comes from.
    """

    relative: float
    reason: str


@dataclass(frozen=True)
class QualityBudget:
    """How much quality of the picture a pass that changes results may cost, as measured over a clip.

    The whole program runs over the clip, closed loop, before and after: a recurrent network re-reads its own
    error, which no graph by itself shows. `superlower.metrics.loss` says how the loss is measured.

    Attributes:
        db: largest loss of luma PSNR in dB, mean over the clip's frames.
        reason: where the number comes from.
    """

    db: float
    reason: str


EXACT = Budget(0.0, "the same arithmetic on the same values")


@dataclass(frozen=True)
class Site:
    """One place in a graph: the node's name, and what was done or why nothing was."""

    node: str
    detail: str


@dataclass(frozen=True)
class Applied:
    """What one run of a pass did to one graph.

    Attributes:
        rewritten: sites changed.
        refused: sites a reader would expect to be, and why they weren't.
        kept: sites looked at and left as they are for a reason.
    """

    rewritten: tuple[Site, ...] = ()
    refused: tuple[Site, ...] = ()
    kept: tuple[Site, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the graph is another one than before."""
        return bool(self.rewritten)


@dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """One rewrite. The dataclass fields are its options, on the command line too (`--set pass.field=value`).

    A subclass is a frozen dataclass in a module of its own named after the pass, whose docstring shows
    before -> after and every condition.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[type[Pass], ...]] = ()
    """Passes that must come earlier in any pipeline that holds both; checked when a pipeline is built."""
    budget: ClassVar[Budget] = EXACT

    @abstractmethod
    def run(self, model: ir.Model) -> Applied:
        """Rewrite `model` in place. A site that matches but can't be rewritten is refused with a reason."""

    def sparing(self, nodes: Collection[str]) -> Pass | None:
        """The pass that leaves these sites as they are; None if what it rewrites has to be.

        For passes that choose what is fastest and no more. Where the sites together leave the budget, `apply`
        asks for this with those whose roundings the rest of the graph amplifies most.

        Args:
            nodes: names of sites.
        """
        return None

    def missing(self) -> str | None:
        """Why the pass can't run here, with the install command; None if it can."""
        return None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The onnx-ir pass protocol, so that passes compose with onnx-ir's own."""
        return ir.passes.PassResult(model, modified=self.run(model).changed)

    def options(self) -> dict[str, object]:
        """Option names and values, as recorded in manifests."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
