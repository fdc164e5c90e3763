"""What loaded engines share: feeds are checked, and calls go to a pool of runners."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import LifoQueue
from sys import getrefcount

import numpy as np

from superlower.backends.base import Array, Feeds, Outputs
from superlower.errors import BadInputError, unknown_name

Runner = Callable[[Feeds], Outputs]
"""Runs an engine once and waits; never called from two threads at a time."""


@dataclass(frozen=True)
class Port:
    """Type and shape of an engine's input; a size of -1 takes any."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def takes(self, array: Array) -> bool:
        """Whether the array may be fed here."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(want in (-1, have) for want, have in zip(self.shape, array.shape, strict=True))
        )


def check_feeds(ports: Mapping[str, Port], feeds: Feeds) -> None:
    """Compare feeds with an engine's inputs.

    Raises:
        BadInputError: one is absent, unknown, or of another type or shape.
    """
    for name, array in feeds.items():
        if name not in ports:
            raise unknown_name("engine input", name, ports)
        port = ports[name]
        if not port.takes(array):
            raise BadInputError(
                f"engine input '{name}' takes {port.dtype} {list(port.shape)}, "
                f"not {array.dtype} {list(array.shape)}"
            )
    if absent := sorted(ports.keys() - feeds.keys()):
        raise BadInputError(f"engine input '{absent[0]}' is not fed")


SPARE = 2
"""Arrays that nobody holds and that are kept all the same."""


class Recycled:
    """Arrays of one kind, each given out again once nobody holds it or a view of it.

    What the caller gets is its own as long as it is held; memory that was let go is used again, which spares
    the copy out of an SDK's own buffer and the system's fresh pages.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._shape, self._dtype = shape, dtype
        self._made: list[Array] = []
        # Counted the way `take` counts, of an array that only a list holds.
        alone = [np.empty(0)]
        self._unheld = getrefcount(alone[0])

    def take(self) -> Array:
        """An array that nobody else holds; its content is of no meaning. Not for two threads at a time."""
        free = [k for k in range(len(self._made)) if getrefcount(self._made[k]) == self._unheld]
        for k in reversed(free[SPARE:]):
            del self._made[k]
        if free:
            return self._made[free[0]]
        self._made.append(np.empty(self._shape, self._dtype))
        return self._made[-1]


class PooledSession:
    """A session over one or more runners: as many calls may be in flight as there are runners.

    Calls start in the order they were submitted; over one runner (an engine that keeps states) they also run
    in it.
    """

    def __init__(
        self,
        inputs: Mapping[str, Port],
        runners: Sequence[Runner],
        *,
        reset: Callable[[], None] | None = None,
    ) -> None:
        self._inputs = dict(inputs)
        # The last one back is the next one out: those that a run doesn't need never touch their memory.
        self._idle: LifoQueue[Runner] = LifoQueue()
        for runner in runners:
            self._idle.put(runner)
        self._forget = reset
        self._pool = ThreadPoolExecutor(len(runners), thread_name_prefix="superlower")

    def run(self, feeds: Feeds) -> Outputs:
        """Run once and wait."""
        return self.submit(feeds).result()

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start a run. The fed arrays must not change until it is done.

        Raises:
            BadInputError: feeds that don't fit the engine.
        """
        check_feeds(self._inputs, feeds)
        return self._pool.submit(self._run, dict(feeds))

    def _run(self, feeds: Feeds) -> Outputs:
        runner = self._idle.get()
        try:
            return runner(feeds)
        finally:
            self._idle.put(runner)

    def reset(self) -> None:
        """Forget states kept inside the engine, after the runs already submitted."""
        if self._forget is not None:
            self._pool.submit(self._forget).result()

    def close(self) -> None:
        """Wait for the runs in flight, then release the engine."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._idle = LifoQueue()
        self._forget = None
