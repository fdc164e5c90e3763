"""The processes that build and time candidates: one job at a time, as a line of JSON each way.

A candidate may crash its process or never end. Whoever gave the job kills the process then, and starts
another.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from superlower.backends.tvm.loading import load_tvm
from superlower.backends.worker import die_with
from superlower.errors import MissingSdkError

READY = b"ready\n"
REPEAT_S, LEAST_REPEATS, MOST_REPEATS = 0.3, 3, 12
"""Seconds a measurement takes, and repetitions of it: each of them long enough for the clock."""
SHORTEST_S = 0.002
LATE_S = 5
"""Seconds that a device of a farm may be late in ending a session that timed out."""
HOPELESS = 2.5
"""A schedule so many times slower than the best known is not worth repeating."""


class Build(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Compile functions into one library.

    Attributes:
        module: file of the unscheduled functions, as TVM's JSON.
        traces: function -> schedule trace as JSON; "" for the default schedule.
        target: TVM's target dictionary.
        library: to write.
    """

    module: str
    traces: dict[str, str]
    target: dict[str, Any]
    library: str


class Run(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Time one function of a library.

    Attributes:
        library: file.
        function: in it.
        arguments: (element type, shape) of each, the result last.
        reference: .npy file with the result of the default schedule, which others must give too.
        make_reference: write that file instead.
        best_s: seconds of the fastest schedule known; 0 for none.
        cuda: whether it runs on an NVIDIA GPU, the first there is.
        farm: (host, port, key) of a TVM RPC tracker; None for this process.
        timeout_s: whole seconds until a device of the farm is given up.
    """

    library: str
    function: str
    arguments: tuple[tuple[str, tuple[int, ...]], ...]
    reference: str
    make_reference: bool = False
    best_s: float = 0.0
    cuda: bool = False
    farm: tuple[str, int, str] | None = None
    timeout_s: int = 15


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a job: times for `Run`, an error, or neither."""

    seconds: tuple[float, ...] = ()
    error: str = ""


def build(job: Build) -> Reply:
    """Apply each trace to its function and compile them all."""
    # For what a compiler leaves beside its output: others build at the same time.
    with TemporaryDirectory(prefix=".build-", dir=Path(job.library).parent) as aside:
        _build(job, Path(aside))
    return Reply()


def _build(job: Build, aside: Path) -> None:
    from superlower.backends.tvm.processors import processor
    from superlower.backends.tvm.tuning.apply import replayed

    # Before TVM is imported.
    where = processor(job.target, aside)
    import tvm

    module = tvm.ir.load_json(Path(job.module).read_text())
    functions = {}
    for name, trace in job.traces.items():
        function = replayed(module[name], trace) if trace else module[name]
        functions[name] = function.with_attr("global_symbol", name)
    made = where.scheduled(tvm.IRModule(functions))
    where.compiled(made.module).export_library(job.library)


def run(job: Run) -> Reply:
    """Time a function, and compare what it computes with the default schedule's result."""
    from superlower.backends.tvm.engine import import_runtime, load_library, own_device

    if job.farm is None:
        device = own_device(cuda=job.cuda)
        library = load_library(Path(job.library))
    else:
        library, device = _borrow(job, *job.farm)
    tvm = import_runtime()
    rng = np.random.default_rng(0)
    given = [tvm.runtime.tensor(_values(rng, *argument), device) for argument in job.arguments]
    once = library.time_evaluator(job.function, device, number=1, repeat=1)
    first = once(*given).results[0]
    if error := _differs(given[-1].numpy(), job):
        return Reply(error=error)
    if job.best_s and first > HOPELESS * job.best_s:
        first = min(first, once(*given).results[0])
        if first > HOPELESS * job.best_s:
            return Reply(seconds=(first,))
    number = max(1, round(SHORTEST_S / max(first, 1e-9)))
    repeat = int(np.clip(REPEAT_S / max(first * number, 1e-9), LEAST_REPEATS, MOST_REPEATS))
    timed = library.time_evaluator(job.function, device, number=number, repeat=repeat)
    return Reply(seconds=tuple(float(f"{seconds:.4g}") for seconds in timed(*given).results))


def _borrow(job: Run, host: str, port: int, key: str) -> tuple[Any, Any]:
    """A device of the farm, with the library on it; it is given back when this process ends its session."""
    from tvm import rpc

    session = rpc.connect_tracker(host, port).request(key, session_timeout=job.timeout_s)
    # A device that is gone without a word would keep this process waiting: the signal ends it.
    signal.alarm(int(job.timeout_s) + LATE_S)
    session.upload(job.library)
    device = session.cuda() if job.cuda else session.cpu()
    if not device.exist:
        raise MissingSdkError(f"a device of the farm that is registered as {key} has no NVIDIA GPU")
    return session.load_module(Path(job.library).name), device


def _values(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An argument: floats within one of zero; integers all zero, as they may be indices."""
    if kind.startswith("float"):
        return rng.uniform(-1, 1, shape).astype(kind)
    return np.zeros(shape, kind)


def _differs(found: np.ndarray[Any, Any], job: Run) -> str:
    file = Path(job.reference)
    if job.make_reference:
        np.save(file, found)
        return ""
    expected = np.load(file)
    # Sums of a thousand float32 terms in two orders differ by 1e-4 of their largest; half has 11 bits, which
    # a function of half operands may round to at every step, whatever its result is.
    half = any(kind == "float16" for kind, _ in job.arguments)
    room = 2e-2 if half else 1e-3
    error = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
    size = max(1.0, float(np.max(np.abs(expected.astype(np.float64)), initial=0.0)))
    return (
        "" if error <= room * size else f"computes wrongly: off by {error:.3g} where values reach {size:.3g}"
    )


JOBS: dict[str, tuple[type[Any], Callable[[Any], Reply]]] = {"build": (Build, build), "run": (Run, run)}


def _load(kind: str, cuda: bool) -> None:
    if kind == "run":
        from superlower.backends.tvm.engine import import_runtime, own_device

        if cuda:
            with suppress(MissingSdkError):
                own_device(cuda=True)
        import_runtime()
    else:
        if cuda:
            from superlower.backends.tvm.libraries import provide_for_builds

            with TemporaryDirectory(prefix="superlower-driver-") as folder:
                provide_for_builds(Path(folder))
        load_tvm()
        import tvm.relax  # noqa: F401


def main(kind: str, device: str, parent: str) -> int:
    """Do jobs of a kind ("build" or "run") for a device ("cpu" or "cuda") until the input ends."""
    die_with(int(parent))
    # What TVM prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job_type, work = JOBS[kind]
    # Before the first job, as jobs have a time limit.
    _load(kind, device == "cuda")
    replies.write(READY)
    replies.flush()
    for line in sys.stdin.buffer:
        try:
            reply = work(msgspec.json.decode(line, type=job_type))
        except Exception as error:
            traceback.print_exc()
            reason = (str(error).strip().splitlines() or [""])[-1][:200]
            reply = Reply(error=f"{type(error).__name__}: {reason}")
        finally:
            signal.alarm(0)
        replies.write(msgspec.json.encode(reply) + b"\n")
        replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
