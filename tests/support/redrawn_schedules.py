"""Schedules of one function drawn again for another, in a process with TVM's compiler.

`python -m support.redrawn_schedules RELU RESIDUAL RESULT`: two ONNX files with a convolution each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from superlower.backends.base import BuildOptions
from superlower.backends.tvm.backend import tvm_target
from superlower.backends.tvm.build import fused
from superlower.backends.tvm.processors import Cpu, processor
from superlower.backends.tvm.schedule import tile_sizes
from superlower.backends.tvm.tuning import space, transfer
from superlower.backends.tvm.tuning.apply import replayed
from superlower.backends.tvm.tuning.tasks import Task, normal, tasks_of
from superlower.targets.catalog import target
from support.tensor_core_schedules import by_plain_loops

SEEDS = (3, 4)
POPULATION = 8


def convolution(file: str, where: Any) -> Task:
    """The one task of a graph that sums."""
    import onnx_ir as ir

    (found,) = [task for task in tasks_of(fused(ir.load(file), where)) if task.core]
    return found


def decisions(schedule: Any) -> list[Any]:
    """In their order, before MetaSchedule's postprocessors."""
    _, found = transfer.before_postprocessing(json.loads(space.trace_text(schedule)))
    return [value for _, value in found]


def computed(task: Task, trace: str, where: Any) -> tuple[float, float]:
    """The largest error of a schedule, and the largest value."""
    import tvm

    rng = np.random.default_rng(0)
    given = [rng.uniform(-1, 1, shape).astype(kind) for kind, shape in task.arguments]
    expected = by_plain_loops(normal(task.function)["main"], given)
    module = where.compiled(normal(replayed(task.function, trace))).jit()
    tensors = [tvm.runtime.tensor(array, tvm.cpu()) for array in given]
    module["main"](*tensors)
    return float(np.abs(tensors[-1].numpy() - expected).max()), float(np.abs(expected).max())


def main(relu: str, residual: str, result: str) -> None:
    """Draw schedules of one, and those again for the other, which is of another size."""
    where = processor(tvm_target(target("cpu"), BuildOptions(threads=1)), Path(result).parent)
    assert isinstance(where, Cpu)
    from tvm import s_tir

    one, other = convolution(relu, where), convolution(residual, where)
    _, theirs = space.context(normal(one.function), where, SEEDS[0], POPULATION)
    context, ours = space.context(normal(other.function), where, SEEDS[1], POPULATION)
    postprocessors = list(context.space_generator.postprocs)
    pairs, errors = [], []
    for drawn in theirs:
        again = transfer.redrawn(normal(other.function), space.trace_text(drawn), ours, postprocessors)
        pairs.append((decisions(drawn), None if again is None else decisions(again)))
        if again is not None:
            errors.append(computed(other, space.trace_text(again), where))
    unlike = transfer.redrawn(normal(other.function), space.trace_text(theirs[0]), ours[1:2], postprocessors)
    plain = s_tir.Schedule(normal(one.function))
    begun = space.register_tiles(plain, where.vectors, by_default=True)
    errors += [computed(one, space.trace_text(schedule), where) for schedule in begun]
    shape = one.shapes[-1]
    found = {
        "begun": [decisions(schedule) for schedule in begun],
        "default": tile_sizes(shape[1], shape[-1], where.vectors),
        "cores": [one.core, other.core],
        "kinds": [one.kind, other.kind],
        "pairs": pairs,
        "errors": errors,
        "unlike": unlike is None,
    }
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
