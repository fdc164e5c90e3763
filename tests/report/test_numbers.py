"""Numbers: what is read off the page, and the exact value behind it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.report import numbers

SHOWN = re.compile(r'<data value="([^"]*)">([^<]*)</data>')


def shown(markup: str) -> str:
    match = SHOWN.fullmatch(markup)
    assert match is not None, markup
    return match[2]


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (numbers.error, 3.2449e-7, "3.24e-07"),
        (numbers.error, 0.0, "0"),
        (numbers.error, float("inf"), "∞"),
        (numbers.error, float("nan"), "NaN"),
        (numbers.decibels, 33.456, "33.46 dB"),
        (numbers.decibels, None, "identical"),
        (numbers.decibels, float("inf"), "identical"),
        (numbers.decibels, float("-inf"), "−∞"),  # noqa: RUF001
        (numbers.times, 0.7496, "0.750×"),  # noqa: RUF001
        (numbers.times, 0.99999, "1.00×"),  # noqa: RUF001
        (numbers.times, 9.999, "10.0×"),  # noqa: RUF001
        (numbers.milliseconds, 724.25, "724 ms"),
        (numbers.milliseconds, 0.0312, "0.0312 ms"),
        (numbers.seconds, 41.27, "41.3 s"),
        (numbers.seconds, 0.012, "12 ms"),
        (numbers.size, 999, "999 B"),
        (numbers.size, 1000, "1.00 kB"),
        (numbers.size, 19_000_000, "19.0 MB"),
        (numbers.size, 999_950_000, "1.00 GB"),
    ],
)
def test_text(show, value, text):
    assert shown(show(value)) == text


@pytest.mark.parametrize(
    "show", [numbers.error, numbers.times, numbers.milliseconds, numbers.seconds, numbers.size]
)
def test_no_number_is_a_dash_and_no_data(show):
    assert "<data" not in show(None)
    assert numbers.ABSENT in show(None)


@settings(deadline=None)
@given(st.floats(min_value=0, allow_nan=False))
def test_the_exact_value_stands_behind_an_error(value):
    match = SHOWN.fullmatch(numbers.error(value))
    assert float(match[1]) == value


@settings(deadline=None)
@given(st.floats(min_value=1e-4, max_value=1e5))
def test_three_digits_are_within_their_rounding(value):
    # Three significant digits are within half a unit of the third: 0.5 % at most, as 1.005 is shown as 1.00.
    assert float(shown(numbers.times(value))[:-1]) == pytest.approx(value, rel=5.001e-3)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**15))
def test_sizes_are_within_their_rounding(count):
    amount, unit = numbers.size_text(count).split()
    assert float(amount) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit) == pytest.approx(
        count, rel=5.001e-3
    )
