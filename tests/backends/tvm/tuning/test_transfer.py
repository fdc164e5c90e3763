"""Schedules of like tasks: which are taken over, and how they are made to fit."""

from __future__ import annotations

from math import prod

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superlower.backends.tvm.tuning.search import trials_to
from superlower.backends.tvm.tuning.store import DEFAULTS, Record
from superlower.backends.tvm.tuning.tasks import Task
from superlower.backends.tvm.tuning.transfer import nearest_factors, suggestions

TASK = Task("here", "conv", 1, "conv", (("float32", (1, 64, 180, 320)),), None)


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


def test_trials_to_a_time_are_counted() -> None:
    assert trials_to([3.0, 2.0, 2.0, 1.0], 2.0) == 2
    assert trials_to([3.0, 2.0], 1.0) is None
