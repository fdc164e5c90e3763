"""MATLAB's bicubic imresize against its definition, written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.media.resize import imresize, taps, to_uint8

# Weights of a double sum to 1 within a few roundings of 2**-53; 16 taps of pixels up to 255 leave 1e-11.
ROUNDING = 1e-10


def keys(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def by_definition(row: np.ndarray, scale: float, size: int) -> list[float]:
    """One axis in MATLAB's 1-based coordinates: a weighted mean over every position in reach."""
    shrink = min(scale, 1.0)
    out = []
    for x in range(1, size + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        total = weight = 0.0
        for position in range(int(u - 4 / shrink) - 1, int(u + 4 / shrink) + 2):
            w = keys(shrink * (u - position))
            inside = position
            while not 1 <= inside <= len(row):
                inside = 1 - inside if inside < 1 else 2 * len(row) + 1 - inside
            total += w * row[inside - 1]
            weight += w
        out.append(total / weight)
    return out


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 23),
    st.integers(1, 23),
    st.sampled_from([1 / 2, 1 / 3, 1 / 4, 2, 3, 4]),
    st.integers(0, 2**32 - 1),
)
def test_it_is_the_definition(height: int, width: int, scale: float, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width))
    high, wide = (int(np.ceil(round(side * scale, 6))) for side in (height, width))
    rows = np.array([by_definition(image[:, x], scale, high) for x in range(width)]).T
    both = np.array([by_definition(rows[y], scale, wide) for y in range(high)])
    np.testing.assert_allclose(imresize(image, scale), both, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("scale", "count"), [(1 / 4, 16), (1 / 2, 8), (4, 4), (2, 4)])
def test_kernel_widths(scale: float, count: int) -> None:
    assert taps(64, scale)[1].shape[1] == count


def test_shrinking_by_three_is_centred_on_a_pixel() -> None:
    """Output 4 is centred on input 13; three and six pixels away the stretched cubic is zero."""
    indices, weights = taps(30, 1 / 3)
    heavy = indices[4][np.abs(weights[4]) > 1e-9]
    assert heavy.tolist() == [8, 9, 11, 12, 13, 14, 15, 17, 18]
    assert indices[4][weights[4].argmax()] == 13


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 1 / 2, 2, 3, 4])
def test_weights_are_normalised(scale: float) -> None:
    np.testing.assert_allclose(taps(37, scale)[1].sum(1), 1, rtol=0, atol=1e-15 * 16)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 1 / 2, 2, 3, 4])
def test_a_constant_stays(scale: float) -> None:
    np.testing.assert_allclose(imresize(np.full((24, 36, 3), 77), scale), 77, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 2, 4])
def test_a_ramp_stays_a_ramp_away_from_the_edges(scale: float) -> None:
    """Keys' cubic reproduces straight lines; output pixel i stands at (i + 0.5) / scale - 0.5."""
    ramp = np.tile(np.arange(96.0), (40, 1))
    out = imresize(ramp, scale)
    expected = (np.arange(out.shape[1]) + 0.5) / scale - 0.5
    reach = int(np.ceil(9 * max(scale, 1 / scale)))
    inner = (expected > reach) & (expected < 95 - reach)
    assert inner.sum() > 2
    np.testing.assert_allclose(out[5, inner], expected[inner], rtol=0, atol=ROUNDING)


def test_sizes_round_up() -> None:
    assert imresize(np.zeros((9, 10, 3)), 1 / 4).shape == (3, 3, 3)
    assert imresize(np.zeros((9, 12)), 1 / 3).shape == (3, 4)


def test_halves_round_up_and_values_are_clamped() -> None:
    assert to_uint8(np.array([-3, 0.49, 0.5, 1.5, 2.5, 254.5, 300])).tolist() == [0, 0, 1, 2, 3, 255, 255]
