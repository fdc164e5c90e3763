"""The golden clip of a bundle: input frames and the outputs its engines are held to."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.folders import replacing_file
from superlower.program import files
from superlower.program.model import Frame

Array = NDArray[np.float32]

GOLDEN_FILE = files.GOLDEN_FILE
_CHOICES = "choices."


@dataclass(frozen=True, eq=False)
class GoldenClip:
    """Frames in and outputs out of the reference.

    Attributes:
        frames: input stream, each [1, C, H, W] on the contract's range.
        outputs: output stream, as many, each [1, C, scale*H, scale*W].
        source: where the frames come from.
        reference: what computed the outputs.
        choices: what the program's routes chose, by stream, as int32 elements (see
            `superlower.program.routes`); engines are held to the outputs with these.
    """

    frames: tuple[Array, ...]
    outputs: tuple[Array, ...]
    source: str
    reference: str
    choices: Mapping[str, tuple[NDArray[np.int32], ...]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one .npz, aside first and then under its name."""
        arrays: dict[str, Any] = {
            "frames": np.stack(self.frames),
            "outputs": np.stack(self.outputs),
            "source": np.array(self.source),
            "reference": np.array(self.reference),
            **{_CHOICES + stream: np.stack(elements) for stream, elements in self.choices.items()},
        }
        with replacing_file(path) as aside:
            np.savez(aside, **arrays)

    @staticmethod
    def load(path: Path) -> GoldenClip:
        """Read what `save` wrote.

        Raises:
            BadInputError: missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                return GoldenClip(
                    tuple(data["frames"]),
                    tuple(data["outputs"]),
                    str(data["source"]),
                    str(data["reference"]),
                    {
                        name.removeprefix(_CHOICES): tuple(data[name])
                        for name in data.files
                        if name.startswith(_CHOICES)
                    },
                )
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadInputError(f"golden clip {path} can't be read: {error}") from None


def moving_texture(frame: Frame, count: int, seed: int = 0) -> list[Array]:
    """A made-up clip for want of a real one: smooth noise that drifts by fractions of a pixel a frame.

    Its spectrum falls as 1/f, as that of natural images; the drift is about (0.7, -1.3) pixels a frame.

    Args:
        frame: the contract.
        count: frames.
        seed: of the noise.

    Returns:
        Input stream elements, float32 [1, C, padded H, padded W] on the contract's range.
    """
    height, width = frame.padded
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    spectrum = np.fft.fft2(rng.standard_normal((frame.channels, height, width))) * falloff
    spectrum[:, 0, 0] = 0
    low, high = frame.range
    clip = []
    for t in range(count):
        shifted = spectrum * np.exp(-2j * np.pi * (fy * 0.7 * t - fx * 1.3 * t))
        picture = np.fft.ifft2(shifted).real
        picture = np.clip(0.5 + picture / (6 * picture.std()), 0, 1)
        clip.append(np.ascontiguousarray((low + (high - low) * picture)[None], np.float32))
    return clip


def frame_errors(
    outputs: Sequence[NDArray[np.generic]], reference: Sequence[NDArray[np.generic]], value_range: float
) -> tuple[list[float], list[float]]:
    """Largest absolute error and PSNR in dB of each frame.

    A reference whose values span more than twice the range is no picture: seeded weights make such, larger
    with every frame, and rounding with them. Its errors count as if it spanned just that.

    A NaN or an infinity in either is an infinite error, whose PSNR is minus infinity; the PSNR of identical
    frames is infinity.
    """
    worst: list[float] = []
    psnr: list[float] = []
    for output, right in zip(outputs, reference, strict=True):
        expected = np.asarray(right, np.float64)
        error = np.abs(np.asarray(output, np.float64) - expected)
        finite = expected[np.isfinite(expected)]
        span = float(np.ptp(finite)) if finite.size else 0.0
        error = np.where(np.isfinite(error), error, np.inf) / max(1.0, span / (2 * value_range))
        worst.append(float(error.max()))
        square = np.mean(error**2)
        with np.errstate(divide="ignore"):
            psnr.append(float(20 * np.log10(value_range) - 10 * np.log10(square)))
    return worst, psnr
