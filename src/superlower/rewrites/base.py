"""What a program pass is: one named rewrite of a temporal model, equations and graphs together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

from superlower.passes.base import EXACT, Applied, Budget, QualityBudget
from superlower.program.model import TemporalModel


@dataclass(frozen=True)
class Rewritten:
    """A model, and what a pass did to make it: sites are named after equations."""

    model: TemporalModel
    applied: Applied


@dataclass(frozen=True)
class ProgramPass(ABC):
    """One rewrite of a temporal model. The dataclass fields are its options.

    As `superlower.passes.base.Pass` for a graph: a frozen dataclass in a module of its own, whose docstring
    shows before -> after and every condition.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[type[ProgramPass], ...]] = ()
    """Program passes that should come earlier where both run."""
    budget: ClassVar[Budget | QualityBudget] = EXACT

    @abstractmethod
    def run(self, model: TemporalModel) -> Rewritten:
        """The rewritten model; `model` itself is left as it is, and given back if there is nothing to do."""

    def missing(self) -> str | None:
        """Why the pass can't run here, with the install command; None if it can."""
        return None

    def options(self) -> dict[str, object]:
        """Option names and values, as recorded in manifests."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
