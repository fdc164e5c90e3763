"""A compiled TVM module as a session."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Feeds, Outputs
from superlower.backends.session import PooledSession, Port
from superlower.backends.tvm.libraries import provide_runtime
from superlower.backends.tvm.loading import load_tvm
from superlower.errors import BadInputError, MissingSdkError

LIBRARY, IO = "engine.so", "engine.json"


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input of an engine."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Io(msgspec.Struct, frozen=True, kw_only=True):
    """Names in the order TVM's `main` takes and returns them: Relax knows positions only."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]


def import_runtime() -> Any:
    """TVM with its runtime alone, unless this process has the compiler loaded already."""
    if "tvm" not in sys.modules:
        before = os.environ.get("TVM_USE_RUNTIME_LIB")
        os.environ["TVM_USE_RUNTIME_LIB"] = "1"
        try:
            load_tvm()
        finally:
            # A build's subprocess inherits the environment, and needs the compiler.
            _restore("TVM_USE_RUNTIME_LIB", before)
    import tvm
    import tvm.runtime.vm

    return tvm


@cache
def own_device(*, cuda: bool) -> Any:
    """This machine's processor as TVM's device, or its first NVIDIA GPU; looked for once in a process.

    Raises:
        MissingSdkError: TVM's runtime or the GPU isn't here.
    """
    if cuda:
        found = nvidia_gpus()
        provide_runtime([] if isinstance(found, str) else found)
    try:
        tvm = import_runtime()
    except (ImportError, OSError) as error:
        raise MissingSdkError(
            f"TVM's runtime can't be loaded ({error}): pip install 'superlower[tvm]'"
        ) from error
    device = tvm.cuda(0) if cuda else tvm.cpu()
    if cuda and not device.exist:
        raise MissingSdkError("the engine is for an NVIDIA GPU, and TVM finds none here: check nvidia-smi")
    return device


def load_library(path: Path) -> Any:
    """TVM's module of a library, as the file is now.

    TVM never unloads a library, and the system's loader takes a path that it knows for what it once loaded
    from there: a file that has taken another's place is loaded from a copy.
    """
    tvm, path = import_runtime(), path.resolve()
    status = path.stat()
    identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    if _loaded.setdefault(path, identity) == identity:
        return tvm.runtime.load_module(str(path))
    with tempfile.TemporaryDirectory(prefix="superlower-tvm-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        return tvm.runtime.load_module(str(copy))


_loaded: dict[Path, tuple[int, int, int, int]] = {}
"""Libraries that this process has loaded: what file it was then."""


def open_session(
    folder: Path,
    library: str,
    io: str,
    *,
    cuda: bool,
    threads: int,
    runners: int,
    stateful: Sequence[tuple[str, str]] = (),
) -> PooledSession:
    """Load a library and its virtual machines.

    Args:
        threads: CPU threads of each runner.
        runners: calls that may be in flight; one where states stay inside.
        stateful: states to keep on the device, (graph output, graph input).

    Raises:
        BadInputError: files that are absent or that this TVM can't read.
        MissingSdkError: TVM's runtime or the device isn't here.
    """
    path = folder / library
    try:
        ports = msgspec.json.decode((folder / io).read_bytes(), type=Io)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInputError(f"{folder / io} can't be read ({error}): compile the model again") from error
    if not path.is_file():
        raise BadInputError(f"no such engine: {path}; compile the model again")
    device = own_device(cuda=cuda)
    tvm = import_runtime()
    try:
        module = load_library(path)
        count = 1 if stateful else runners
        machines = [tvm.runtime.vm.VirtualMachine(module, device) for _ in range(count)]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise BadInputError(f"{path} isn't an engine this TVM can read: {reason}") from error
    calls = [_Machine(tvm, machine, device, ports, threads, dict(stateful)) for machine in machines]
    kept = {given for _, given in stateful}
    fed = [port for port in ports.inputs if port.name not in kept]
    inputs = {port.name: Port(np.dtype(port.dtype), port.shape) for port in fed}
    return PooledSession(inputs, calls, reset=calls[0].reset if stateful else None)


class _Machine:
    """A virtual machine's `main`. States of `inside`, output -> input, stay on the device between calls."""

    def __init__(
        self, tvm: Any, machine: Any, device: Any, io: Io, threads: int, inside: Mapping[str, str]
    ) -> None:
        self._tvm, self._main, self._device, self._io = tvm, machine["main"], device, io
        self._threads, self._inside = threads, inside
        self._states: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Make the states zeros."""
        for port in self._io.inputs:
            if port.name in self._inside.values():
                self._states[port.name] = self._tensor(np.zeros(port.shape, port.dtype))

    def __call__(self, feeds: Feeds) -> Outputs:
        """Run once."""
        _use_threads(self._tvm, self._threads)
        names = [port.name for port in self._io.inputs]
        given = [
            self._states[name] if name in self._states else self._tensor(np.asarray(feeds[name], order="C"))
            for name in names
        ]
        result = self._main(*given)
        found = [result] if len(self._io.outputs) == 1 else list(result)
        made = dict(zip(self._io.outputs, found, strict=True))
        for output, name in self._inside.items():
            # Into a tensor of ours: the machine may use its own again.
            made.pop(output).copyto(self._states[name])
        # numpy() copies: the virtual machine takes its memory back for the next run.
        return {name: tensor.numpy() for name, tensor in made.items()}

    def _tensor(self, array: NDArray[np.generic]) -> Any:
        return self._tvm.runtime.tensor(array, self._device)


_configured = threading.local()
_environment = threading.Lock()


def _use_threads(tvm: Any, threads: int) -> None:
    """Size the calling thread's own pool of TVM workers.

    TVM keeps one pool per calling thread. Its default is half the logical processors, its size is fixed by
    TVM_NUM_THREADS at the first use, and it pins workers to processors, which starves engines side by side.
    """
    if getattr(_configured, "threads", None) == threads:
        return
    with _environment:
        before = {name: os.environ.get(name) for name in ("TVM_NUM_THREADS", "TVM_BIND_THREADS")}
        os.environ |= {"TVM_NUM_THREADS": str(threads), "TVM_BIND_THREADS": "0"}
        try:
            tvm.get_global_func("runtime.config_threadpool")(1, threads)
        finally:
            for name, value in before.items():
                _restore(name, value)
    _configured.threads = threads


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def nvidia_gpus() -> list[int] | str:
    """Compute capabilities (86 for 8.6) of this machine's NVIDIA GPUs, or why there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine (libcuda.so.1 not found)"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU on this machine"
    found = []
    for device in range(count.value):
        major, minor = ctypes.c_int(), ctypes.c_int()
        # 75 and 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        found.append(10 * major.value + minor.value)
    return found
