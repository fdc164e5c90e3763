"""A runner from a bundle's engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.runtime.runner import Engine, Runner


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
        engines = {
            graph: Engine(session, {given: made for made, given in variant.engines[graph].stateful})
            for graph, session in sessions.items()
        }
        yield [Runner(bundle.program, engines, in_flight=in_flight) for _ in range(count)]
