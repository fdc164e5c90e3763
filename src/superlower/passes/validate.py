"""Translation validation: a graph before and after a pass, on the same inputs, against the pass's budget."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.errors import BadInputError, OutputsDifferError
from superlower.passes._evaluate import evaluate
from superlower.passes.base import Budget
from superlower.program.routes import flips_accepted

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]
Outputs = Mapping[str, Array]

FLOW_PIXELS = 2.0
"""Standard deviation of seeded flows: a few pixels, as between frames of ordinary video."""

STATE_SPREAD = 0.5
"""Standard deviation of seeded hidden states."""


@dataclass(frozen=True)
class Deviation:
    """How far outputs moved, at the worst of all feeds.

    Attributes:
        relative: largest over outputs of |after - before| / max(1, largest |before|).
        absolute: largest |after - before| of that output.
        tensor: the output's name; empty if nothing moved.
    """

    relative: float = 0.0
    absolute: float = 0.0
    tensor: str = ""

    def __str__(self) -> str:
        """As messages have it."""
        return f"output '{self.tensor}' by {self.relative:.3g} of its range (absolute {self.absolute:.3g})"


def validate(
    before: ir.Model, after: ir.Model, budget: Budget, feeds: Sequence[Feeds], *, pass_name: str
) -> Deviation:
    """Run both models on every feed and hold the difference to the budget.

    Both run in ONNX Runtime on the CPU with graph optimisations off, so that the graphs are compared, not
    two walks through an optimiser; a budget of 0 then asks for equal values, element by element.

    Raises:
        OutputsDifferError: an output is over the budget or of another shape; pass and tensor are named.
    """
    references = [evaluate(before, feed) for feed in feeds]
    return compare(references, outputs_of(after, feeds, pass_name), budget, where(pass_name, after))


def outputs_of(model: ir.Model, feeds: Sequence[Feeds], pass_name: str) -> list[dict[str, Array]]:
    """The model's outputs on every feed.

    Raises:
        OutputsDifferError: ONNX Runtime refuses the model that the pass made.
    """
    try:
        return [evaluate(model, feed) for feed in feeds]
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise OutputsDifferError(f"{where(pass_name, model)}: it can't be run: {reason}") from error


def compare(before: Sequence[Outputs], after: Sequence[Outputs], budget: Budget, site: str) -> Deviation:
    """The deviation between outputs already computed, one mapping a feed.

    Raises:
        OutputsDifferError: as in `validate`; the message begins with `site`.
    """
    found = measure(before, after, budget, site)
    hold(found, budget, site)
    return found


def measure(before: Sequence[Outputs], after: Sequence[Outputs], budget: Budget, site: str) -> Deviation:
    """The deviation between outputs already computed, whether it is within the budget or not.

    Raises:
        OutputsDifferError: outputs are others, or of other shapes.
    """
    worst = Deviation()
    for old, new in zip(before, after, strict=True):
        if old.keys() != new.keys():
            raise OutputsDifferError(f"{site} changed the outputs from {sorted(old)} to {sorted(new)}")
        for name, reference in old.items():
            found = _deviation(name, reference, new[name], site, budget)
            worst = max(worst, found, key=lambda d: d.relative)
    return worst


def hold(found: Deviation, budget: Budget, site: str) -> None:
    """See that a deviation is within the budget.

    Raises:
        OutputsDifferError: it isn't; the message begins with `site`.
    """
    if found.relative > budget.relative:
        raise OutputsDifferError(
            f"{site} moved {found}, over its budget of {budget.relative:.3g}: leave it out and report it"
        )


def where(pass_name: str, model: ir.Model) -> str:
    """How messages name a pass on a graph."""
    return f"pass {pass_name} on graph '{model.graph.name or 'unnamed'}'"


def _deviation(name: str, before: Array, after: Array, site: str, budget: Budget) -> Deviation:
    if before.shape != after.shape:
        raise OutputsDifferError(f"{site} changed the shape of '{name}' from {before.shape} to {after.shape}")
    if not np.issubdtype(before.dtype, np.floating):
        # A route's choices: what moves a score by the budget may flip a few.
        flips = np.count_nonzero(before != after)
        few = flips <= flips_accepted(before.size, budget.relative)
        return Deviation() if few else Deviation(np.inf, np.inf, name)
    old, new = before.astype(np.float64), after.astype(np.float64)
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    if same.all():
        return Deviation()
    with np.errstate(invalid="ignore"):
        absolute = float(np.max(np.where(same, 0.0, np.abs(new - old))))
    if not np.isfinite(absolute):
        return Deviation(np.inf, np.inf, name)
    return Deviation(absolute / max(1.0, float(np.abs(old).max())), absolute, name)


def seeded_feeds(model: ir.Model, seed: int) -> dict[str, Array]:
    """Inputs like those of a video; each depends on the seed, its name and its shape alone.

    - frames ([N, 1 or 3, H, W]): uniform noise in 0..1, steeper than any image: what warps find hardest;
    - flows ([N, 2, H, W], or "flow" in the name): normal, `FLOW_PIXELS` pixels;
    - all else (hidden states): normal, `STATE_SPREAD`;
    - integers: zeros.

    Raises:
        BadInputError: an input's sizes aren't static.
    """
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        name = str(value.name)
        if name in model.graph.initializers:
            continue
        shape = value.shape
        if shape is None or not shape.is_static() or value.dtype is None:
            raise BadInputError(
                f"input '{name}' of graph '{model.graph.name}' has no static shape: export at one size"
            )
        sizes = tuple(int(str(d)) for d in shape)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        channels = sizes[1] if len(sizes) == 4 else 0
        if not value.dtype.is_floating_point():
            array: Array = np.zeros(sizes)
        elif channels == 2 or "flow" in name.lower():
            array = rng.standard_normal(sizes) * FLOW_PIXELS
        elif channels in (1, 3):
            array = rng.random(sizes)
        else:
            array = rng.standard_normal(sizes) * STATE_SPREAD
        feeds[name] = array.astype(value.dtype.numpy())
    return feeds
