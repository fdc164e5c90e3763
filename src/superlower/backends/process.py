"""Builds run in a process of their own: SDKs abort, segfault, hang and print; callers must see none of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, Self

import msgspec

from superlower import errors
from superlower.backends import worker
from superlower.errors import BuildFailedError, SuperlowerError

LOG = "build.log"

_here: ContextVar[bool] = ContextVar("building_here", default=False)


_children: set[subprocess.Popen[bytes]] = set()


def stop_children() -> None:
    """Kill the builds that other threads of this process wait for: only the main thread hears of a Ctrl-C."""
    for child in list(_children):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def building_here() -> Iterator[None]:
    """Builds of the block run in this process: for one that is itself a child and makes many of them.

    An SDK is then imported once. What it does to the process it does to them all: whoever started the process
    must survive its death, and keep the time limits.
    """
    token = _here.set(True)
    try:
        yield
    finally:
        _here.reset(token)


def log_folder() -> Path:
    """Where the logs of failed builds are kept ($XDG_CACHE_HOME/superlower/logs)."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "superlower" / "logs"


def build_in_subprocess(
    function: str,
    request: Mapping[str, object],
    workdir: Path,
    *,
    backend: str,
    timeout_s: float,
    advice: str = "raise --timeout",
    env: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Call `module:function(request, workdir)` in a fresh Python and return the dictionary it returns.

    Everything the child writes to stdout or stderr, native code included, goes to `workdir/build.log`.

    Args:
        function: "package.module:function", importable by the child; takes (dict, Path), returns a JSON dict.
        request: JSON-serialisable argument.
        workdir: existing folder; the child's working directory.
        backend: name for messages.
        timeout_s: seconds until the child and all it started are killed.
        advice: what to do when that happens.
        env: environment variables to add.

    Raises:
        SuperlowerError: whatever the child raised of that family, with its type and message.
        BuildFailedError: it crashed, was killed by a signal or ran out of time; a copy of the log is kept.
    """
    workdir = workdir.resolve()
    if _here.get():
        with _environment(env or {}):
            return _returned(worker.call(function, msgspec.json.encode(request), workdir), None, backend)
    request_file, result_file, log = workdir / "request.json", workdir / "result.json", workdir / LOG
    request_file.write_bytes(msgspec.json.encode(request))
    result_file.unlink(missing_ok=True)
    # -P: what lies in the working folder is no module.
    python = [sys.executable, "-P", "-m", worker.__name__]
    command = [*python, function, str(request_file), str(result_file), str(os.getpid())]
    with log.open("ab") as sink, _HeldSignals() as held:
        child = subprocess.Popen(
            command,
            cwd=workdir,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        _children.add(child)
        try:
            held.release()
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BuildFailedError(
                f"{backend} build stopped after its time limit of {timeout_s:g} s: {advice}; "
                f"log: {_keep_log(log, backend)}"
            ) from None
        finally:
            # Also on Ctrl-C, and for grandchildren (compilers) a crashed child leaves behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            _children.discard(child)
    if not result_file.is_file():
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise BuildFailedError(
            f"{backend} build crashed ({how}): {_last_line(log)}; log: {_keep_log(log, backend)}"
        )
    returned = result_file.read_bytes()
    request_file.unlink(missing_ok=True)
    result_file.unlink(missing_ok=True)
    return _returned(returned, log, backend)


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _returned(returned: bytes, log: Path | None, backend: str) -> dict[str, object]:
    """What the function returned; what it raised is raised again, with the log it left, if one."""
    result: dict[str, object] = msgspec.json.decode(returned, type=dict[str, object])
    if "error" in result:
        kind = getattr(errors, str(result["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, SuperlowerError)):
            kind = BuildFailedError  # A plug-in's own error.
        message = str(result["message"])
        if kind is BuildFailedError and log is not None:
            message = f"{message}; log: {_keep_log(log, backend)}"
        raise kind(message)
    return result


class _HeldSignals:
    """Holds Ctrl-C and SIGTERM back until `release`: a child that is started is known before either ends us.

    Does nothing outside the main thread, which alone is interrupted.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)):
                    self._handlers[number] = signal.signal(number, lambda *came: self._came.append(came))
        return self

    def release(self) -> None:
        """Give the signals their handlers back, and those that came meanwhile to them."""
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in self._came:
            handlers[number](number, frame)

    def __exit__(self, *_: object) -> None:
        self.release()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no output"


def _keep_log(log: Path, backend: str) -> Path:
    folder = log_folder()
    prefix = f"{backend}-{time.strftime('%Y%m%d-%H%M%S')}-"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, kept = tempfile.mkstemp(".log", prefix, folder)
        os.close(handle)
        shutil.copyfile(log, kept)
    except OSError:
        return log  # A full or read-only disk must not hide why the build failed.
    return Path(kept)
