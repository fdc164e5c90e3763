"""Applying program passes, each validated over a clip."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superlower.errors import OutputsDifferError
from superlower.metrics.loss import ASSUMED_DB, QualityLoss, quality_loss
from superlower.metrics.psnr import Image
from superlower.passes._evaluate import prepare
from superlower.passes.base import Applied, Budget, QualityBudget
from superlower.passes.pipelines import count
from superlower.passes.validate import Deviation, compare
from superlower.program.interpret import interpret
from superlower.program.model import Frame, TemporalModel
from superlower.rewrites.base import ProgramPass

Array = NDArray[np.generic]

UNBOUNDED = Budget(float("inf"), "held to a budget of quality instead")


@dataclass(frozen=True)
class ProgramReport:
    """What one pass did to a model, and what validation found.

    Attributes:
        name: the pass.
        before, after: operator -> number of nodes of all graphs.
        applied: equations rewritten and refused.
        deviation: how far the output stream moved; None where nothing was validated (no frames).
        loss: of quality, where the budget is one of quality and the pass changed something.
        budget: what it was held to.
        seconds: the rewrite's time, validation aside.
        options: the pass's options.
    """

    name: str
    before: dict[str, int]
    after: dict[str, int]
    applied: Applied
    deviation: Deviation | None
    budget: Budget | QualityBudget
    seconds: float
    options: dict[str, object]
    loss: QualityLoss | None = None


def apply(
    model: TemporalModel,
    passes: Sequence[ProgramPass],
    frames: Sequence[Array] = (),
    on_pass: Callable[[ProgramReport], None] | None = None,
    truth: Sequence[Image] = (),
) -> tuple[TemporalModel, list[ProgramReport]]:
    """Run the passes on a model, each validated over the clip by the naive interpreter (none: no validation).

    A pass that changed nothing costs no run of the clip. Edges show at a clip's ends, so a clip should be
    longer than the equations' offsets reach together: `superlower.program.legality.horizon` frames show all.

    Args:
        truth: what the output should be, uint8 [scale * H, scale * W, 3] a frame, if known: passes with a
            budget of quality are then held to what they lose against it.

    Raises:
        OutputsDifferError: a pass left its budget.
    """
    reports: list[ProgramReport] = []
    outputs: list[Array] | None = None
    for one in passes:
        start = time.perf_counter()
        result = one.run(model)
        seconds = time.perf_counter() - start
        deviation = Deviation() if len(frames) else None
        loss = None
        if len(frames) and result.applied.changed:
            outputs = outputs_of(model, frames) if outputs is None else outputs
            now = outputs_of(result.model, frames)
            site = f"pass {one.name} on program '{model.program.name}'"
            limit = one.budget if isinstance(one.budget, Budget) else UNBOUNDED
            deviation = compare(_named(model, outputs), _named(model, now), limit, site)
            if isinstance(one.budget, QualityBudget):
                loss = hold(outputs, now, model.program.frame, one.budget, site, truth)
            outputs = now
        before, after = _nodes(model), _nodes(result.model)
        report = ProgramReport(
            one.name, before, after, result.applied, deviation, one.budget, seconds, one.options(), loss
        )
        model = result.model
        reports.append(report)
        if on_pass is not None:
            on_pass(report)
    return model, reports


def hold(
    before: Sequence[Array],
    after: Sequence[Array],
    frame: Frame,
    budget: QualityBudget,
    site: str,
    truth: Sequence[Image] = (),
) -> QualityLoss:
    """Hold a clip's loss of quality to a budget; the loss.

    Args:
        before, after: the output stream over the clip.
        frame: its contract.
        budget: the largest mean loss.
        site: what messages begin with: which pass, on what.
        truth: as for `apply`.

    Raises:
        OutputsDifferError: over the budget, or an output isn't finite.
    """
    try:
        loss = quality_loss(before, after, frame, truth)
    except OutputsDifferError as error:
        raise OutputsDifferError(f"{site}: {error}: leave it out and report it") from None
    if loss.db > budget.db:
        against = (
            f"{loss.before_db:.2f} to {loss.after_db:.2f} dB against the ground truth"
            if truth
            else f"as a change of {loss.psnr_db:.1f} dB does to a model that scores {ASSUMED_DB:.0f} dB, for "
            f"want of a ground truth"
        )
        raise OutputsDifferError(
            f"{site} costs {loss.db:.3f} dB of PSNR ({against}), over its budget of {budget.db:g}: "
            f"change less by its options, allow more (budget_db), or leave it out"
        )
    return loss


def outputs_of(model: TemporalModel, frames: Sequence[Array]) -> list[Array]:
    """The output stream over a clip, by the naive interpreter and ONNX Runtime without its optimisations.

    Raises:
        OutputsDifferError: ONNX Runtime refuses a graph.
    """
    functions: dict[str, Callable[[Mapping[str, Array]], dict[str, Array]]] = {}
    for name, graph in model.graphs.items():
        try:
            functions[name] = prepare(graph)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise OutputsDifferError(
                f"graph {name} of {model.program.name} can't be run: {reason}"
            ) from error
    return interpret(model.program, frames, lambda graph, feeds: functions[graph](feeds))


def _named(model: TemporalModel, outputs: Sequence[Array]) -> list[dict[str, Array]]:
    return [{f"{model.program.output}[{t}]": output} for t, output in enumerate(outputs)]


def _nodes(model: TemporalModel) -> dict[str, int]:
    total: Counter[str] = Counter()
    for graph in model.graphs.values():
        total.update(count(graph))
    return dict(total.most_common())
