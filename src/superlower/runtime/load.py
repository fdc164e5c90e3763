"""A runner from a bundle's engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from superlower.backends.base import Artifact, Session
from superlower.bundle.bundle import Bundle, OpenedPlan
from superlower.bundle.manifest import Variant
from superlower.program.plan import ExecutionPlan
from superlower.runtime.runner import Batch, Engine, Runner


@contextmanager
def open_runner(bundle: Bundle, variant: Variant, *, in_flight: int = 1) -> Iterator[Runner]:
    """Load a variant's engines for the length of a block.

    Args:
        bundle: found whole by `Bundle.open`.
        variant: one of its variants, fit for this machine.
        in_flight: calls that may run at the same time.
    """
    with open_runners(bundle, variant, 1, in_flight=in_flight) as runners:
        yield runners[0]


@contextmanager
def open_runners(
    bundle: Bundle, variant: Variant, count: int, *, in_flight: int = 1
) -> Iterator[list[Runner]]:
    """Load a variant's engines once, for several clips side by side. Engines that keep states take only one.

    Args: as of `open_runner`; `count` runners.
    """
    with bundle.opened(variant) as sessions:
        plan = ExecutionPlan(in_flight=in_flight)
        yield [
            planned_runner(OpenedPlan(plan, bundle.program, variant.engines, sessions, {}))
            for _ in range(count)
        ]


@contextmanager
def open_planned(bundle: Bundle, variant: Variant, *, in_flight: int | None = None) -> Iterator[Runner]:
    """Load what a variant's plan runs, for the length of a block; its own engines if it has no plan.

    Args:
        in_flight: instead of the plan's own.
    """
    with bundle.opened_plan(variant) as opened:
        yield planned_runner(opened, in_flight)


def planned_runner(opened: OpenedPlan, in_flight: int | None = None) -> Runner:
    """A runner that follows a plan."""
    return Runner(
        opened.program,
        _engines(opened.engines, opened.sessions),
        in_flight=opened.plan.in_flight if in_flight is None else in_flight,
        batches={g: Batch(opened.plan.batch[g], session) for g, session in opened.batched.items()},
    )


def _engines(artifacts: Mapping[str, Artifact], sessions: Mapping[str, Session]) -> dict[str, Engine]:
    return {
        graph: Engine(session, {given: made for made, given in artifacts[graph].stateful})
        for graph, session in sessions.items()
    }
