"""Schedules on tensor cores tried in a process with TVM's compiler.

`python -m support.tensor_core_schedules FILE`
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from superlower.backends.base import BuildOptions
from superlower.backends.tvm import tensor_cores, wmma
from superlower.backends.tvm.backend import tvm_target
from superlower.backends.tvm.blocks import copied
from superlower.backends.tvm.build import fused
from superlower.backends.tvm.processors import processor
from superlower.backends.tvm.tuning.tasks import tasks_of
from superlower.ir import serialize
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.cuda_on_cpu import Array, Kernel
from support.gpu_schedules import PADDED, Case, given, legalized, model, run

TARGET = "rtx5090"
RAGGED: dict[str, Case] = {
    "pixels": ("Conv", ((1, 16, 8, 27), (32, 16, 3, 3), (32,)), PADDED),
    "channels": ("Conv", ((1, 67, 4, 16), (16, 67, 3, 3)), PADDED),
    "both": ("Conv", ((1, 40, 5, 61), (16, 40, 3, 3)), {"dilations": [1, 2], "pads": [1, 0, 0, 3]}),
    "not_padded": ("Conv", ((1, 16, 6, 32), (16, 16, 3, 3)), {}),
}
"""These are made of whole tiles first."""
FITTING: dict[str, Case] = {
    "trunk": ("Conv", ((1, 64, 12, 48), (64, 64, 3, 3), (64,)), PADDED),
    "many_rows": ("Conv", ((1, 16, 128, 32), (64, 16, 3, 3), (64,)), PADDED),
    "odd_rows": ("Conv", ((1, 16, 7, 16), (32, 16, 3, 3), (32,)), PADDED),
    "odd_channels": ("Conv", ((1, 32, 6, 16), (48, 32, 3, 3)), PADDED),
    "batch": ("Conv", ((2, 16, 4, 16), (16, 16, 3, 3)), PADDED),
    "seven_by_seven": ("Conv", ((1, 32, 8, 32), (64, 32, 7, 7), (64,)), {"pads": [3, 3, 3, 3]}),
    "dilated": ("Conv", ((1, 16, 8, 16), (16, 16, 3, 3)), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "strided_down": ("Conv", ((1, 16, 8, 16), (16, 16, 3, 3)), {"strides": [2, 1], **PADDED}),
    **RAGGED,
}
NOT_FITTING: dict[str, Case] = {
    "first": ("Conv", ((1, 3, 8, 16), (16, 3, 3, 3)), PADDED),
    "last": ("Conv", ((1, 16, 8, 16), (3, 16, 3, 3)), PADDED),
    "one_by_one": ("Conv", ((1, 48, 4, 16), (32, 48, 1, 1), (32,)), {}),
    "few_channels": ("Conv", ((1, 8, 8, 16), (16, 8, 3, 3)), PADDED),
    "narrow": ("Conv", ((1, 16, 8, 10), (16, 16, 3, 3)), PADDED),
    "strided": ("Conv", ((1, 16, 8, 32), (16, 16, 3, 3)), {"strides": [2, 2], **PADDED}),
}


def tried(case: Case, name: str, folder: Path, *, run: bool = True, barriers: bool = True) -> dict[str, Any]:
    """The default schedule of a case's convolution for a target: what it is, and what it computes."""
    # Before TVM is imported.
    where = processor(tvm_target(target(name), BuildOptions()), folder)
    import tvm

    graph = legalized(case, name, Precision.FP16)
    (task,) = [each for each in tasks_of(fused(graph, where)) if "conv" in each.name]
    plain = copied(task.function)
    made = where.scheduled(tvm.IRModule({"main": task.function.with_attr("global_symbol", "main")}))
    found = {"on_tensor_cores": tensor_cores.using(made.module), "tiled": list(made.tiled)}
    if not run:
        return found
    kernel = Kernel(where, made.module["main"], folder, barriers=barriers)
    rng = np.random.default_rng(0)
    values = [rng.uniform(-1, 1, shape).astype(kind) for kind, shape in task.arguments]
    return found | {
        "expected": by_plain_loops(plain, values),
        "results": [kernel.run(values, backwards=backwards) for backwards in (False, True)],
        "source": kernel.source,
    }


def by_plain_loops(function: Any, given: list[Array]) -> Array:
    """What a function computes as TVM writes its loops, on the CPU."""
    import tvm

    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    loops = tvm.compile(module, tvm.target.Target({"kind": "llvm"}))
    tensors = [tvm.runtime.tensor(array, tvm.cpu()) for array in given]
    loops["main"](*tensors)
    return np.asarray(tensors[-1].numpy())


def in_whole_tiles(case: Case, folder: Path) -> dict[str, Any]:
    """What a case's graph computes by functions in whole tiles, as loops on the CPU; and ONNX Runtime."""
    where = processor(tvm_target(target(TARGET), BuildOptions()), folder)
    import onnxruntime

    exact = onnxruntime.InferenceSession(serialize(model(case)), providers=["CPUExecutionProvider"])
    module = fused(legalized(case, TARGET, Precision.FP16), where)
    return {"found": run(module, given(case)), "expected": exact.run(None, {"x": given(case)})[0]}


def unlike_those_of_tvm(folder: Path) -> list[str]:
    """Our instructions that aren't what TVM describes for the same shapes, types and scopes."""
    from importlib import import_module

    processor(tvm_target(target(TARGET), BuildOptions()), folder)
    import tvm_ffi
    from tvm.s_tir import TensorIntrin

    theirs = import_module("tvm.s_tir.tensor_intrin.cuda").get_wmma_intrin_group
    found = []
    for transposed in (False, True):
        names = theirs("shared", "shared", "float16", "float32", transposed)
        for use, name in wmma.intrinsics(transposed).items():
            ours, described = TensorIntrin.get(name), TensorIntrin.get(names[use])
            for part in ("desc", "impl"):
                pair = (getattr(each, part).without_attr("global_symbol") for each in (ours, described))
                if not tvm_ffi.structural_equal(*pair, map_free_vars=True):
                    found.append(f"{name} {part}")
    return found


def main(file: Path) -> None:
    """Try everything, and write what was found to a file."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["unlike"] = unlike_those_of_tvm(Path(folder))
    for name, case in RAGGED.items():
        with tempfile.TemporaryDirectory() as folder:
            found[f"whole {name}"] = in_whole_tiles(case, Path(folder))
    for name, case in FITTING.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = tried(case, TARGET, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        found["without_barriers"] = tried(FITTING["trunk"], TARGET, Path(folder), barriers=False)
    for name, case in NOT_FITTING.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = tried(case, TARGET, Path(folder), run=False)
    file.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
