"""GridSample's reference by hand, and what its wide cases hold SDKs to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superlower.probes.cases import cases
from superlower.probes.cases._sampling import normalized, pixels, sample
from support.probes import feeds_of

ROW = np.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 1, 4)


def at(place: float, taps: int, padding: str, aligned: bool) -> float:
    """One sample of a row of four pixels."""
    places = np.array([place, 0.0]).reshape(1, 1, 1, 2)
    return float(sample(ROW, places, taps, padding, aligned)[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("place", "padding", "aligned", "expected"),
    [
        (0.25, "zeros", False, 0.75 * 1 + 0.25 * 2),
        (-0.25, "zeros", False, 0.75 * 1),
        (3.5, "zeros", True, 0.5 * 8),
        (-7.0, "zeros", True, 0.0),
        (-0.25, "border", False, 1.0),
        (9.0, "border", True, 8.0),
        # With corners, folds are at pixels 0 and 3: -0.5 is 0.5, and 4 is 2.
        (-0.5, "reflection", True, 1.5),
        (4.0, "reflection", True, 4.0),
        # Without, at -0.5 and 3.5: -1 is 0, 4 is 3, and between them is the border's pixel.
        (-1.0, "reflection", False, 1.0),
        (-1.5, "reflection", False, 1.5),
        (-0.5, "reflection", False, 1.0),
        (4.5, "reflection", False, 6.0),
    ],
)
def test_linear_by_hand(place: float, padding: str, aligned: bool, expected: float) -> None:
    assert at(place, 2, padding, aligned) == expected


def test_reflects_until_it_is_inside() -> None:
    x = np.array([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3)
    # Pixels at -1, 0 and 1 in the text's example are 0, 1 and 2 here, and -3.5 is -2.5, which becomes 1.5.
    places = np.array([-2.5, 0.0]).reshape(1, 1, 1, 2)
    assert float(sample(x, places, 2, "reflection", True)[0, 0, 0, 0]) == 3.0


@pytest.mark.parametrize(
    ("place", "expected"), [(0.5, 1.0), (1.5, 4.0), (2.5, 4.0), (2.51, 8.0), (-0.5, 1.0)]
)
def test_nearest_takes_halves_to_even(place: float, expected: float) -> None:
    assert at(place, 1, "zeros", True) == expected


def test_cubic_by_hand() -> None:
    # Halfway the weights are -3/32, 19/32, 19/32, -3/32.
    assert at(1.5, 4, "zeros", False) == pytest.approx((19 * (2 + 4) - 3 * (1 + 8)) / 32)
    assert at(0.5, 4, "zeros", False) == pytest.approx((19 * (1 + 2) - 3 * (0 + 4)) / 32)
    assert at(0.5, 4, "border", False) == pytest.approx((19 * (1 + 2) - 3 * (1 + 4)) / 32)


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=2),
    st.tuples(st.integers(2, 50), st.integers(2, 50)),
    st.booleans(),
)
def test_grids_and_positions_are_inverse(place: list[float], sizes: tuple[int, int], aligned: bool) -> None:
    places = np.array(place)
    assert pixels(normalized(places, sizes, aligned), sizes, aligned) == pytest.approx(places, abs=1e-11)


def test_corners_of_the_image() -> None:
    sizes = (3, 5)
    corner = normalized(np.array([4.0, 2.0]), sizes, True)
    assert corner == pytest.approx([1.0, 1.0])
    outer = normalized(np.array([4.5, -0.5]), sizes, False)
    assert outer == pytest.approx([1.0, -1.0])


def test_warps_go_to_the_true_positions_whatever_the_grid_would_be() -> None:
    """A flow of zero is the identity, in fp16 too, where no grid of 3840 pixels can say so."""
    warps = [case for case in cases(["GridSample"], large=True) if "warp" in case.name]
    assert {case.name.split("/")[3] for case in warps} == {"fp32", "fp16"}
    for case in warps:
        feeds = feeds_of(case)
        feeds["in1"] = np.zeros_like(feeds["in1"])
        assert np.array_equal(case.expected(feeds)["out0"], feeds["in0"].astype(np.float64))


def test_wide_cases_hold_to_a_hundredth_of_a_pixel() -> None:
    """Shifted by 0.05 px, a wide frame is wrong; by 0.005 px it may be right."""
    for case in cases(["GridSample"], large=True):
        if "warp" not in case.name:
            continue
        feeds = feeds_of(case)
        for shift, wrong in ((0.05, True), (0.005, False)):
            wide = {**feeds, "in1": feeds["in1"].astype(np.float64) + shift}
            moved = case.reference({"in0": feeds["in0"].astype(np.float64), "in1": wide["in1"]})
            assert (case.error(feeds, moved) > case.tolerance.absolute) == wrong
