"""What groups of nodes save at each type: timed where the target runs, else estimated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import onnx_ir as ir

from superlower.driver.closed_loop import ClosedLoop
from superlower.driver.precisions import Option, Types, types_of
from superlower.driver.progress import Progress
from superlower.driver.roofline import NodeCost, calls_per_frame, figures, graph_cost
from superlower.driver.speed import take_turns
from superlower.errors import BadInputError
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target

ROUNDS = 5

Saving = Mapping[tuple[str, Precision], float]
"""(Group, type) -> seconds a frame less than in fp32; 0 at fp32, negative if slower."""


@dataclass(frozen=True)
class Times:
    """What types save.

    Attributes:
        saving: by group and type.
        measured: whether engines were timed; if not, it is a bound by the target's peaks.
        rounds: each engine was timed so many times, in turns.
    """

    saving: Saving
    measured: bool
    rounds: int = 0


def measured_times(
    options: Mapping[str, Sequence[Option]],
    model: TemporalModel,
    frames: int,
    typed: Callable[[Types], TemporalModel],
    loop: ClosedLoop,
    progress: Progress,
) -> Times:
    """Time engines with one group's type changed beside those with none changed, in turns.

    The rest of a graph is of the fewest bits that it may take: what a type costs in conversions depends on
    its neighbours', and low types are what most will have. Calls are those of the clip that ran last.

    Args:
        options: by group, of which the first is the one of fewest bits.
        frames: of the clip that calls are counted over.
        typed: the model at given types.
        loop: that has run the clip.
    """
    lowest = {name: found[0] for name, found in options.items()}
    base = typed(types_of(list(lowest.values())))
    variants = {
        (name, option.precision): typed(types_of([*(o for n, o in lowest.items() if n != name), option]))
        for name, found in options.items()
        for option in found[1:]
    }
    progress.stage("building engines to time", len(variants) + 1)
    seconds = dict.fromkeys(variants, 0.0)
    for built in (base, *variants.values()):
        for found in built.graphs.values():
            loop.engine(found)
        progress.advance()
    calls = calls_per_frame(model.program, frames)
    for graph, often in calls.items():
        changed = {
            key: variant.graphs[graph]
            for key, variant in variants.items()
            if variant.graphs[graph] is not base.graphs[graph]
        }
        if not changed or graph not in loop.feeds:
            continue
        own = engine_times(loop, {"": base.graphs[graph], **_named(changed)}, graph, progress)
        for key, name in zip(changed, _named(changed), strict=True):
            ratios = [b - a for a, b in zip(own[""], own[name], strict=True)]
            seconds[key] += often * median(ratios)
    saving: dict[tuple[str, Precision], float] = {}
    for name, offered in options.items():
        slower = {o.precision: seconds.get((name, o.precision), 0.0) for o in offered}
        saving |= {(name, p): slower[Precision.FP32] - more for p, more in slower.items()}
    return Times(saving, measured=True, rounds=ROUNDS)


def engine_times(
    loop: ClosedLoop, graphs: Mapping[str, ir.Model], graph: str, progress: Progress, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of calls of several engines of one graph, in turns, round by round.

    Args:
        graphs: by any name.
        graph: theirs, whose last call in the clip is repeated.
    """
    feeds = loop.feeds[graph]

    def lap(engine: ir.Model) -> float:
        _, session = loop.engine(engine)
        began = time.perf_counter()
        session.run(feeds)
        return time.perf_counter() - began

    return take_turns(
        {name: (lambda e=engine: lap(e)) for name, engine in graphs.items()},  # type: ignore[misc]
        rounds=rounds,
        progress=progress,
    )


def _named(variants: Mapping[tuple[str, Precision], ir.Model]) -> dict[str, ir.Model]:
    return {f"{name} in {precision}": graph for (name, precision), graph in variants.items()}


def estimated_times(
    options: Mapping[str, Sequence[Option]], model: TemporalModel, frames: int, target: Target
) -> Times:
    """Bounds: each node's operations by the target's peak at a type, or its bytes by the bandwidth.

    Raises:
        BadInputError: the catalogue lacks the target's figures at a type that may be chosen.
    """
    calls = calls_per_frame(model.program, frames)
    costs = {
        graph: {cost.node: cost for cost in graph_cost(found).nodes} for graph, found in model.graphs.items()
    }
    saving: dict[tuple[str, Precision], float] = {}
    for name, found in options.items():
        for option in found:
            saved = 0.0
            for graph, types in option.types.items():
                saved += calls.get(graph, 0.0) * sum(
                    _least(costs[graph][node], target, Precision.FP32) - _least(costs[graph][node], target, p)
                    for node, p in types.items()
                )
            saving[name, option.precision] = saved
    return Times(saving, measured=False)


def without_figures(target: Target, precisions: Sequence[Precision]) -> dict[Precision, str]:
    """Types whose speed on a target can't be estimated, and why."""
    return {
        p: f"no peak of {target.name} at {p} is known, and it isn't here to be timed"
        for p in precisions
        if figures(target, p) is None
    }


def _least(cost: NodeCost, target: Target, precision: Precision) -> float:
    known = figures(target, precision)
    if known is None:
        raise BadInputError(f"the catalogue has no peak and bandwidth of {target.name} at {precision}")
    rate, bandwidth = known
    return max(cost.total / rate, cost.moved.nbytes(precision) / bandwidth)
