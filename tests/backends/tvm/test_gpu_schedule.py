"""Default GPU schedules, without a GPU: their blocks and threads run as loops on the CPU.

That shows that they compute the right sums from the right tiles; that threads wait for one another where they
must is TVM's own pass's doing (it puts barriers around what is shared), and that they are fast is not shown.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.tvm import build, gpu_schedule
from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.gpu_schedule import WARP, schedule_convolution, schedule_module, tile, unbound
from superlower.backends.tvm.layout import weights_channels_last
from superlower.targets.catalog import target

Array = NDArray[np.float32]

needs_tvm = pytest.mark.skipif(Tvm().missing() is not None, reason=str(Tvm().missing()))
HALF_ULP = 2.0**-24


@given(st.integers(1, 300), st.integers(1, 800), st.integers(1, 1300), st.integers(1, 3))
def test_tiles_fit_a_block_and_its_registers(channels: int, rows: int, columns: int, batch: int) -> None:
    made = tile(channels, rows, columns, batch)
    assert made.groups * made.lanes[0] * made.lanes[1] <= gpu_schedule.GROUPS * WARP
    assert made.channels * made.rows <= 32
    # No tile is over twice as large as what it covers: at most half of its threads idle.
    for size, extent in zip(made.sizes, (channels, rows, columns), strict=True):
        assert size < 2 * extent or size == 1


def test_a_trunk_convolution_gets_the_whole_tile_and_a_small_frame_more_blocks() -> None:
    assert tile(64, 180, 320).sizes == (64, 4, 32)
    # Three channels are one group: its warps take rows.
    last = tile(3, 720, 1280)
    assert (last.groups, last.lanes, last.sizes) == (1, (8, 32), (3, 24, 32))
    small = tile(64, 64, 64)
    blocks = 64 // small.sizes[0] * 64 // small.sizes[1] * 64 // small.sizes[2]
    assert blocks >= gpu_schedule.ENOUGH_BLOCKS


def model(kind: str, shapes: tuple[tuple[int, ...], ...], **attributes: object) -> ir.Model:
    """One operator of x and weights, then a Relu."""
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
            text = re.sub(r', scope="(shared|local)"', "", text)
            assert "threadIdx" not in text
            mod[name] = tvm.script.from_source(text)
    return mod


def run(mod: Any, x: Array) -> Array:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target({"kind": "llvm"})), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(x, tvm.cpu())).numpy())


PADDED: dict[str, object] = {"pads": [1, 1, 1, 1]}
TILED: dict[str, tuple[str, tuple[tuple[int, ...], ...], dict[str, object]]] = {
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


@needs_tvm
@pytest.mark.parametrize("case", TILED)
def test_tiled_convolutions_compute_the_same(case: str) -> None:
    import tvm

    kind, shapes, attributes = TILED[case]
    graph = model(kind, shapes, **attributes)
    mod, tiled = schedule_module(lowered(graph), tvm.target.Target({"kind": "cuda", **target("v100").tvm}))
    assert len(tiled) == 1
    assert unbound(mod) == []
    x = np.random.default_rng(1).standard_normal(shapes[0]).astype(np.float32)
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    (expected,) = session.run(None, {"x": x})
    found = run(as_loops(mod), x)
    # A running sum of n products of size |x||w| is of size sqrt(n) |x||w|, and rounded n times.
    products = int(np.prod(shapes[1])) // shapes[1][kind == "ConvTranspose"]
    size = float(np.abs(x).max()) * float(np.abs(graph.graph.initializers["w0"].const_value.numpy()).max())
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=2 * products * np.sqrt(products) * HALF_ULP * size
    )


@needs_tvm
@pytest.mark.parametrize(
    ("kind", "shapes", "attributes"),
    [
        ("Conv", ((1, 8, 8, 16), (8, 4, 3, 3)), {"group": 2, **PADDED}),
        ("Conv", ((1, 8, 8, 16), (8, 1, 3, 3)), {"group": 8, **PADDED}),
        ("MatMul", ((12, 30), (30, 32)), {}),
        ("AveragePool", ((1, 4, 8, 16),), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Tanh", ((1, 4, 8, 16),), {}),
    ],
    ids=["groups", "depthwise", "matmul", "pool", "elementwise"],
)
def test_what_is_no_convolution_is_left_to_tvms_rules_and_bound_by_them(kind, shapes, attributes) -> None:
    import tvm
    from tvm import tirx
    from tvm.s_tir.schedule import ScheduleError

    mod = lowered(model(kind, shapes, **attributes))
    functions = [function for _, function in mod.functions_items() if isinstance(function, tirx.PrimFunc)]
    assert functions
    for function in functions:
        with pytest.raises(ScheduleError):
            schedule_convolution(function)
    assert unbound(mod), "the loops must be unbound before, or the next line shows nothing"
    mod, tiled = schedule_module(mod, tvm.target.Target({"kind": "cuda", **target("v100").tvm}))
    assert (tiled, unbound(mod)) == ([], [])


@needs_tvm
def test_a_tile_is_loaded_once_a_block() -> None:
    """A trunk's convolution of 64 channels loads a hundredth of what one thread per output would."""
    mod = lowered(model("Conv", ((1, 64, 180, 320), (64, 64, 3, 3), (64,)), **PADDED))
    (function,) = [f for n, f in mod.functions_items() if "conv2d" in n.name_hint]
    text = schedule_convolution(function).script()
    # A chunk of 4 channels: 6 x 34 pixels and 3 x 3 x 64 weights of each, for 64 x 4 x 32 x 9 products.
    loads, products = 4 * (6 * 34 + 9 * 64), 4 * 64 * 4 * 32 * 9
    assert 2 * products > 180 * loads
    shared = re.findall(r'(\w+)_shared = T\.sblock_alloc_buffer\(.*scope="shared"\)', text)
    assert len(shared) == 2
    assert "T.int64(816)" in text, "the guard of the last threads: 4 x 6 x 34 pixels are shared out"
    assert "T.vectorized(T.int64(4))" in text, "weights are loaded by 16 bytes"


@needs_tvm
@pytest.mark.parametrize("case", [case for case in TILED if case != "one_dimension"])
def test_nothing_is_computed_twice(case: str) -> None:
    """Threads of all blocks together sum each product once, but for tiles that reach over the edges."""
    kind, shapes, attributes = TILED[case]
    (function,) = [
        f for n, f in lowered(model(kind, shapes, **attributes)).functions_items() if "conv" in n.name_hint
    ]
    text = schedule_convolution(function).script()
    loops: list[tuple[int, int]] = []
    for line in text[: text.index("_update")].splitlines():
        if (loop := re.match(r"( *)for .* in (.*):", line)) is not None:
            extents = [int(extent) for extent in re.findall(r"T\.int64\(([0-9]+)\)", loop[2])]
            loops = [outer for outer in loops if outer[0] < len(loop[1])]
            loops.append((len(loop[1]), int(np.prod(extents))))
    done = int(np.prod([size for _, size in loops]))
    output = model(kind, shapes, **attributes).graph.outputs[0].shape
    assert output is not None
    sizes = [int(size) for size in output]
    made = tile(sizes[1], sizes[-2], sizes[-1])
    whole = (sizes[1], *sizes[-2:])
    covered = [-(-size // part) * part for size, part in zip(whole, made.sizes, strict=True)]
    products = int(np.prod(shapes[1])) // shapes[1][kind == "ConvTranspose"]
    assert done == int(np.prod(sizes)) // int(np.prod(whole)) * int(np.prod(covered)) * products


@needs_tvm
def test_weights_are_stored_as_threads_read_them() -> None:
    import tvm
    from tvm import relax

    graph = model("Conv", ((1, 4, 8, 8), (6, 4, 3, 3)), **PADDED)
    mod = weights_channels_last(build._imported(graph))
    constants: list[Any] = []
    relax.analysis.post_order_visit(
        mod["main"],
        lambda node: constants.append(node) if isinstance(node, tvm.ir.expr.GenericConst) else None,
    )
    original = graph.graph.initializers["w0"].const_value.numpy()
    found = [c.value.numpy() for c in constants if len(c.value.shape) == 4]
    np.testing.assert_array_equal(found[0], np.moveaxis(original, 0, -1))
