"""The metrics of a clip by name, each fed one frame and its ground truth at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from superlower.errors import BadInputError, MissingSdkError, unknown_name
from superlower.metrics.flow import missing_opencv, optical_flow, tof
from superlower.metrics.perceptual import Distance, lpips_distance, missing_lpips
from superlower.metrics.psnr import AnyImage, Image, cropped, luma, psnr
from superlower.metrics.ssim import ssim

Scorer = Callable[[Image, Image], float | None]
"""Of a frame and its ground truth, uint8 [H, W, 3] or luma [H, W], in order: the score, or None for the first
frame of metrics that compare neighbours."""


@dataclass(frozen=True)
class Metric:
    """How clips are compared.

    Attributes:
        title: for a table's head, with the unit.
        better: higher or lower.
        start: makes a scorer for one clip, given the border to leave out and whether luma is rounded.
        missing: why it can't be measured here, with the install command; None if it can.
    """

    title: str
    better: str
    start: Callable[[int, bool], Scorer]
    missing: Callable[[], str | None] = lambda: None


def _psnr(border: int, rounded: bool) -> Scorer:
    return lambda image, reference: psnr(_luma(image, rounded), _luma(reference, rounded), border=border)


def _ssim(border: int, rounded: bool) -> Scorer:
    return lambda image, reference: ssim(_luma(image, rounded), _luma(reference, rounded), border=border)


class _Flicker:
    """Mean of |(y[t] - y[t-1]) - (g[t] - g[t-1])| over luma, in levels of 255.

    An error that stays as it is doesn't flicker; one that comes and goes counts each time, motion or none.
    """

    def __init__(self, border: int, rounded: bool) -> None:
        self._border, self._rounded = border, rounded
        self._before: np.ndarray | None = None

    def __call__(self, image: Image, reference: Image) -> float | None:
        a, b = cropped(_luma(image, self._rounded), _luma(reference, self._rounded), self._border)
        # The change of the error is the error of the change.
        before, self._before = self._before, a - b
        return None if before is None else float(np.mean(np.abs(self._before - before)))


class _TemporalFlow:
    """tOF between each frame and the one before."""

    def __init__(self, border: int, _: bool) -> None:
        self._border = border
        self._before: tuple[Image, Image] | None = None

    def __call__(self, image: Image, reference: Image) -> float | None:
        before, self._before = self._before, (_rgb(image), _rgb(reference))
        if before is None:
            return None
        moved, truly = optical_flow(before[0], image), optical_flow(before[1], reference)
        return tof(moved, truly, border=self._border)


class _Lpips:
    """LPIPS of each frame and its ground truth."""

    def __init__(self, border: int, _: bool, distance: Distance | None = None) -> None:
        self._border = border
        self._distance = distance or lpips_distance()

    def __call__(self, image: Image, reference: Image) -> float | None:
        return self._distance(_inner(image, self._border), _inner(reference, self._border))


class _TemporalLpips:
    """tLP: |LPIPS(y[t-1], y[t]) - LPIPS(g[t-1], g[t])| (TecoGAN, section 5.3, in tables times 100)."""

    def __init__(self, border: int, _: bool, distance: Distance | None = None) -> None:
        self._border = border
        self._distance = distance or lpips_distance()
        self._before: tuple[Image, Image] | None = None

    def __call__(self, image: Image, reference: Image) -> float | None:
        before, self._before = self._before, (_inner(image, self._border), _inner(reference, self._border))
        if before is None:
            return None
        ours, theirs = (self._distance(a, b) for a, b in zip(before, self._before, strict=True))
        return abs(ours - theirs)


def _luma(image: Image, rounded: bool) -> AnyImage:
    """[H, W]: of RGB, or as it is."""
    return image if image.ndim == 2 else luma(image, rounded=rounded)


def _rgb(image: Image) -> Image:
    if image.ndim != 3 or image.dtype != np.uint8:
        raise BadInputError(f"flow and LPIPS are of uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image


def _inner(picture: Image, border: int) -> Image:
    image = _rgb(picture)
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


METRICS = {
    "psnr": Metric("PSNR-Y dB", "higher", _psnr),
    "ssim": Metric("SSIM-Y", "higher", _ssim),
    "lpips": Metric("LPIPS", "lower", _Lpips, missing_lpips),
    "tof": Metric("tOF px", "lower", _TemporalFlow, missing_opencv),
    "tlp": Metric("tLP", "lower", _TemporalLpips, missing_lpips),
    "flicker": Metric("flicker levels", "lower", _Flicker),
}
"""By name, as `--metrics` takes them."""

DEFAULT = ("psnr", "ssim")


def scorers(names: Sequence[str], *, border: int = 0, rounded: bool = False) -> dict[str, Scorer]:
    """Scorers for one clip, by name.

    Args:
        names: of `METRICS`.
        border: pixels left out at each edge.
        rounded: round luma to whole levels first.

    Raises:
        BadInputError: an unknown name, or none.
        MissingSdkError: a metric's library or weights aren't here.
    """
    if not names:
        raise BadInputError(f"no metrics were asked for: name some of {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
        if (reason := METRICS[name].missing()) is not None:
            raise MissingSdkError(f"{name} can't be measured: {reason}")
    return {name: METRICS[name].start(border, rounded) for name in dict.fromkeys(names)}
