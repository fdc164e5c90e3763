"""Quality of a whole clip: each frame scored by itself, then averaged, as the papers' tables do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean

from superlower.errors import BadInputError
from superlower.metrics.psnr import Image, luma, psnr
from superlower.metrics.ssim import ssim


@dataclass(frozen=True)
class Quality:
    """Luma PSNR in dB and SSIM of every frame of a clip, in order."""

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def mean_psnr(self) -> float:
        """Mean of the frames' PSNR in dB: infinite as soon as one frame equals its reference."""
        return fmean(self.psnr)

    @property
    def mean_ssim(self) -> float:
        """Mean of the frames' SSIM."""
        return fmean(self.ssim)


def clip_quality(
    frames: Iterable[Image],
    references: Iterable[Image],
    *,
    border: int = 0,
    rounded: bool = False,
) -> Quality:
    """Score a clip against its ground truth, a frame at a time.

    Args:
        frames, references: uint8 [H, W, 3] each, or [H, W] of luma as it is; as many of one as of the other.
        border: pixels left out at each edge.
        rounded: round luma of RGB to whole levels first.
    """
    scores: list[tuple[float, float]] = []
    for image, reference in zip_longest(frames, references):
        if image is None or reference is None:
            raise BadInputError(f"the clips to compare differ in length: only one has a frame {len(scores)}")
        a, b = (x if x.ndim == 2 else luma(x, rounded=rounded) for x in (image, reference))
        scores.append((psnr(a, b, border=border), ssim(a, b, border=border)))
    if not scores:
        raise BadInputError("there are no frames to compare")
    return Quality(tuple(p for p, _ in scores), tuple(s for _, s in scores))
