"""How outputs are judged."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from superlower.probes.case import widen
from superlower.probes.cases import cases
from support.probes import feeds_of


def test_widening_keeps_numbers_and_leaves_integers() -> None:
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        wide = widen(np.asarray([0.1, -3.0]).astype(dtype))
        assert wide.dtype == np.float64
        assert wide[0] == float(dtype(0.1))
    for dtype in (np.int64, np.uint8, np.bool_):
        assert widen(np.ones(2, dtype)).dtype == dtype


def test_error_is_the_largest_difference_of_all_outputs() -> None:
    case = cases(["Split"])[0]
    feeds = feeds_of(case)
    outputs = {name: np.array(array, np.float32) for name, array in case.expected(feeds).items()}
    assert case.error(feeds, outputs) == 0
    outputs["out1"][0, 0, 0, 0] += 0.25
    outputs["out0"][0, 0, 0, 0] += 0.125
    assert abs(case.error(feeds, outputs) - 0.25) < 1e-6


def test_absent_outputs_other_shapes_and_not_a_number_are_infinitely_wrong() -> None:
    case = cases(["Add"])[0]
    feeds = feeds_of(case)
    right = case.expected(feeds)["out0"]
    assert case.error(feeds, {}) == np.inf
    assert case.error(feeds, {"out0": right[:1]}) == np.inf
    # Broadcasting must not make one number out of a whole image.
    assert case.error(feeds, {"out0": right.reshape(-1)[:1]}) == np.inf
    broken = right.copy()
    broken[0, 0, 0, 0] = np.nan
    assert case.error(feeds, {"out0": broken}) == np.inf
    broken[0, 0, 0, 0] = np.inf
    assert case.error(feeds, {"out0": broken}) == np.inf


def test_booleans_and_integers_are_counted_apart() -> None:
    case = cases(["Less"])[0]
    feeds = feeds_of(case)
    right = case.expected(feeds)["out0"]
    assert case.error(feeds, {"out0": right}) == 0
    assert case.error(feeds, {"out0": ~right}) == 1
