"""What a change to a model costs, in dB."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from superlower.errors import OutputsDifferError
from superlower.metrics.loss import ASSUMED_DB, quality_loss
from superlower.program.model import Frame

FRAME = Frame(height=8, width=8, channels=1, color="y", scale=2)
SHAPE = (1, 1, 16, 16)


def signs(seed: int) -> NDArray[Any]:
    """A pattern of 1 and -1, as many of each."""
    return np.random.default_rng(seed).permutation(np.repeat([1.0, -1.0], 128)).reshape(SHAPE)


def truth_of(luma: int) -> NDArray[np.uint8]:
    """A grey of some luma: R = G = B = v has 16 + 219 v / 255."""
    return np.full((16, 16, 3), round((luma - 16) * 255 / 219), np.uint8)


def test_against_the_truth_it_is_the_difference_of_the_scores() -> None:
    """Errors of 5 and of 10 levels: 20 log10 2 = 6.02 dB."""
    grey = np.full(SHAPE, 126 / 255)
    pictures = [truth_of(126)] * 3
    loss = quality_loss([grey + 5 / 255 * signs(0)] * 3, [grey + 10 / 255 * signs(0)] * 3, FRAME, pictures)
    assert loss.db == pytest.approx(20 * np.log10(2))
    assert loss.before_db == pytest.approx(20 * np.log10(255 / 5))
    assert loss.after_db == pytest.approx(20 * np.log10(255 / 10))
    assert loss.psnr_db == pytest.approx(20 * np.log10(255 / 5))


def test_a_model_that_got_better_lost_less_than_nothing() -> None:
    grey = np.full(SHAPE, 126 / 255)
    loss = quality_loss([grey + 10 / 255 * signs(0)], [grey + 5 / 255 * signs(0)], FRAME, [truth_of(126)])
    assert loss.db == pytest.approx(-20 * np.log10(2))


def test_without_a_truth_squares_add_up() -> None:
    """Of a model that scores what is assumed, and errors that don't correlate, the estimate is the loss."""
    rng = np.random.default_rng(1)
    truth = np.full((1, 1, 256, 256), 0.5)
    frame = Frame(height=128, width=128, channels=1, color="y", scale=2)
    before = truth + rng.normal(0, 10 ** (-ASSUMED_DB / 20), truth.shape)
    after = before + rng.normal(0, 10 ** (-46 / 20), truth.shape)
    estimate = quality_loss([before], [after], frame)
    true = 10 * np.log10(np.mean((after - truth) ** 2) / np.mean((before - truth) ** 2))
    assert estimate.before_db is None
    assert estimate.psnr_db == pytest.approx(46, abs=0.1)
    # The correlation of 65,536 pairs is within 3 / 256 of none, which moves 0.41 dB by 2 (3 / 256) 10^-0.5
    # of the squares, 0.03 dB.
    assert estimate.db == pytest.approx(true, abs=0.04)
    assert true == pytest.approx(10 * np.log10(1 + 10 ** ((ASSUMED_DB - 46) / 10)), abs=0.04)


@pytest.mark.parametrize("truth", [(), [truth_of(126)] * 6], ids=["estimated", "measured"])
def test_the_worst_frame_and_the_last_ones(truth: list[NDArray[np.uint8]]) -> None:
    grey = np.full(SHAPE, 126 / 255)
    before = [grey + 2 / 255 * signs(t) for t in range(6)]
    after = [b + (0 if t < 4 else 4 / 255) * signs(t) for t, b in enumerate(before)]
    loss = quality_loss(before, after, FRAME, truth)
    assert loss.last_db == pytest.approx(loss.worst_db)
    assert loss.db == pytest.approx(loss.worst_db / 3)


@pytest.mark.parametrize("truth", [(), [truth_of(126)]], ids=["estimated", "measured"])
def test_nothing_changed(truth: list[NDArray[np.uint8]]) -> None:
    picture = np.full(SHAPE, 126 / 255, np.float32)
    loss = quality_loss([picture], [picture], FRAME, truth)
    assert (loss.db, loss.worst_db, loss.psnr_db) == (0, 0, 100)


def test_colour_counts_by_its_luma() -> None:
    frame = Frame(height=8, width=8, scale=2)
    grey = np.full((1, 3, 16, 16), 0.5)
    blue = grey + np.array([0, 0, 10 / 255]).reshape(1, 3, 1, 1)
    # 24.966 of 255 levels of blue are luma.
    assert quality_loss([grey], [blue], frame).psnr_db == pytest.approx(
        20 * np.log10(255 / (24.966 * 10 / 255))
    )


def test_padding_is_no_picture() -> None:
    frame = Frame(height=7, width=8, channels=1, color="y", scale=2, multiple=8)
    before = np.full(SHAPE, 0.5)
    after = before.copy()
    after[..., 14:, :] = 0
    assert quality_loss([before], [after], frame).db == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_picture(value: float) -> None:
    after = np.full(SHAPE, 0.5)
    after[0, 0, 3, 3] = value
    with pytest.raises(OutputsDifferError, match="frame 1 holds NaN or infinity"):
        quality_loss([np.full(SHAPE, 0.5)] * 2, [np.full(SHAPE, 0.5), after], FRAME)
