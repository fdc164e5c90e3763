"""Applying program passes, each validated over a clip."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superlower.errors import OutputsDifferError
from superlower.passes._evaluate import prepare
from superlower.passes.base import Applied, Budget
from superlower.passes.pipelines import count
from superlower.passes.validate import Deviation, compare
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.rewrites.base import ProgramPass

Array = NDArray[np.generic]


@dataclass(frozen=True)
class ProgramReport:
    """What one pass did to a model, and what validation found.

    Attributes:
        name: the pass.
        before, after: operator -> number of nodes of all graphs.
        applied: equations rewritten and refused.
        deviation: how far the output stream moved; None where nothing was validated (no frames).
        budget: what it was held to.
        seconds: the rewrite's time, validation aside.
        options: the pass's options.
    """

    name: str
    before: dict[str, int]
    after: dict[str, int]
    applied: Applied
    deviation: Deviation | None
    budget: Budget
    seconds: float
    options: dict[str, object]


def apply(
    model: TemporalModel,
    passes: Sequence[ProgramPass],
    frames: Sequence[Array] = (),
    on_pass: Callable[[ProgramReport], None] | None = None,
) -> tuple[TemporalModel, list[ProgramReport]]:
    """Run the passes on a model, each validated over the clip by the naive interpreter (none: no validation).

    A pass that changed nothing costs no run of the clip. Edges show at a clip's ends, so a clip should be
    longer than the equations' offsets reach together: `superlower.program.legality.horizon` frames show all.

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
        if len(frames) and result.applied.changed:
            outputs = outputs_of(model, frames) if outputs is None else outputs
            now = outputs_of(result.model, frames)
            site = f"pass {one.name} on program '{model.program.name}'"
            deviation = compare(_named(model, outputs), _named(model, now), one.budget, site)
            outputs = now
        before, after = _nodes(model), _nodes(result.model)
        report = ProgramReport(
            one.name, before, after, result.applied, deviation, one.budget, seconds, one.options()
        )
        model = result.model
        reports.append(report)
        if on_pass is not None:
            on_pass(report)
    return model, reports


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
