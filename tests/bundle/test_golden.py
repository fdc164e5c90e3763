from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from superlower.bundle.golden import GoldenClip, frame_errors, moving_texture
from superlower.errors import BadInputError
from superlower.program.model import Frame


def clip() -> GoldenClip:
    rng = np.random.default_rng(0)
    frames = tuple(rng.random((3, 1, 3, 4, 5), np.float32))
    return GoldenClip(frames, tuple(rng.random((3, 1, 3, 8, 10), np.float32)), "noise", "a test")


def test_a_saved_clip_is_the_same(tmp_path: Path) -> None:
    saved = clip()
    saved.save(tmp_path / "golden.npz")
    found = GoldenClip.load(tmp_path / "golden.npz")
    assert all(map(np.array_equal, found.frames, saved.frames))
    assert all(map(np.array_equal, found.outputs, saved.outputs))
    assert (found.source, found.reference) == ("noise", "a test")
    assert [p.name for p in tmp_path.iterdir()] == ["golden.npz"]


def test_a_damaged_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    clip().save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", frames=np.zeros(1))
    for damaged in (b"", b"PK\x03\x04", whole[: len(whole) // 2], (tmp_path / "other.npz").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(BadInputError, match=r"golden clip .*golden.npz can't be read"):
            GoldenClip.load(path)
    with pytest.raises(BadInputError, match="can't be read"):
        GoldenClip.load(tmp_path / "none.npz")


def test_errors_of_frames_by_hand() -> None:
    reference = [np.zeros((1, 1, 2, 2), np.float32)] * 3
    off = np.array([[[[0.1, 0], [0, -0.3]]]])
    nan = np.array([[[[0, np.nan], [0, 0]]]])
    worst, psnr = frame_errors([reference[0], off, nan], reference, 2.0)
    assert worst == [0.0, 0.3, np.inf]
    # 10 log10(range^2 / mean square), the mean square being (0.01 + 0.09) / 4.
    assert psnr[0] == np.inf
    assert psnr[1] == pytest.approx(10 * np.log10(4 / 0.025))
    assert psnr[2] == -np.inf


def test_errors_of_what_is_no_picture_count_by_its_span() -> None:
    """Up to twice the range, as a sharpened edge's, values are taken as they are."""
    picture = np.array([-0.5, 1.5])
    off = np.array([0.0, 0.01])
    worst, psnr = frame_errors([picture + off, 300 * picture + off], [picture, 300 * picture], 1.0)
    assert worst == pytest.approx([0.01, 0.01 / 300])
    assert psnr[1] - psnr[0] == pytest.approx(20 * np.log10(300))
    worst, psnr = frame_errors([picture, 300 * picture], [300 * picture, np.array([np.nan, 600.0])], 1.0)
    assert worst == pytest.approx([1.5 * 299 / 300, np.inf])
    assert psnr[1] == -np.inf


def test_the_texture_moves_as_it_says_and_keeps_to_the_range() -> None:
    frame = Frame(height=30, width=46, multiple=16, range=(-1.0, 1.0))
    frames = moving_texture(frame, 3, seed=4)
    assert all(f.shape == (1, 3, 32, 48) and f.dtype == np.float32 for f in frames)
    assert min(f.min() for f in frames) >= -1
    assert max(f.max() for f in frames) <= 1
    assert np.array_equal(frames[1], moving_texture(frame, 2, seed=4)[1])
    assert not np.array_equal(frames[1], moving_texture(frame, 2, seed=5)[1])
    # Cross-correlation of two frames peaks at their displacement: (0.7, -1.3) a frame is (7, -13) in ten.
    first, tenth = (moving_texture(frame, 11, seed=4)[t][0, 0] for t in (0, 10))
    spectra = [np.fft.fft2(f - f.mean()) for f in (first, tenth)]
    correlation = np.fft.ifft2(spectra[1] * spectra[0].conj()).real
    y, x = np.unravel_index(correlation.argmax(), correlation.shape)
    assert (y, x) == (7, 48 - 13)
