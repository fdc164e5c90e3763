"""Child processes that do jobs one after another, and are replaced when a job kills or outlasts them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import msgspec

from superlower.backends.tvm.tuning import worker
from superlower.backends.tvm.tuning.worker import Build, Reply, Run
from superlower.errors import BuildFailedError

START_S = 180.0
"""Loading TVM's compiler takes seconds, or a minute on a busy machine."""
SLICE_S = 0.5


class Worker:
    """One child process for jobs of one kind; started with its first job."""

    def __init__(self, kind: str, device: str, log: Path, env: Mapping[str, str]) -> None:
        """For "build" or "run" jobs.

        Args:
            device: "cpu" or "cuda".
            log: what the child and TVM print is appended to it.
            env: variables set for the child.
        """
        self._kind, self._device, self._log, self._env = kind, device, log, env
        self._child: subprocess.Popen[bytes] | None = None

    def do(self, job: Build | Run, timeout_s: float) -> Reply:
        """Do a job; a crash or a time-out of its own is the reply's error.

        Raises:
            BuildFailedError: the child can't be started.
        """
        child = self._child or self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(msgspec.json.encode(job) + b"\n")
            child.stdin.flush()
            line = _line(child, timeout_s)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.close()
            return Reply(error=f"no answer within {timeout_s:.0f} s")
        if not line.endswith(b"\n"):
            code = child.wait()
            self.close()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Reply(error=f"crashed ({how})")
        return msgspec.json.decode(line, type=Reply)

    def close(self) -> None:
        """End the child, if one runs."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", worker.__name__, self._kind, self._device, str(os.getpid())]
        with self._log.open("ab") as sink:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **self._env},
                # Its own group, so that compilers it starts end with it.
                start_new_session=True,
            )
        self._child = child
        if _line(child, START_S) != worker.READY:
            self.close()
            raise BuildFailedError(
                f"tvm: the process that would {self._kind} candidates doesn't start: see {self._log}"
            )
        return child


def _line(child: subprocess.Popen[bytes], timeout_s: float) -> bytes | None:
    """A line of a child's output; what there is of it if the child ends; None when time is up."""
    assert child.stdout is not None
    found, left = b"", timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            asked = time.monotonic()
            if not selector.select(min(left, SLICE_S)):
                # Longer than asked for: the machine slept, or all were stopped; that isn't the child's.
                left -= min(time.monotonic() - asked, 2 * SLICE_S)
                if left <= 0:
                    return None
                continue
            part = os.read(child.stdout.fileno(), 65536)
            if not part:
                return found
            found += part
    return found


class Pool:
    """Several workers of one kind, each lent to one caller at a time."""

    def __init__(self, kind: str, device: str, count: int, log: Path, env: Mapping[str, str]) -> None:
        self.count = count
        self._every = [Worker(kind, device, log, env) for _ in range(count)]
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for one in self._every:
            self._free.put(one)

    def do(self, job: Build | Run, timeout_s: float) -> Reply:
        """See `Worker.do`; waits for a free worker."""
        one = self._free.get()
        try:
            return one.do(job, timeout_s)
        finally:
            self._free.put(one)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._every:
            one.close()
