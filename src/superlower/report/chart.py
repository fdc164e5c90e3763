"""The error of every variant over the frames, laid out for an inline SVG with a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from superlower.check.crosscheck import VariantCheck

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 44
LANE = 20
"""Height of the lanes for what a logarithm can't place: zeros below, infinities and NaN above."""

STYLES = 8
"""Line colours in the style sheet; further series take them again, dashed."""

_TICKS = 8
_MARKED = 80
"""Up to this many frames each has a marker of its own."""


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Point:
    """One frame of one series."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Series:
    """One variant's line: `line` is an SVG path, style a number below STYLES."""

    name: str
    style: int
    dashed: bool
    line: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """A laid-out chart in user units; y grows downwards."""

    frames: int
    series: tuple[Series, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limits: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def error_chart(checks: Sequence[VariantCheck]) -> Chart | None:
    """Lay out max_abs over the frames of every variant that ran; None if none did."""
    ran = [check for check in checks if check.max_abs]
    if not ran:
        return None
    values = [value for check in ran for value in check.max_abs]
    limits = sorted({check.tolerance for check in ran if isfinite(check.tolerance) and check.tolerance > 0})
    axis = _Axis(values, limits)
    frames = max(len(check.max_abs) for check in ran)
    return Chart(
        frames=frames,
        series=tuple(_series(i, check, frames, axis) for i, check in enumerate(ran)),
        x_ticks=tuple(Tick(_x(t, frames), str(t)) for t in range(0, frames, _step(frames))),
        y_ticks=axis.ticks,
        limits=tuple(Tick(axis.y(limit), f"tolerance {limit:.3g}") for limit in limits),
    )


class _Axis:
    """Errors to heights: whole decades around the positive ones, a lane each for zeros and non-numbers."""

    def __init__(self, values: Sequence[float], limits: Sequence[float]) -> None:
        placed = [v for v in (*values, *limits) if isfinite(v) and v > 0] or [1.0]
        self._low = floor(log10(min(placed)))
        self._high = max(ceil(log10(max(placed))), self._low + 1)
        zeros, beyond = any(v == 0 for v in values), any(not isfinite(v) for v in values)
        self._top = TOP + LANE * beyond
        self._bottom = HEIGHT - BOTTOM - LANE * zeros
        step = ceil((self._high - self._low) / _TICKS)
        ticks = [Tick(self.y(10.0**e), f"1e{e}") for e in range(self._low, self._high + 1, step)]
        if zeros:
            ticks.insert(0, Tick(self.y(0.0), "0"))
        if beyond:
            ticks.append(Tick(self.y(float("inf")), "∞, NaN"))
        self.ticks = tuple(ticks)

    def y(self, value: float) -> float:
        if not isfinite(value):
            return float(TOP)
        if value <= 0:
            return float(HEIGHT - BOTTOM)
        share = (log10(value) - self._low) / (self._high - self._low)
        return round(self._bottom - share * (self._bottom - self._top), 2)


def _series(index: int, check: VariantCheck, frames: int, axis: _Axis) -> Series:
    points = tuple(
        Point(_x(t, frames), axis.y(value), f"{check.variant}, frame {t}: {value:.3g}")
        for t, value in enumerate(check.max_abs)
    )
    line = "M" + " L".join(f"{p.x:g} {p.y:g}" for p in points)
    dashed = index // STYLES % 2 == 1
    return Series(check.variant, index % STYLES, dashed, line, points if frames <= _MARKED else ())


def _x(t: int, frames: int) -> float:
    if frames == 1:
        return (LEFT + WIDTH - RIGHT) / 2
    return round(LEFT + 8 + t * (WIDTH - RIGHT - LEFT - 16) / (frames - 1), 2)


def _step(frames: int) -> int:
    """A round number of frames between ticks, for about ten of them."""
    magnitude = int(10 ** floor(log10(max(frames / 10, 1))))
    return next(m * magnitude for m in (1, 2, 5, 10) if frames / (m * magnitude) <= 12)
