"""Work beside the main thread's: items made ahead of their use, results dealt with behind it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Full, Queue
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 2
"""Items that may wait on either side: one being used, one being made."""

_WAIT_S = 0.1


@contextmanager
def ahead(items: Iterable[Item], depth: int = DEPTH) -> Iterator[Iterator[Item]]:
    """The items, made by a thread of their own, at most `depth` before they are asked for.

    What the thread raises is raised where the item would have come. At the block's end the thread has ended.
    """
    ready: Queue[tuple[bool, object]] = Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, object]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=_WAIT_S)
            except Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    def taken() -> Iterator[Item]:
        while True:
            there, item = ready.get()
            if there:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return

    thread = threading.Thread(target=make, name="superlower-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()


class Behind:
    """Runs calls in order in a thread of its own, at most `depth` of them behind.

    What a call raises is raised by a later `do`, or at the block's end; calls after it don't run. When the
    block ends by an exception, calls that haven't begun are dropped.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="superlower-behind")
        self._running: deque[Future[None]] = deque()

    def do(self, call: Callable[[], None]) -> None:
        """Start the call once there is room."""
        while len(self._running) >= self._depth:
            self._running.popleft().result()
        self._running.append(self._pool.submit(call))

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            while kind is None and self._running:
                self._running.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
