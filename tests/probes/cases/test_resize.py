"""Resize's reference by hand, and that its nearest pixels hang on no rounding."""

from __future__ import annotations

import numpy as np
import pytest

from superlower.probes.cases import cases, resize
from superlower.probes.cases._resampling import Axis, Resampling, matrix, positions


def axis(old: int, new: int, scale: float | None = None) -> Axis:
    """Of sizes, or of a scale where one is given."""
    if scale is None:
        return Axis(old, new, new / old, float(new))
    return Axis(old, new, scale, old * scale)


@pytest.mark.parametrize(
    ("transformation", "expected"),
    [
        ("half_pixel", [-0.25, 0.25, 0.75, 1.25]),
        ("pytorch_half_pixel", [-0.25, 0.25, 0.75, 1.25]),
        ("half_pixel_symmetric", [-0.25, 0.25, 0.75, 1.25]),
        ("asymmetric", [0, 0.5, 1, 1.5]),
        ("align_corners", [0, 1 / 3, 2 / 3, 1]),
    ],
)
def test_positions_by_hand(transformation: str, expected: list[float]) -> None:
    assert positions(axis(2, 4), Resampling("linear", transformation)) == pytest.approx(expected)


def test_positions_of_a_fractional_length() -> None:
    # 5 pixels, 2.4 times: a target of 12.0 but for fp32; 2.5 times: 12.5, made 12.
    how = Resampling("linear", "half_pixel_symmetric")
    made = positions(axis(5, 12, 2.5), how)
    assert made + made[::-1] == pytest.approx(np.full(12, 4.0))  # Symmetric about the centre, 2.
    plain = positions(axis(5, 12, 2.5), Resampling("linear", "half_pixel"))
    assert plain[0] == pytest.approx(0.5 / 2.5 - 0.5)
    assert plain[0] + plain[-1] != pytest.approx(4.0)


def test_one_pixel_wide() -> None:
    assert positions(axis(5, 1), Resampling("linear", "pytorch_half_pixel")).tolist() == [0.0]
    assert positions(axis(5, 1), Resampling("linear", "half_pixel")).tolist() == [2.0]
    crop = Axis(5, 1, 0.2, 1.0, 0.25, 0.75)
    assert positions(crop, Resampling("linear", "tf_crop_and_resize")).tolist() == [2.0]


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("round_prefer_floor", [0, 0, 1, 1]),
        ("round_prefer_ceil", [0, 1, 1, 1]),
        ("floor", [0, 0, 1, 1]),
        ("ceil", [0, 1, 1, 1]),
    ],
)
def test_nearest_by_hand(rounding: str, expected: list[int]) -> None:
    how = Resampling("nearest", "asymmetric", nearest_mode=rounding)
    assert matrix(axis(2, 4), how).argmax(axis=1).tolist() == expected


def test_antialiasing_is_a_wider_triangle() -> None:
    # Halving: a triangle of half-width 2 about 0.5 weighs -1 .. 2 by 1/4, 3/4, 3/4, 1/4, over 2.
    weights = matrix(axis(4, 2, 0.5), Resampling("linear", antialias=True))
    assert weights[0] == pytest.approx([(1 + 3) / 8, 3 / 8, 1 / 8, 0])  # The border's pixel stands for -1.
    inside = matrix(axis(4, 2, 0.5), Resampling("linear", antialias=True, exclude_outside=True))
    assert inside[0] == pytest.approx([3 / 7, 3 / 7, 1 / 7, 0])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transformation", [*resize.TRANSFORMATIONS])
@pytest.mark.parametrize("antialias", [False, True])
def test_weights_sum_to_one(mode: str, transformation: str, antialias: bool) -> None:
    for old, new in ((7, 11), (9, 4), (5, 5)):
        for outside in (False, True):
            how = Resampling(mode, transformation, antialias=antialias, exclude_outside=outside)
            assert matrix(axis(old, new), how).sum(axis=1) == pytest.approx(np.ones(new))


def test_nearest_positions_are_exact_or_far_from_where_pixels_change() -> None:
    """So the tolerance of nearest may be zero: no rounding of a position moves it to another pixel."""
    checked = 0
    for opset in (13, 18, 19):
        for kind in (resize.FP32, resize.FP16):
            for form in resize._forms(opset, kind):
                if form.how.mode != "nearest":
                    continue
                for each in form.axes():
                    p = positions(each, form.how)
                    halves = form.how.nearest_mode.startswith("round")
                    apart = np.abs(p - 0.5 - np.rint(p - 0.5)) if halves else np.abs(p - np.rint(p))
                    # Steps by a power of two are exact, divided by the scale or multiplied by its inverse.
                    step = p[1] - p[0] if len(p) > 1 else 1.0
                    exact = float(np.log2(step)).is_integer()
                    assert exact or apart.min() > 0.01, (form.setting, apart.min())
                    checked += 1
    assert checked > 200


def test_so_are_those_of_wide_frames() -> None:
    for transformation in ("half_pixel", "asymmetric"):
        assert [
            c for c in cases(["Resize"], large=True) if c.name.split("/")[1] == f"nearest-{transformation}"
        ]
        steps = np.diff(positions(axis(1920, 3840), Resampling("nearest", transformation)))
        assert np.array_equal(steps, np.full(3839, 0.5))
