"""Default GPU schedules, without a GPU: their blocks and threads run as loops on the CPU.

That shows that they compute the right sums from the right tiles; that threads wait for one another where they
must is TVM's own pass's doing (it puts barriers around what is shared), and that they are fast is not shown.
"""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superlower.backends.tvm import gpu_schedule
from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.gpu_schedule import WARP, tile
from support import gpu_schedules
from support.compiler_process import run_module
from support.gpu_schedules import LEFT, TILED, model

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


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `support.gpu_schedules` found, in a process that has TVM's compiler."""
    if (reason := Tvm().missing()) is not None:
        pytest.skip(reason)
    file = tmp_path_factory.mktemp("gpu") / "found"
    run_module("support.gpu_schedules", file)
    return pickle.loads(file.read_bytes())


def _products(name: str) -> int:
    """How many products each output sums."""
    kind, shapes, _ = TILED[name]
    return int(np.prod(shapes[1])) // shapes[1][kind == "ConvTranspose"]


@pytest.mark.parametrize("name", TILED)
def test_tiled_convolutions_compute_the_same(name: str, tried: Any) -> None:
    result = tried["tiled"][name]
    assert len(result["tiled"]) == 1
    assert result["unbound"] == []
    graph, x = model(TILED[name]), gpu_schedules.given(TILED[name])
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    (expected,) = session.run(None, {"x": x})
    # A running sum of n products of size |x||w| is of size sqrt(n) |x||w|, and rounded n times.
    products = _products(name)
    size = float(np.abs(x).max()) * float(np.abs(graph.graph.initializers["w0"].const_value.numpy()).max())
    atol = 2 * products * np.sqrt(products) * HALF_ULP * size
    np.testing.assert_allclose(result["found"], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_no_convolution_is_left_to_tvms_rules_and_bound_by_them(name: str, tried: Any) -> None:
    result = tried["left"][name]
    assert result["taken"] == []
    assert result["before"], "the loops must be unbound before, or the next line shows nothing"
    assert (result["tiled"], result["after"]) == ([], [])


def test_a_tile_is_loaded_once_a_block(tried: Any) -> None:
    """A trunk's convolution of 64 channels loads a hundredth of what one thread per output would."""
    # A chunk of 4 channels: 6 x 34 pixels and 3 x 3 x 64 weights of each, for 64 x 4 x 32 x 9 products.
    loads, products = 4 * (6 * 34 + 9 * 64), 4 * 64 * 4 * 32 * 9
    assert 2 * products > 180 * loads
    text = tried["trunk"]
    shared = re.findall(r'(\w+)_shared = T\.sblock_alloc_buffer\(.*scope="shared"\)', text)
    assert len(shared) == 2
    assert "T.int64(816)" in text, "the guard of the last threads: 4 x 6 x 34 pixels are shared out"
    assert "T.vectorized(T.int64(4))" in text, "weights are loaded by 16 bytes"


@pytest.mark.parametrize("name", [name for name in TILED if name != "one_dimension"])
def test_nothing_is_computed_twice(name: str, tried: Any) -> None:
    """Threads of all blocks together sum each product once, but for tiles that reach over the edges."""
    text = tried["tiled"][name]["text"]
    loops: list[tuple[int, int]] = []
    for line in text[: text.index("_update")].splitlines():
        if (loop := re.match(r"( *)for .* in (.*):", line)) is not None:
            extents = [int(extent) for extent in re.findall(r"T\.int64\(([0-9]+)\)", loop[2])]
            loops = [outer for outer in loops if outer[0] < len(loop[1])]
            loops.append((len(loop[1]), int(np.prod(extents))))
    done = int(np.prod([size for _, size in loops]))
    sizes = tried["tiled"][name]["found"].shape
    whole = (sizes[1], *sizes[-2:])
    made = tile(*whole)
    covered = [-(-size // part) * part for size, part in zip(whole, made.sizes, strict=True)]
    batch = int(np.prod(sizes)) // int(np.prod(whole))
    assert done == batch * int(np.prod(covered)) * _products(name)


def test_weights_are_stored_as_threads_read_them(tried: Any) -> None:
    original = model(TILED["trunk"]).graph.initializers["w0"].const_value.numpy()
    (found,) = [constant for constant in tried["constants"] if constant.ndim == 4 and constant.size > 16]
    np.testing.assert_array_equal(found, np.moveaxis(original, 0, -1))
