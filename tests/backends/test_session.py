"""Sessions over a pool of runners."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from superlower.backends.base import Feeds, Outputs
from superlower.backends.session import SPARE, PooledSession, Port, Recycled, check_feeds
from superlower.errors import BadInputError

PORTS = {"x": Port(np.dtype(np.float32), (1, 3)), "n": Port(np.dtype(np.int64), (-1,))}
GOOD = {"x": np.zeros((1, 3), np.float32), "n": np.zeros(7, np.int64)}


def test_feeds_that_fit_pass() -> None:
    check_feeds(PORTS, GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((1, 3))}, r"'x' takes float32 \[1, 3\], not float64 \[1, 3\]"),
        ({"x": np.zeros((3, 1), np.float32)}, r"'x' takes float32 \[1, 3\], not float32 \[3, 1\]"),
        ({"n": np.zeros((1, 1), np.int64)}, r"'n' takes int64 \[-1\], not int64 \[1, 1\]"),
        ({"m": np.zeros(1)}, r"unknown engine input 'm'"),
    ],
)
def test_feeds_that_do_not_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        check_feeds(PORTS, {**GOOD, **change})


def test_an_absent_feed_is_named() -> None:
    with pytest.raises(BadInputError, match="engine input 'n' is not fed"):
        check_feeds(PORTS, {"x": GOOD["x"]})


def test_as_many_calls_overlap_as_there_are_runners() -> None:
    meet = threading.Barrier(3, timeout=30)

    def run(feeds: Feeds) -> Outputs:
        meet.wait()
        return {"y": feeds["n"] + 1}

    session = PooledSession(PORTS, [run] * 3)
    futures = [session.submit({**GOOD, "n": np.array([k])}) for k in range(6)]
    assert [int(future.result(30)["y"][0]) for future in futures] == [1, 2, 3, 4, 5, 6]
    session.close()


def test_one_runner_is_never_in_two_calls_and_keeps_their_order() -> None:
    seen: list[int] = []
    busy = threading.Lock()

    def run(feeds: Feeds) -> Outputs:
        assert busy.acquire(blocking=False)
        seen.append(int(feeds["n"][0]))
        busy.release()
        return {}

    session = PooledSession(PORTS, [run], reset=lambda: seen.append(-1))
    futures = [session.submit({**GOOD, "n": np.array([k])}) for k in range(50)]
    session.reset()
    session.run({**GOOD, "n": np.array([50])})
    assert seen == [*range(50), -1, 50]
    assert all(future.exception() is None for future in futures)
    session.close()


def test_an_error_of_a_run_is_its_callers_and_frees_the_runner() -> None:
    def run(feeds: Feeds) -> Outputs:
        if feeds["n"].size == 0:
            raise RuntimeError("device lost")
        return {}

    session = PooledSession(PORTS, [run])
    with pytest.raises(RuntimeError, match="device lost"):
        session.run({**GOOD, "n": np.zeros(0, np.int64)})
    assert session.run(GOOD) == {}
    session.close()
    with pytest.raises(RuntimeError):
        session.run(GOOD)


def test_memory_is_given_out_again_once_nobody_holds_it() -> None:
    memory = Recycled((2, 3), np.dtype(np.float32))
    first = memory.take()
    second = memory.take()
    assert first is not second
    view = first[:1]
    del first
    # A view holds it still.
    third = memory.take()
    assert not np.shares_memory(third, view)
    place = view.ctypes.data
    del view
    assert memory.take().ctypes.data == place


def test_little_memory_is_kept_that_nobody_holds() -> None:
    memory = Recycled((4,), np.dtype(np.float32))
    held = [memory.take() for _ in range(10)]
    assert len({array.ctypes.data for array in held}) == 10
    held.clear()
    assert memory.take() is not None
    assert len(memory._made) == SPARE
