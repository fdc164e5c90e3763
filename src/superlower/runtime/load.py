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
    with bundle.opened(variant) as sessions:
        engines = {
            graph: Engine(session, {given: made for made, given in variant.engines[graph].stateful})
            for graph, session in sessions.items()
        }
        yield Runner(bundle.program, engines, in_flight=in_flight)
