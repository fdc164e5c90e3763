"""Processes that do jobs: one that ends, or takes too long, is an answer like any other."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.tuning.pool import Worker
from superlower.backends.tvm.tuning.worker import Reply, Run

pytestmark = pytest.mark.skipif(Tvm().missing() is not None, reason=str(Tvm().missing()))


def test_a_child_that_ends_is_replaced(tmp_path: Path) -> None:
    job = Run(library=str(tmp_path / "none.so"), function="f", arguments=(), reference="")
    one = Worker("run", "cpu", tmp_path / "log", {"TVM_USE_RUNTIME_LIB": "1"})
    try:
        assert "none.so" in one.do(job, 60).error or one.do(job, 60).error
        child = one._child
        assert child is not None
        # Stopped, it can't answer: as one that hangs.
        os.kill(child.pid, signal.SIGSTOP)
        assert one.do(job, 0.6) == Reply(error="no answer within 1 s")
        assert child.poll() is not None
        assert one.do(job, 60).error
        again = one._child
        assert again is not None
        os.kill(again.pid, signal.SIGSTOP)
        killer = threading.Timer(0.2, lambda: os.kill(again.pid, signal.SIGKILL))
        killer.start()
        started = time.monotonic()
        assert one.do(job, 60) == Reply(error="crashed (SIGKILL)")
        assert time.monotonic() - started < 30
        killer.join()
    finally:
        one.close()
