"""A farm: a TVM RPC tracker, and servers that lend it their devices.

TVM's RPC has no authentication, and runs whatever code it is sent: it belongs on a loopback address, or
behind a tunnel.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import msgspec

from superlower.backends.tvm.engine import nvidia_gpus
from superlower.backends.tvm.libraries import runtime_folder
from superlower.backends.tvm.tuning import farm_child
from superlower.errors import BuildFailedError, MissingSdkError

START_S = 120.0
PAUSE_S = 2.0
"""Before a server that ended is started again."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server as the tracker lists it.

    Attributes:
        key: what it is registered as.
        address: HOST:PORT.
    """

    key: str
    address: str


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """The devices of one key.

    Attributes:
        servers: registered.
        free: of them, waiting for work.
        pending: requests that wait for a device.
    """

    servers: int
    free: int
    pending: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a tracker knows."""

    servers: tuple[Server, ...]
    queues: dict[str, Queue]


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def status(host: str, port: int) -> Status:
    """What is on a farm.

    Raises:
        MissingSdkError: no tracker answers there.
    """
    # Asked by itself, as TVM's client tries for a minute.
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise MissingSdkError(
            f"no tracker answers at {host}:{port} ({error}): start one by superlower farm serve"
        ) from error
    command = [sys.executable, "-P", "-m", farm_child.__name__, "status", host, str(port)]
    asked = subprocess.run(command, capture_output=True, timeout=START_S, check=False, env=_environment())
    if asked.returncode != 0:
        last = (asked.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise MissingSdkError(f"what answers at {host}:{port} is no TVM RPC tracker: {last}")
    return msgspec.json.decode(asked.stdout.splitlines()[-1], type=Status)


@dataclass
class _Child:
    """A process of the farm, and how to start it again."""

    arguments: tuple[str, ...]
    env: Mapping[str, str]
    process: subprocess.Popen[bytes]
    ended: float = field(default=0.0)


class Farm:
    """A tracker, unless one runs already, and servers on this machine."""

    def __init__(
        self,
        key: str,
        servers: int,
        *,
        host: str = "127.0.0.1",
        port: int = 9190,
        tracker: tuple[str, int] | None = None,
        threads: int = 0,
        log: Path = Path(os.devnull),
    ) -> None:
        """Nothing runs until the block begins.

        Args:
            key: what the servers are registered as.
            servers: how many: one a device; each has one of the machine's GPUs, in turn, if it has any.
            host: address that tracker and servers are bound to.
            port: the tracker's; 0 for any that is free.
            tracker: the one to register at; None to start one.
            threads: CPU threads of each server's measurements; 0 for TVM's choice.
            log: what the processes print is appended to it.
        """
        self._key, self._count, self._host, self._threads, self._log = key, servers, host, threads, log
        self._starts_tracker = tracker is None
        self.address = tracker or (host, port or _free_port(host))
        self._children: list[_Child] = []
        self._folder = tempfile.TemporaryDirectory(prefix="superlower-farm-")
        found = nvidia_gpus()
        self._gpus = [] if isinstance(found, str) else found

    def __enter__(self) -> Self:
        try:
            host, port = self.address
            if self._starts_tracker:
                self._start(("tracker", host, str(port)))
            for place in range(self._count):
                port_of = str(_free_port(self._host))
                self._start(("server", self._host, port_of, host, str(port), self._key), self._gpu(place))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def servers(self) -> list[int]:
        """Process groups of the servers."""
        return [child.process.pid for child in self._children if child.arguments[0] == "server"]

    def watch(self, on_restart: Callable[[str], None]) -> None:
        """Start servers again that end: a measurement that crashes takes TVM's server with it. Never returns.

        Raises:
            BuildFailedError: the tracker ended.
        """
        while True:
            time.sleep(0.2)
            for child in self._children:
                code = child.process.poll()
                if code is None:
                    continue
                what, *_ = child.arguments
                if what == "tracker":
                    raise BuildFailedError(f"tvm: the tracker ended with code {code}")
                if not child.ended:
                    child.ended = time.monotonic()
                    _kill(child.process)
                    on_restart(f"server at port {child.arguments[2]} ended with code {code}")
                elif time.monotonic() - child.ended >= PAUSE_S:
                    child.process, child.ended = self._spawn(child.arguments, child.env), 0.0

    def close(self) -> None:
        """End every process of the farm."""
        for child in self._children:
            _kill(child.process)
        self._children.clear()
        self._folder.cleanup()

    def _gpu(self, place: int) -> dict[str, str]:
        """Variables by which a server has one of the machine's GPUs for itself, and finds CUDA's runtime."""
        if not self._gpus:
            return {}
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(len(self._gpus))))
        devices = seen.split(",")
        own = {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}
        folder = runtime_folder(Path(self._folder.name), self._gpus)
        if folder is not None:
            before = os.environ.get("LD_LIBRARY_PATH")
            own["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
        return own

    def _start(self, arguments: tuple[str, ...], env: Mapping[str, str] = MappingProxyType({})) -> None:
        self._children.append(_Child(arguments, dict(env), self._spawn(arguments, env)))

    def _spawn(self, arguments: tuple[str, ...], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", farm_child.__name__, *arguments, str(os.getpid())]
        with self._log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**_environment(self._threads), **env},
                start_new_session=True,
            )
        assert process.stdout is not None
        if process.stdout.readline() != farm_child.READY:
            _kill(process)
            what, host, port, *_ = arguments
            raise BuildFailedError(f"tvm: no {what} starts at {host}:{port}: is the port taken?")
        return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _environment(threads: int = 0) -> dict[str, str]:
    own = {"TVM_USE_RUNTIME_LIB": "1", "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1", "TVM_BIND_THREADS": "0"}
    return {**os.environ, **own, **({"TVM_NUM_THREADS": str(threads)} if threads else {})}


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
