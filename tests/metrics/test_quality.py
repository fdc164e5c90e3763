"""PSNR and SSIM: against their definitions, and against published setups on Vid4."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from superlower.errors import BadInputError
from superlower.media.degrade import bi
from superlower.media.resize import imresize, to_uint8
from superlower.metrics.clip import clip_quality
from superlower.metrics.psnr import luma, psnr, psnr_y
from superlower.metrics.ssim import ssim, ssim_y

_DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "oracles"
VID4 = Path(os.environ.get("SUPERLOWER_ORACLES", _DEFAULT)) / "vid4"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_psnr_of_a_known_error() -> None:
    """One level off everywhere is 20 log10(255) = 48.1308 dB; ten levels are 20 dB less."""
    plane = np.full((8, 8), 100.0)
    assert psnr(plane, plane + 1) == pytest.approx(48.130803608679, abs=1e-9)
    assert psnr(plane, plane - 10) == pytest.approx(28.130803608679, abs=1e-9)
    assert psnr(plane / 255, (plane + 1) / 255, peak=1) == pytest.approx(48.130803608679, abs=1e-6)
    assert psnr(plane, plane) == float("inf")


def test_border_is_left_out() -> None:
    reference = np.zeros((10, 12))
    image = reference.copy()
    image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = 255
    assert psnr(image, reference, border=2) == float("inf")
    assert psnr(image, reference, border=1) < 10


def test_luma_and_its_rounding() -> None:
    colours = np.uint8([[[255, 255, 255], [255, 0, 0], [0, 0, 255], [1, 1, 1]]])
    np.testing.assert_allclose(luma(colours), [[235, 81.481, 40.966, 16 + 219 / 255]], rtol=0, atol=1e-9)
    assert luma(colours, rounded=True).tolist() == [[235, 81, 41, 17]]


def test_psnr_of_luma() -> None:
    """Blue weighs 24.966/255 of a level: red off by 2 is luma off by 2 * 65.481 / 255."""
    a = np.full((4, 4, 3), 128, np.uint8)
    b = a.copy()
    b[..., 0] += 2
    assert psnr_y(b, a) == pytest.approx(20 * np.log10(255 / (2 * 65.481 / 255)), abs=1e-9)


@pytest.mark.parametrize("border", [0, 3])
def test_ssim_is_the_definition(border: int) -> None:
    """Every 11x11 window with the square Gaussian, one by one."""
    a, b = (luma(noise(24, 26, seed)) for seed in (1, 2))
    b = 0.7 * a + 0.3 * b
    reach = np.arange(11) - 5
    weight = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for y in range(border, 24 - border - 10):
        for x in range(border, 26 - border - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (weight * p).sum(), (weight * q).sum()
            vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
            cov = (weight * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    # Means of squares lose some 255**2 * 2**-52 to cancellation, against variances of thousands.
    assert ssim(a, b, border=border) == pytest.approx(np.mean(values), abs=1e-10)


def test_ssim_is_scikit_images() -> None:
    """scikit-image 0.26.0: structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False), which leaves out the five pixels at each edge too."""
    rng = np.random.default_rng(11)
    a = rng.integers(0, 256, (40, 48)).astype(float)
    b = np.clip(np.rint(0.8 * a + 0.2 * rng.integers(0, 256, a.shape)), 0, 255)
    assert ssim(a, b) == pytest.approx(0.9498662963421219, abs=1e-12)


def test_ssim_of_flat_planes_is_the_luminance_term() -> None:
    a, b = np.full((16, 16), 50.0), np.full((16, 16), 100.0)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1), abs=1e-10)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_identical_clips() -> None:
    frames = [noise(16, 16, seed) for seed in range(3)]
    quality = clip_quality(frames, frames)
    assert quality.mean_psnr == float("inf")
    assert quality.mean_ssim == pytest.approx(1, abs=1e-12)


def test_clips_are_averaged_over_frames() -> None:
    frames, references = ([noise(16, 18, seed) for seed in seeds] for seeds in ((0, 1, 2), (3, 4, 5)))
    quality = clip_quality(iter(frames), iter(references))
    one_by_one = [psnr_y(a, b) for a, b in zip(frames, references, strict=True)]
    assert quality.psnr == tuple(one_by_one)
    assert quality.mean_psnr == pytest.approx(sum(one_by_one) / 3, rel=1e-14)
    assert quality.ssim[1] == ssim_y(frames[1], references[1])


def test_refusals() -> None:
    a, b = noise(16, 16), noise(16, 18)
    with pytest.raises(BadInputError, match="sizes differ"):
        psnr(a, b)
    with pytest.raises(BadInputError, match="leaves nothing"):
        psnr(a, a, border=8)
    with pytest.raises(BadInputError, match="11x11"):
        ssim(a[:10, :, 0], a[:10, :, 0])
    with pytest.raises(BadInputError, match="one plane"):
        ssim(a, a)
    with pytest.raises(BadInputError, match="uint8"):
        luma(a.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="only one has a frame 1"):
        clip_quality([a, a], [a])
    with pytest.raises(BadInputError, match="no frames"):
        clip_quality([], [])


def bicubic(clip: str, frames: range) -> tuple[float, float]:
    if not (VID4 / clip).is_dir():
        pytest.skip(f"Vid4 isn't at {VID4}: set SUPERLOWER_ORACLES")
    truth = [np.asarray(Image.open(VID4 / clip / f"hr_{n:02d}.png").convert("RGB")) for n in frames]
    quality = clip_quality((to_uint8(imresize(bi(frame, 4), 4)) for frame in truth), truth)
    return quality.mean_psnr, quality.mean_ssim


# Bicubic down and up again over frames 2 to 30, those a three-frame model has both neighbours of.
PUBLISHED = {"calendar": (20.360, 0.569), "city": (25.152, 0.600)}


@pytest.mark.parametrize("clip", PUBLISHED)
def test_bicubic_on_vid4(clip: str) -> None:
    """To half of the last digit given, and what rounding costs.

    The figures are of upscaled frames that weren't rounded to uint8; ours are. That adds a twelfth of a level
    squared to each colour's error, by BT.601's weights 0.0275 to luma's, which at city's 25.152 dB (an error
    of 198.6) are 0.0006 dB and at calendar's less.
    """
    db, similarity = bicubic(clip, range(2, 31))
    assert abs(db - PUBLISHED[clip][0]) <= 0.0005 + 0.0006
    assert abs(similarity - PUBLISHED[clip][1]) <= 0.0005
