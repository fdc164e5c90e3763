"""Schedules of like tasks: which are taken over, and how they are made to fit."""

from __future__ import annotations

import dataclasses
import json
from math import prod
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.tvm.tuning.ranking import DEFAULT, DEFAULTS, Record
from superlower.backends.tvm.tuning.search import trials_to
from superlower.backends.tvm.tuning.tasks import Task
from superlower.backends.tvm.tuning.transfer import OF_OTHER_KIND, nearest_factors, outline, suggestions
from superlower.driver.tune import missing
from support.compiler_process import run_module

TASK = Task("here", "conv", 1, "conv", (("float32", (1, 64, 180, 320)),), None, "sum")


def record(task: str, height: int, width: int, seconds: float, **changed: object) -> Record:
    plain = Record(
        task=task,
        name="conv",
        kind="conv",
        shapes=((1, 64, height, width),),
        target="llvm/a",
        tvm="0.27",
        device="d",
        origin="search",
        seconds=(seconds,),
        defaults=DEFAULTS["llvm"],
        trace=f"{task} {seconds}",
    )
    return msgspec.structs.replace(plain, **changed)


@given(st.integers(1, 4096), st.lists(st.integers(1, 64), min_size=2, max_size=4))
def test_factors_always_multiply_to_the_extent(extent: int, wanted: list[int]) -> None:
    found = nearest_factors(extent, wanted)
    assert len(found) == len(wanted)
    assert prod(found) == extent


@given(st.lists(st.integers(1, 16), min_size=2, max_size=4))
def test_factors_that_fit_are_kept(wanted: list[int]) -> None:
    assert nearest_factors(prod(wanted), wanted) == wanted


@pytest.mark.parametrize(
    ("extent", "wanted", "expected"),
    [
        (180, [18, 8], [20, 9]),
        (320, [11, 1, 16], [20, 1, 16]),
        (45, [3, 4, 4], [3, 3, 5]),
        (7, [1, 4], [1, 7]),
    ],
)
def test_factors_are_the_nearest(extent: int, wanted: list[int], expected: list[int]) -> None:
    assert nearest_factors(extent, wanted) == expected


def test_the_nearest_size_comes_first_then_the_fastest() -> None:
    far, near = record("far", 64, 64, 0.001), [record("near", 144, 176, s) for s in (0.3, 0.2)]
    other = record("here", 180, 320, 0.5, target="llvm/b")
    found = suggestions(TASK, "llvm/a", [far, *near, other])
    assert [one.trace for one in found] == [other.trace, near[1].trace, near[0].trace, far.trace]
    assert suggestions(TASK, "llvm/a", [far, *near], most=1) == [near[1]]


def test_the_nearest_architecture_comes_first() -> None:
    by_arch = {
        arch: record("here", 180, 320, seconds, target=f"cuda/sm_{arch}", trace=f"of {arch}")
        for arch, seconds in ((70, 0.1), (90, 0.1), (86, 0.3), (120, 0.2))
    }
    found = suggestions(TASK, "cuda/sm_89", by_arch.values())
    assert [one.target for one in found] == [f"cuda/sm_{arch}" for arch in (90, 86, 70, 120)]
    # The task's own schedules elsewhere before another size's here.
    size = record("there", 144, 176, 0.01, target="cuda/sm_89")
    assert suggestions(TASK, "cuda/sm_89", [size, *by_arch.values()])[-1] == size


def test_what_was_measured_beside_other_defaults_is_measured_again() -> None:
    old = record("here", 180, 320, 0.1, defaults=1)
    assert suggestions(TASK, "llvm/a", [old]) == [old]
    assert suggestions(TASK, "llvm/a", [record("here", 180, 320, 0.1)]) == []


def test_only_what_could_fit_is_suggested() -> None:
    unfit = [
        record("here", 180, 320, 0.1),
        record("kind", 144, 176, 0.1, kind="pool"),
        msgspec.structs.replace(record("failed", 144, 176, 0.1), seconds=(), error="crashed"),
        record("default", 144, 176, 0.1, trace=""),
        record("gpu", 144, 176, 0.1, target="cuda/sm_86"),
    ]
    assert suggestions(TASK, "llvm/a", unfit) == []


def akin(seconds: float, **changed: object) -> Record:
    """Of a task that does something else to the same sums, at the same size."""
    return record("akin", 180, 320, seconds, kind="other", core="sum", **changed)


def test_what_beat_its_default_is_suggested_to_tasks_of_the_same_sums() -> None:
    default = akin(0.5, origin=DEFAULT, trace="")
    faster, slower = [akin(s) for s in (0.1, 0.2, 0.45, 0.48)], akin(0.6)
    size = record("far", 144, 176, 0.1, core="sum")
    found = suggestions(TASK, "llvm/a", [size, slower, *faster, default])
    # The same size before another one of the same kind.
    assert found == [*faster[:OF_OTHER_KIND], size]
    unlike = [msgspec.structs.replace(one, core="others") for one in (*faster, default)]
    assert suggestions(TASK, "llvm/a", unlike) == []
    # What was measured in turns first, if not by as much.
    sure = akin(0.45, trace="sure", default_s=0.5)
    assert suggestions(TASK, "llvm/a", [*faster[:2], sure, default]) == [sure, *faster[:2]]
    # A function that sums nothing has no like.
    nothing = [msgspec.structs.replace(one, core="") for one in (*faster, default)]
    assert suggestions(dataclasses.replace(TASK, core=""), "llvm/a", nothing) == []


STEPS = [
    ["GetSBlock", [], ["conv", "main"], ["b0"]],
    ["GetSBlock", [], ["add", "main"], ["b1"]],
    ["GetConsumers", ["b1"], [], ["b2"]],
    ["ComputeInline", ["b1"], [], []],
    ["GetLoops", ["b0"], [], ["l3", "l4"]],
    ["SamplePerfectTile", ["l4"], [2, 16], ["v5", "v6"]],
    ["Split", ["l4", "v5", "v6"], [True, False], ["l7", "l8"]],
    ["Reorder", ["l8", "l7"], [], []],
]


def test_an_outline_is_the_same_whatever_is_inlined() -> None:
    """And whatever blocks are called; the order of loops and what is written out make another."""
    shorter = [
        ["GetSBlock", [], ["sum", "main"], ["b0"]],
        ["GetLoops", ["b0"], [], ["l1", "l2"]],
        ["SamplePerfectTile", ["l2"], [2, 16], ["v3", "v4"]],
        ["Split", ["l2", "v3", "v4"], [True, False], ["l5", "l6"]],
        ["Reorder", ["l6", "l5"], [], []],
    ]
    assert outline(STEPS) == outline(shorter)
    assert outline([*STEPS[:-1], ["Reorder", ["l7", "l8"], [], []]]) != outline(STEPS)
    assert outline([*STEPS[:5], ["SamplePerfectTile", ["l4"], [2, 8], ["v5", "v6"]], *STEPS[6:]]) != outline(
        STEPS
    )


def save(folder: Path, height: int, width: int, *, residual: bool) -> Path:
    """A convolution, and a ReLU or its input added."""
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    last = helper.make_node("Add", ["c", "x"], ["y"]) if residual else helper.make_node("Relu", ["c"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16, height, width]) for n in "xy")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), last],
        "net",
        [x],
        [y],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    file = folder / f"{'residual' if residual else 'relu'}.onnx"
    onnx.save(made, file)
    return file


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_schedule_is_drawn_again_for_another_epilogue_and_size(tmp_path: Path) -> None:
    """Every space of one has its like in the other; the numbers drawn are the same where they divide."""
    files = save(tmp_path, 12, 32, residual=False), save(tmp_path, 12, 48, residual=True)
    run_module("support.redrawn_schedules", *files, tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["cores"][0] == found["cores"][1]
    assert found["kinds"][0] != found["kinds"][1]
    assert len(found["pairs"]) >= 4
    for drawn, again in found["pairs"]:
        assert again is not None
        for one, other in zip(drawn, again, strict=True):
            if not isinstance(one, list):
                assert other == one
                continue
            # Of loops along the row alone is there another number.
            assert prod(other) in (prod(one), prod(one) * 48 // 32)
            assert other == nearest_factors(prod(other), one)
    # What a search begins with: the default's rows and vectors.
    assert len(found["begun"]) == 2
    for rows, vectors, *_ in found["begun"]:
        assert (rows[1], vectors[1]) == tuple(found["default"][:2])
    assert len(found["errors"]) == len(found["pairs"]) + len(found["begun"])
    for error, largest in found["errors"]:
        assert error < 1e-5 * largest
    assert found["unlike"]


def test_trials_to_a_time_are_counted() -> None:
    assert trials_to([3.0, 2.0, 2.0, 1.0], 2.0) == 2
    assert trials_to([3.0, 2.0], 1.0) is None
