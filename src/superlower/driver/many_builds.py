"""Builds one after another, or several at a time: each is a process of its own, and a thread waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from superlower.backends.process import stop_children
from superlower.driver.engine_cache import EngineCache
from superlower.errors import SuperlowerError

Key = TypeVar("Key")
Built = TypeVar("Built")

_POLL_S = 0.2


@dataclass(frozen=True)
class Builds:
    """How the builds of a compile are made.

    Attributes:
        at_once: so many at a time.
        cache: of engines built before; None for none.
    """

    at_once: int = 1
    cache: EngineCache | None = None


def make(
    tasks: Mapping[Key, Callable[[], Built]],
    at_once: int,
    *,
    keep_going: bool,
    on_done: Callable[[Key], None] = lambda _: None,
) -> dict[Key, Built | SuperlowerError]:
    """What each task gives, or the error it ended with, in the order of the tasks.

    Args:
        tasks: each makes one thing; of several at a time, all but this thread's are run in threads.
        at_once: so many at a time.
        keep_going: go on after a failure; else the first one to happen ends the others' processes.
        on_done: told of each as it is done, in this thread.

    Raises:
        SuperlowerError: a task's, unless `keep_going`.
    """
    if at_once == 1 or len(tasks) < 2:
        made: dict[Key, Built | SuperlowerError] = {}
        for key, task in tasks.items():
            try:
                made[key] = task()
            except SuperlowerError as error:
                if not keep_going:
                    raise
                made[key] = error
            on_done(key)
        return made
    with ThreadPoolExecutor(min(at_once, len(tasks)), thread_name_prefix="build") as pool:
        futures: dict[Future[Built], Key] = {pool.submit(task): key for key, task in tasks.items()}
        try:
            return _gathered(futures, keep_going, on_done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Again and again: a thread between two steps starts its process only now.
            while not all(future.done() for future in futures):
                stop_children()
                time.sleep(_POLL_S)
            raise


def _gathered(
    futures: Mapping[Future[Built], Key], keep_going: bool, on_done: Callable[[Key], None]
) -> dict[Key, Built | SuperlowerError]:
    made: dict[Key, Built | SuperlowerError] = {}
    waiting = set(futures)
    while waiting:
        # With a time-out: a Ctrl-C reaches a thread that waits for a lock only when the wait ends.
        done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                made[futures[future]] = future.result()
            except SuperlowerError as error:
                if not keep_going:
                    raise
                made[futures[future]] = error
            on_done(futures[future])
    return {key: made[key] for key in futures.values()}
