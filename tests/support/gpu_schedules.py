"""GPU schedules tried in a process with TVM's compiler: `python -m support.gpu_schedules FILE`.

Other tests load TVM's runtime alone, and a process has one or the other.
"""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.tvm import build
from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.gpu_schedule import schedule_convolution, schedule_module, unbound
from superlower.backends.tvm.layout import weights_channels_last
from superlower.ir import infer_shapes
from superlower.passes.pipelines import default_pipeline
from superlower.targets.base import Precision
from superlower.targets.catalog import target

Array = NDArray[np.float32]
Case = tuple[str, tuple[tuple[int, ...], ...], dict[str, object]]
"""Operator, shapes of x and of its weights, attributes."""

PADDED: dict[str, object] = {"pads": [1, 1, 1, 1]}
TILED: dict[str, Case] = {
    "trunk": ("Conv", ((1, 8, 16, 32), (16, 8, 3, 3), (16,)), PADDED),
    # Neither 37 nor 43 nor 13 has a divisor of use: tiles reach over the edges.
    "guarded": ("Conv", ((1, 5, 37, 43), (13, 5, 3, 3), (13,)), PADDED),
    "batch": ("Conv", ((2, 4, 9, 8), (5, 4, 3, 3)), PADDED),
    "strided": ("Conv", ((1, 4, 18, 33), (8, 4, 3, 3)), {"strides": [2, 2], **PADDED}),
    "dilated": ("Conv", ((1, 4, 12, 16), (8, 4, 3, 3)), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "seven_by_seven": ("Conv", ((1, 8, 12, 10), (32, 8, 7, 7), (32,)), {"pads": [3, 3, 3, 3]}),
    "one_by_one": ("Conv", ((1, 40, 6, 20), (12, 40, 1, 1)), {}),
    "to_three_channels": ("Conv", ((1, 8, 8, 40), (3, 8, 3, 3), (3,)), PADDED),
    "one_pixel": ("Conv", ((1, 4, 3, 3), (6, 4, 3, 3)), {}),
    "transposed": ("ConvTranspose", ((1, 6, 8, 8), (6, 4, 4, 4)), {"strides": [2, 2], **PADDED}),
    "over_time": ("Conv", ((1, 2, 5, 8, 16), (4, 2, 3, 3, 3)), {"pads": [1] * 6}),
    "one_dimension": ("Conv", ((1, 4, 24), (8, 4, 3)), {"pads": [1, 1]}),
}


LEFT: dict[str, Case] = {
    "groups": ("Conv", ((1, 8, 8, 16), (8, 4, 3, 3)), {"group": 2, **PADDED}),
    "depthwise": ("Conv", ((1, 8, 8, 16), (8, 1, 3, 3)), {"group": 8, **PADDED}),
    "matmul": ("MatMul", ((12, 30), (30, 32)), {}),
    "pool": ("AveragePool", ((1, 4, 8, 16),), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "elementwise": ("Tanh", ((1, 4, 8, 16),), {}),
    # TVM's rule for reductions throws an InternalError at it; the next one takes it.
    "mean_to_a_scalar": ("ReduceMean", ((1, 3, 16, 16),), {"keepdims": 0}),
}
TRUNK: Case = ("Conv", ((1, 64, 180, 320), (64, 64, 3, 3), (64,)), PADDED)


def model(case: Case) -> ir.Model:
    """One operator of x and weights, then a Relu."""
    kind, shapes, attributes = case
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{i}")
        for i, shape in enumerate(shapes[1:])
    ]
    nodes = [
        helper.make_node(kind, ["x", *(w.name for w in weights)], ["y"], **attributes),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(made))


def legalized(case: Case, name: str, precision: Precision) -> ir.Model:
    """The model as a build for a target has it."""
    graph = infer_shapes(model(case))
    for each in (*default_pipeline(), *Tvm().legalize(target(name), precision)):
        each.run(graph)
    return infer_shapes(graph)


def lowered(graph: ir.Model) -> Any:
    """Its primitive functions, as `build` has them before they are scheduled."""
    import tvm
    from tvm import relax

    with tvm.target.Target({"kind": "cuda", **target("v100").tvm}):
        return relax.get_pipeline("zero")(weights_channels_last(build._imported(graph)))


def as_loops(mod: Any) -> Any:
    """The module with every bound loop a serial one, and every buffer in plain memory."""
    import tvm
    from tvm import tirx

    for name, function in list(mod.functions_items()):
        if isinstance(function, tirx.PrimFunc):
            text = re.sub(r'T\.thread_binding\((.*?), thread="[^"]*"\)', r"T.serial(\1)", function.script())
            text = re.sub(r', scope="(shared|local|wmma\.[a-z_]+)"', "", text)
            assert "threadIdx" not in text
            mod[name] = tvm.script.from_source(text)
    return mod


def run(mod: Any, x: Array) -> Array:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target({"kind": "llvm"})), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(x, tvm.cpu())).numpy())


def given(case: Case) -> Array:
    """Seeded values of x."""
    return np.random.default_rng(1).standard_normal(case[1][0]).astype(np.float32)


def convolution(case: Case) -> str:
    """The text of its one convolution's schedule."""
    (function,) = [f for name, f in lowered(model(case)).functions_items() if "conv" in name.name_hint]
    return str(schedule_convolution(function).script())


def _tiled(case: Case, gpu: Any) -> dict[str, Any]:
    mod, tiled = schedule_module(lowered(model(case)), gpu)
    left = unbound(mod)
    return {
        "tiled": tiled,
        "unbound": left,
        "found": run(as_loops(mod), given(case)),
        "text": convolution(case),
    }


def _left(case: Case, gpu: Any) -> dict[str, Any]:
    from tvm import tirx
    from tvm.s_tir.schedule import ScheduleError

    mod = lowered(model(case))
    taken = []
    for name, function in mod.functions_items():
        if isinstance(function, tirx.PrimFunc):
            try:
                schedule_convolution(function)
                taken.append(name.name_hint)
            except ScheduleError:
                continue
    before = unbound(mod)
    mod, tiled = schedule_module(mod, gpu)
    return {"taken": taken, "before": before, "tiled": tiled, "after": unbound(mod)}


def _constants(case: Case) -> list[Array]:
    import tvm
    from tvm import relax

    found: list[Array] = []

    def visit(node: Any) -> None:
        if isinstance(node, tvm.ir.expr.GenericConst):
            found.append(np.asarray(node.value.numpy()))

    mod = weights_channels_last(build._imported(model(case)))
    relax.analysis.post_order_visit(mod["main"], visit)
    return found


def main(file: Path) -> None:
    """Try everything, and write what was found to a file."""
    import tvm

    gpu = tvm.target.Target({"kind": "cuda", **target("v100").tvm})
    results = {
        "tiled": {name: _tiled(case, gpu) for name, case in TILED.items()},
        "left": {name: _left(case, gpu) for name, case in LEFT.items()},
        "trunk": convolution(TRUNK),
        "constants": _constants(TILED["trunk"]),
    }
    file.write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
