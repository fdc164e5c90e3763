"""Quality of a whole clip: each frame scored by itself, then averaged, as the papers' tables do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean

from superlower.errors import BadInputError
from superlower.metrics.psnr import Image
from superlower.metrics.scorers import DEFAULT, METRICS, scorers


@dataclass(frozen=True)
class Quality:
    """Scores of a clip's frames, in order.

    Attributes:
        scores: by metric (a key of `METRICS`); those that compare with the frame before have one score less.
    """

    scores: Mapping[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """Mean over the frames: of PSNR, infinite as soon as one frame equals its reference."""
        return fmean(self.scores[metric])

    @property
    def psnr(self) -> tuple[float, ...]:
        """Luma PSNR of every frame, in dB."""
        return self.scores["psnr"]

    @property
    def ssim(self) -> tuple[float, ...]:
        """Luma SSIM of every frame."""
        return self.scores["ssim"]

    @property
    def mean_psnr(self) -> float:
        """Mean of the frames' PSNR in dB."""
        return self.mean("psnr")

    @property
    def mean_ssim(self) -> float:
        """Mean of the frames' SSIM."""
        return self.mean("ssim")


def clip_quality(
    frames: Iterable[Image],
    references: Iterable[Image],
    *,
    metrics: Sequence[str] = DEFAULT,
    border: int = 0,
    rounded: bool = False,
) -> Quality:
    """Score a clip against its ground truth, a frame at a time.

    Args:
        frames, references: uint8 [H, W, 3] each, or [H, W] of luma as it is, which metrics on colours refuse;
            as many of one as of the other.
        metrics: keys of `METRICS`.
        border: pixels left out at each edge.
        rounded: round luma of RGB to whole levels first.

    Raises:
        BadInputError: clips of different lengths or sizes, of too few frames, or an unknown metric.
        MissingSdkError: a metric's library or weights aren't here.
    """
    running = scorers(metrics, border=border, rounded=rounded)
    scores: dict[str, list[float]] = {name: [] for name in running}
    count = 0
    for image, reference in zip_longest(frames, references):
        if image is None or reference is None:
            raise BadInputError(f"the clips to compare differ in length: only one has a frame {count}")
        count += 1
        for name, score in running.items():
            if (found := score(image, reference)) is not None:
                scores[name].append(found)
    if not count:
        raise BadInputError("there are no frames to compare")
    if unscored := [METRICS[name].title for name, found in scores.items() if not found]:
        raise BadInputError(f"{', '.join(unscored)} compares frames with the one before: give 2 or more")
    return Quality({name: tuple(found) for name, found in scores.items()})
