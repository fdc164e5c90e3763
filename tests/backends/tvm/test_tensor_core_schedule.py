"""Default schedules on tensor cores, without a GPU: their CUDA source runs on the CPU (support.cuda_on_cpu).

That shows that they compute the right sums, bound to blocks and threads as they are, whichever thread of a
block goes first; that they are fast is not shown.
"""

from __future__ import annotations

import pickle
import re
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.gpu_schedule import ENOUGH_BLOCKS
from superlower.backends.tvm.tensor_core_schedule import COLUMNS, HELD, WARPS, tile
from support.compiler_process import run_module, skip_without_cuda_compiler
from support.tensor_core_schedules import FITTING, NOT_FITTING, RAGGED, TARGET


@given(st.integers(1, 20), st.integers(1, 800), st.integers(1, 80), st.integers(1, 3))
def test_tiles_divide_the_output(channels: int, rows: int, columns: int, batch: int) -> None:
    made = tile(16 * channels, rows, 16 * columns, batch)
    assert rows % (made.rows[0] * made.rows[1]) == 0
    assert channels % (made.channels[0] * made.channels[1]) == 0
    assert made.warps <= WARPS
    assert made.channels[0] * made.channels[1] <= COLUMNS
    assert max(made.rows[1], made.channels[1]) <= HELD


def test_a_trunk_has_large_tiles_and_a_small_frame_more_blocks() -> None:
    assert tile(64, 180, 320).rows == tile(64, 180, 320).channels == (2, 2)
    small = tile(64, 64, 64)
    assert 64 // (small.rows[0] * small.rows[1]) * 64 // 16 >= ENOUGH_BLOCKS


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `support.tensor_core_schedules` found, in a process that has TVM's compiler."""
    folder = tmp_path_factory.mktemp("tensor-cores")
    if (reason := Tvm().missing()) is not None:
        pytest.skip(reason)
    if shutil.which("g++") is None:
        pytest.skip("CUDA source is run on the CPU through g++, which isn't here")
    skip_without_cuda_compiler(TARGET, folder)
    run_module("support.tensor_core_schedules", folder / "found")
    return pickle.loads((folder / "found").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", FITTING)
def test_they_compute_the_same(name: str, tried: Any) -> None:
    found = tried[name]
    assert (found["on_tensor_cores"], found["tiled"]) == (["main"], [])
    expected = found["expected"].astype(np.float64)
    forwards, backwards = found["results"]
    # Float32 sums are rounded to half's eleven bits, then a bias is added: another order of terms may move a
    # sum to the next half, a step of the largest at most.
    step = float(np.spacing(np.float16(expected.max())))
    np.testing.assert_allclose(forwards, expected, rtol=0, atol=step)
    np.testing.assert_array_equal(forwards, backwards)


@pytest.mark.slow
@pytest.mark.parametrize("name", RAGGED)
def test_whole_tiles_compute_the_same(name: str, tried: Any) -> None:
    found = tried[f"whole {name}"]
    # Half-precision operands: each product is off by two roundings at most, of sums of some hundred.
    step = float(np.spacing(np.float16(found["expected"].max())))
    np.testing.assert_allclose(found["found"], found["expected"], rtol=0, atol=2 * step)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_FITTING)
def test_others_stay_on_fp32_units(name: str, tried: Any) -> None:
    assert (tried[name]["on_tensor_cores"], tried[name]["tiled"]) == ([], ["main"])


@pytest.mark.slow
def test_instructions_are_what_tvm_describes(tried: Any) -> None:
    assert tried["unlike"] == []


@pytest.mark.slow
def test_operands_are_loaded_once_and_used_at_every_tap(tried: Any) -> None:
    source = tried["trunk"]["source"]
    # 3 x 18 pixels of 16 channels, and 3 x 3 taps of 16 x 64 weights: a row a block, as the frame is small.
    assert re.findall(r"__shared__ alignas\(64\) half \w+\[(\d+)\]", source) == ["864", "9216"]
    assert source.count("mma_sync") == 2
    assert "uint4" in source, "weights are loaded by 16 bytes"
    # Sums of neighbouring pixels lie apart by more than their 64 channels.
    assert re.search(r"store_matrix_sync\(.*, 68, ", source)


@pytest.mark.slow
def test_barriers_left_out_are_seen(tried: Any) -> None:
    found = tried["without_barriers"]
    wrong = [np.abs(result - found["expected"]).max(initial=0) for result in found["results"]]
    assert max(wrong) > 1 or np.isnan(wrong).any()
