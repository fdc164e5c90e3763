"""Where the chart puts errors, and what it does with those a logarithm can't place."""

from __future__ import annotations

import math
from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.report import chart
from superlower.report.chart import error_chart
from support.report import variant_check

ERRORS = st.one_of(
    st.floats(min_value=0, max_value=1e6), st.just(inf), st.just(nan), st.just(0.0), st.just(5e-324)
)


def test_nothing_ran_no_chart():
    skipped = variant_check(passed=None, max_abs=(), psnr_db=(), skipped="no GPU")
    assert error_chart([]) is None
    assert error_chart([skipped]) is None


def test_a_decade_is_the_same_height_everywhere():
    drawn = error_chart([variant_check(max_abs=(1e-6, 1e-5, 1e-4, 1e-3))])
    heights = [p.y for p in drawn.series[0].points]
    steps = [a - b for a, b in pairwise(heights)]
    # Coordinates are rounded to 0.01 user units, so a difference of two is off by 0.01 at most.
    assert steps == pytest.approx([steps[0]] * 3, abs=0.011)
    assert steps[0] > 0
    assert drawn.limits[0].at == heights[-1]


def test_zeros_lie_under_and_non_numbers_over_every_number():
    drawn = error_chart([variant_check(max_abs=(0.0, 1e-6, inf, nan, 1e-2))])
    zero, low, infinite, not_a_number, high = (p.y for p in drawn.series[0].points)
    assert zero > low > high > infinite == not_a_number
    assert {"0", "∞, NaN"} <= {tick.label for tick in drawn.y_ticks}


def test_lines_beyond_the_colours_are_dashed():
    checks = [variant_check(f"b{i}-cpu-fp32") for i in range(chart.STYLES + 2)]
    series = error_chart(checks).series
    assert len({(s.style, s.dashed) for s in series}) == len(checks)


@settings(deadline=None)
@given(st.lists(st.lists(ERRORS, min_size=1, max_size=30), min_size=1, max_size=4))
def test_everything_stays_inside_the_frame(clips):
    drawn = error_chart([variant_check(f"b{i}-cpu-fp32", max_abs=tuple(c)) for i, c in enumerate(clips)])
    points = [p for s in drawn.series for p in s.points]
    assert len(points) == sum(map(len, clips))
    for p in points:
        assert drawn.left <= p.x <= drawn.right
        assert drawn.top <= p.y <= drawn.bottom
    for tick in (*drawn.y_ticks, *drawn.limits):
        assert drawn.top <= tick.at <= drawn.bottom
    assert not any(math.isnan(p.y) for p in points)


@pytest.mark.parametrize("frames", [1, 2, 12, 13, 100, 101, 999, 5000])
def test_frame_labels_are_few_and_start_at_the_first(frames):
    drawn = error_chart([variant_check(max_abs=(1e-5,) * frames)])
    labels = [int(tick.label) for tick in drawn.x_ticks]
    assert labels[0] == 0
    assert len(labels) <= 12
    assert labels[-1] < frames
    assert len({b - a for a, b in pairwise(labels)}) <= 1


def test_long_clips_have_lines_and_no_markers():
    (series,) = error_chart([variant_check(max_abs=(1e-5,) * 500)]).series
    assert series.points == ()
    assert series.line.count("L") == 499
