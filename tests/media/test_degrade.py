"""Low-resolution frames as the papers make them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from superlower.errors import BadInputError
from superlower.media.degrade import bd_9, bd_13, bd_basicvsr, bi

BLURS = {
    # name: (function, taps, sigma, where LR pixel k stands in the ground truth, padding)
    "basicvsr": (bd_basicvsr, 12, 1.6, 1.5, "edge"),
    "13": (bd_13, 13, 1.6, 0.0, "reflect"),
    "9": (bd_9, 9, 1.5, 0.0, "reflect"),
}


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (28, 36, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", BLURS)
def test_blur_is_the_square_kernel_at_its_phase(name: str, frame: np.ndarray) -> None:
    """Against a two-dimensional Gaussian laid over every kept position, one by one."""
    blur, size, sigma, phase, padding = BLURS[name]
    reach = np.arange(size) - (size - 1) / 2
    square = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * sigma**2))
    square /= square.sum()
    padded = np.pad(frame, ((16, 16), (16, 16), (0, 0)), mode=padding).astype(float)
    low = blur(frame)
    assert low.shape == (7, 9, 3)
    for y in range(7):
        for x in range(9):
            top, left = (int(16 + 4 * k + phase + reach[0]) for k in (y, x))
            window = padded[top : top + size, left : left + size]
            exact = np.einsum("yx,yxc->c", square, window)
            # Half a level from rounding; the sums' own error is far below.
            assert np.abs(low[y, x] - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", BLURS)
def test_phase_on_a_ramp(name: str) -> None:
    """A ramp shows where each pixel was taken from: 4k + 1.5 for BasicVSR, 4k for the others."""
    blur, _, _, phase, _ = BLURS[name]
    ramp = np.repeat(np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))[..., None], 3, axis=2)
    low = blur(ramp)[5, 4:-4, 0]
    expected = 2 * (4 * np.arange(4, 4 + len(low)) + phase)
    assert low.tolist() == expected.tolist()


@pytest.mark.parametrize("degrade", [bd_basicvsr, bd_13, bd_9, lambda x: bi(x, 4), lambda x: bi(x, 3)])
def test_a_constant_stays(degrade: Callable[[np.ndarray], np.ndarray]) -> None:
    frame = np.full((24, 24, 3), 201, np.uint8)
    assert (degrade(frame) == 201).all()


@pytest.mark.parametrize(("height", "rows"), [(28, 7), (29, 7), (30, 7), (31, 7), (32, 8)])
def test_basicvsr_keeps_whole_blocks_only(height: int, rows: int) -> None:
    """MATLAB's 2:4:end-2."""
    frame = np.zeros((height, 16, 3), np.uint8)
    assert bd_basicvsr(frame).shape[0] == rows == len(range(2, height - 2 + 1, 4))


def test_bi_halves_a_checkerboard_to_gray() -> None:
    """Every second pixel is what antialiasing must remove."""
    board = np.indices((32, 32)).sum(0) % 2 * 254
    low = bi(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 2)
    assert (low[4:-4, 4:-4] == 127).all()


def test_refusals(frame: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="too small"):
        bd_13(frame[:6])
    with pytest.raises(BadInputError, match="can't shrink"):
        bi(frame, 0)
