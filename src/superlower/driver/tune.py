"""Tuning a model's graphs for a target, as they will be compiled for it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from superlower.backends import sdk
from superlower.backends.base import BuildOptions
from superlower.backends.process import build_in_subprocess
from superlower.backends.registry import backend
from superlower.backends.tensorrt.cuda import Driver
from superlower.backends.tvm.backend import Tvm, cores, tvm_target
from superlower.backends.tvm.tuning import journal, tuner
from superlower.backends.tvm.tuning.journal import Event
from superlower.backends.tvm.tuning.request import Request, Result
from superlower.driver.building import Job, legal_graph
from superlower.driver.progress import Progress, Silent
from superlower.errors import BadInputError, MissingSdkError
from superlower.ir import save
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target

PACKAGES = {"xgboost": "xgboost", "psutil": "psutil", "tornado": "tornado", "cloudpickle": "cloudpickle"}
INSTALL = "superlower[tune]"
POLL_S = 0.2
GRACE_S = 120.0
"""A run without an end by itself is not stopped from outside; one with an end gets this to come to it."""


@dataclass(frozen=True)
class Farm:
    """Devices behind a TVM RPC tracker.

    Attributes:
        host, port: the tracker's.
        key: what devices of the target's kind are registered as.
        devices: how many to measure on at a time.
    """

    host: str
    port: int
    key: str
    devices: int


@dataclass(frozen=True)
class Limits:
    """When a run ends, if gains don't dry up first: after so many measurements, or minutes."""

    trials: int | None = None
    minutes: float | None = None


def missing() -> str | None:
    """Why nothing can be tuned here, with the install command; None if it can."""
    tvm = Tvm().missing()
    if tvm is not None:
        return tvm
    return next((reason for name in PACKAGES if (reason := sdk.absent(name, INSTALL))), None)


def tune(
    model: TemporalModel,
    target: Target,
    precision: Precision,
    database: Path,
    *,
    limits: Limits,
    threads: int = 0,
    seed: int = 0,
    transfer: bool = True,
    farm: Farm | None = None,
    dry: bool = False,
    progress: Progress | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Tune the graphs of a model, or with `dry` only say what the tasks are and what is known of them.

    Args:
        database: folder that measurements are added to.
        threads: CPU threads of an engine, or that build candidates for a GPU; 0 for the machine's cores.
        transfer: start from the best schedules of like tasks.
        on_event: called with each step.

    Raises:
        MissingSdkError: TVM, a package of the tuner or the device isn't here.
        BadInputError: the target or precision can't be tuned for.
        BuildFailedError: nothing could be measured, or the tuner crashed; what was measured is kept.
    """
    progress = progress or Silent()
    started = time.time()
    if (reason := missing()) is not None:
        raise MissingSdkError(reason)
    if precision is Precision.INT8:
        raise BadInputError("int8 graphs are made by compile's calibration: tune for fp32 or fp16")
    sdk.require_served(Tvm(), target, precision)
    reason = Tvm().runnable(target)
    if farm is None and not dry and reason is not None:
        raise MissingSdkError(f"{reason}: measure on a farm of such devices, by --tracker and --key")
    job = Job(backend("tvm"), target, precision)
    calls = Counter(name for equation in model.program.equations for name in equation.graphs)
    progress.stage("passes", len(model.graphs))
    with tempfile.TemporaryDirectory(prefix="superlower-tune-") as place:
        folder = Path(place)
        files = []
        for name, graph in model.graphs.items():
            clean, _ = apply(graph, default_pipeline())
            save(legal_graph(job, clean).model, folder / f"{name}.onnx")
            files.append((str(folder / f"{name}.onnx"), max(1, calls[name])))
            progress.advance(name)
        until = None if limits.minutes is None else started + 60 * limits.minutes
        request = Request(
            graphs=tuple(files),
            target=tvm_target(target, BuildOptions(threads=threads)),
            database=str(database.resolve()),
            device=_device(target) if farm is None else f"{farm.key} (farm)",
            threads=(threads or cores()) if target.kind == "cpu" else 0,
            builders=threads or cores(),
            trials=limits.trials,
            until=until,
            seed=seed,
            transfer=transfer,
            farm=None if farm is None else (farm.host, farm.port, farm.key),
            devices=1 if farm is None else farm.devices,
            dry=dry,
        )
        with _following(folder, progress, on_event):
            found = build_in_subprocess(
                f"{tuner.__name__}:tune",
                cast(dict[str, object], msgspec.to_builtins(request)),
                folder,
                backend="tvm",
                timeout_s=threading.TIMEOUT_MAX if until is None else until - time.time() + GRACE_S,
                advice="what was measured is kept: run it again, with more --minutes",
                env={"TVM_USE_RUNTIME_LIB": "0"},
            )
    return msgspec.convert(found, Result)


def _device(target: Target) -> str:
    """What measures on this machine, in words: a GPU by its own name, as several are of one architecture."""
    if target.kind != "nvidia-gpu":
        return target.title
    try:
        found = Driver().devices()
    except MissingSdkError:
        return target.title
    return found[0].name if found else target.title


@contextmanager
def _following(folder: Path, progress: Progress, on_event: Callable[[Event], None] | None) -> Iterator[None]:
    """Tell of a tuning process's steps while the block waits for it."""
    reader, ended = journal.Reader(folder), threading.Event()

    def tell() -> None:
        for event in reader.new():
            if event.stage:
                progress.stage(event.stage, event.total or None)
            for _ in range(event.measured if event.task else int(not event.stage)):
                progress.advance()
            if on_event is not None:
                on_event(event)

    def follow() -> None:
        while not ended.wait(POLL_S):
            tell()
        tell()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
