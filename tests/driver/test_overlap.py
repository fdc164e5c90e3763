"""Items come in order and errors where they belong, whichever thread makes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from superlower.driver.overlap import Behind, ahead


def test_items_come_in_order_and_few_are_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    with ahead(items(), 2) as found:
        for i in range(20):
            assert next(found) == i
            # Two wait, and one more is at the door.
            assert len(made) <= i + 4
        assert next(found, None) is None


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    with ahead(items()) as found:
        assert next(found) == 1
        with pytest.raises(ValueError, match="damaged"):
            next(found)


def test_leaving_early_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        while True:
            yield 0

    with ahead(items()) as found:
        next(found)
    assert not [t for t in threading.enumerate() if t.name == "superlower-ahead"]


def test_calls_run_in_order_behind() -> None:
    done: list[int] = []
    with Behind() as behind:
        for i in range(10):
            behind.do(lambda i=i: done.append(i))  # type: ignore[misc]
    assert done == list(range(10))


def test_a_failed_call_ends_the_rest() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("disk full")

    def run() -> None:
        with Behind(1) as behind:
            behind.do(fail)
            for i in range(5):
                behind.do(lambda i=i: done.append(i))  # type: ignore[misc]

    with pytest.raises(OSError, match="disk full"):
        run()
    assert done == []


def test_what_hasnt_begun_is_dropped_on_an_error() -> None:
    done: list[int] = []

    def run() -> None:
        with Behind(8) as behind:
            behind.do(lambda: time.sleep(0.2))
            for i in range(5):
                behind.do(lambda i=i: done.append(i))  # type: ignore[misc]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == []
