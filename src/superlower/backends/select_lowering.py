"""Warps and deformable convolutions as each backend is best at them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from superlower.backends.lowerings import order_for, stored
from superlower.backends.tables import architecture
from superlower.passes._rules import label
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.forms import GATHERED, NATIVE, Choice, Chooser, lower_each
from superlower.passes.guard_grid_sample import GuardGridSample
from superlower.probes.key import key_of
from superlower.targets.base import Precision, Target


@dataclass(frozen=True)
class SelectLowering(Pass):
    """Give each warp and deformable convolution the form that is right on a backend, and fastest there.

    ::

        GridSample   ->  itself; padding_mode border as a clamp of the grid and zeros; gathers in two layouts
        DeformConv   ->  itself; one GridSample and a 1x1 convolution; gathers and a matrix product

    By node: its operator's definition, type, mode, padding, alignment, mask and groups. What was measured in
    `lowerings.json` decides where the backend could be run, and a rule where it couldn't; each site says
    which. A form that a node can't take gives way to the next. Where a backend takes a node as it is, its
    form is a choice of speed: should all forms together leave the budget, as they do where samples are flows
    of further samples, nodes are spared until they don't (see `superlower.passes.pipelines.apply`).

    Attributes:
        backend: whose forms; "" chooses none.
        target: its architecture where it has one ("sm_86"), else its kind ("cpu").
        kind: the target's kind.
        gathers: whether forms without a sampler may be chosen. Not before `convert-precision`, which finds
            what must stay in fp32 by the samplers.
    """

    name: ClassVar[str] = "select-lowering"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants, GuardGridSample)
    budget: ClassVar[Budget] = Budget(
        1e-3,
        "that of each form: positions within 2 roundings of 2^-24 W of where they were, 2.3e-4 px at W = "
        "1920, and 1 px moves a bilinear sample by at most twice the largest value",
    )
    backend: str = ""
    target: str = "cpu"
    kind: str = "cpu"
    gathers: bool = True
    spare: tuple[str, ...] = ()

    @classmethod
    def of(cls, backend: str, target: Target, *, gathers: bool = True) -> SelectLowering:
        """The pass for a backend and target."""
        return cls(backend, architecture(target), target.kind, gathers)

    def sparing(self, nodes: Collection[str]) -> SelectLowering:
        """See the base class; nodes that a backend doesn't take as they are get their form all the same."""
        return replace(self, spare=tuple(nodes))

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return lower_each(model, self._chooser(model)) if self.backend else Applied()

    def _chooser(self, model: ir.Model) -> Chooser:
        opset = model.opset_imports[""]

        def choose(node: ir.Node) -> list[Choice]:
            orders = stored().orders
            order, why = order_for(key_of(node, opset), self.backend, self.target, self.kind, orders)
            if label(node) in self.spare and NATIVE in order.forms:
                return []
            forms = [form for form in order.forms if self.gathers or form not in GATHERED]
            return [
                Choice(form, why if form == order.forms[0] else f"{order.forms[0]} can't be taken here")
                for form in forms
            ]

        return choose


def legal_passes(
    backend: str, target: Target, precision: Precision, typing: Sequence[Pass] = ()
) -> tuple[Pass, ...]:
    """What every backend legalizes warps and deformable convolutions by.

    They are lowered before the graph is typed, so that a deformable convolution's product is typed with the
    rest, and while coordinates can still be told by their samplers.

    Args:
        backend: its name.
        target: compiled for.
        precision: of the engine; bf16 and mixed types are given to the graph after these passes.
        typing: passes that give the graph its types.
    """
    guard = GuardGridSample()
    typed_later = bool(typing) or precision in (Precision.BF16, Precision.MIXED)
    lowered = (guard, SelectLowering.of(backend, target, gathers=not typed_later))
    return (*lowered, *typing, guard) if typing else lowered
