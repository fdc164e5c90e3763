"""Tuning for a GPU that isn't here, in a process with TVM's compiler: `python -m support.gpu_tuning FILE`.

Everything is real but the clock: candidates are drawn, compiled to machine code, kept and taken up by a
build. The stand-in for the GPU tells a kernel's time from what its machine code takes of a multiprocessor,
and takes default schedules for slow ones, so that a build has something to take up.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from superlower.backends.tvm import tensor_cores
from superlower.backends.tvm.cubin import device_code
from superlower.backends.tvm.processors import processor
from superlower.backends.tvm.tuning import tuner
from superlower.backends.tvm.tuning.apply import replayed
from superlower.backends.tvm.tuning.pool import Pool
from superlower.backends.tvm.tuning.request import Request
from superlower.backends.tvm.tuning.store import Store
from superlower.backends.tvm.tuning.tasks import Task, normal, tasks_of
from superlower.backends.tvm.tuning.worker import Reply, Run
from support.cuda_on_cpu import Kernel
from support.gpu_schedules import as_loops
from support.tensor_core_schedules import by_plain_loops


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What to tune, and where to write what came of it."""

    request: Request
    folder: str
    result: str


class StandIn:
    """Times kernels by the share of a multiprocessor's registers and shared memory that a block takes."""

    count = 1

    def do(self, job: Run, _: float) -> Reply:
        assert job.cuda
        (code,) = [code for code in device_code(Path(job.library)) if code.kind == "cubin"]
        kernels = [kernel for kernel in code.kernels if kernel.name.startswith(job.function)]
        assert kernels, f"{job.function} isn't in {[kernel.name for kernel in code.kernels]}"
        taken = max(k.registers / 255 + k.shared_bytes / (48 * 1024) for k in kernels)
        slow = 10 if Path(job.library).stem == "defaults" else 1
        return Reply(seconds=(1e-4 * slow * (1 + taken),) * 3)


def pool(kind: str, *arguments: Any) -> Any:
    """Real builders; in the place of the GPU the stand-in."""
    return nullcontext(StandIn()) if kind == "run" else Pool(kind, *arguments)


def computed(function: Any, given: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What a GPU schedule computes, its blocks and threads run as loops on the CPU."""
    return by_plain_loops(as_loops(normal(function))["main"], given)


def compared(task: Task, where: Any, traces: list[str], folder: Path) -> tuple[float, int]:
    """Schedules of a task beside its loops as TVM writes them: the largest error, and how many ran.

    Those on tensor cores are run as CUDA source. TVM's code for CPUs takes no large buffer inside loops:
    other schedules that have one don't run.
    """
    import tvm

    rng = np.random.default_rng(0)
    given = [rng.standard_normal(shape).astype(kind) for kind, shape in task.arguments]
    function = normal(task.function)
    expected = by_plain_loops(function["main"], given).astype(np.float64)
    worst, ran = 0.0, 0
    for trace in traces:
        scheduled = replayed(task.function, trace)
        try:
            if tensor_cores.TENSORIZE in trace:
                found = Kernel(where, scheduled, folder).run(given)
            else:
                found = computed(scheduled, given)
        except tvm.error.InternalError as error:
            if "Unknown device id" not in str(error):
                raise
            continue
        ran += 1
        worst = max(worst, float(np.max(np.abs(found - expected)) / np.max(np.abs(expected))))
    return worst, ran


def main(file: Path) -> None:
    """Tune, then run what was found as loops."""
    import onnx_ir as ir

    from superlower.backends.tvm.build import fused

    asked = msgspec.json.decode(file.read_bytes(), type=Asked)
    tuner.Pool = pool  # type: ignore[misc, assignment]
    folder = Path(asked.folder)
    result = tuner.tune(msgspec.to_builtins(asked.request), folder)
    records = Store(Path(asked.request.database)).read().records
    where = processor(asked.request.target, folder)
    errors = {}
    for graph, _ in asked.request.graphs:
        for task in tasks_of(fused(ir.load(graph), where)):
            traces = sorted({r.trace for r in records if r.task == task.key and r.trace and r.seconds})
            if traces:
                errors[task.name] = compared(task, where, traces, folder)
    found = {"result": result, "errors": errors}
    Path(asked.result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
