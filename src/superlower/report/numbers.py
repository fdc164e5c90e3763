"""Numbers as text, each in a <data> element that holds the value itself in full."""

from __future__ import annotations

from collections.abc import Callable
from math import isinf, isnan

from markupsafe import Markup

ABSENT = "–"  # noqa: RUF001
"""Stands where there is no number: an en dash."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def error(value: float | None) -> Markup:
    """A difference, three digits: 3.24e-07."""
    return _shown(value, lambda v: "0" if v == 0 else f"{v:.3g}")


def decibels(value: float | None) -> Markup:
    """A PSNR in dB; None and infinity mean identical pictures."""
    if value is None or value == float("inf"):
        return Markup('<data value="inf">identical</data>')
    return _shown(value, lambda v: f"{v:.2f} dB")


def times(value: float | None) -> Markup:
    """A ratio, three digits: 1.52x."""
    return _shown(value, lambda v: f"{_three(v)}×")  # noqa: RUF001


def milliseconds(value: float | None) -> Markup:
    """A time given in milliseconds."""
    return _shown(value, lambda v: f"{_three(v)} ms")


def seconds(value: float | None) -> Markup:
    """A time given in seconds."""
    return _shown(value, lambda v: f"{v:.1f} s" if v >= 0.1 else f"{v * 1000:.0f} ms")


def size(value: float | None) -> Markup:
    """A number of bytes, in powers of 1000."""
    return _shown(value, lambda v: size_text(int(v)))


def size_text(count: int) -> str:
    """A number of bytes as plain text, in powers of 1000."""
    scaled = float(count)
    for unit in _UNITS:
        if scaled < 999.5 or unit == _UNITS[-1]:
            break
        scaled /= 1000
    return f"{count} B" if unit == "B" else f"{_three(scaled)} {unit}"


def _three(value: float) -> str:
    """Three significant digits, in powers of ten only below 1e-4: 0.0312, 0.750, 1.52, 681, 12345."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:.0f}"
    if abs(value) < 1e-4:
        return f"{value:.3g}"
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{2 - exponent}f}"


def _shown(value: float | None, text: Callable[[float], str]) -> Markup:
    if value is None:
        return Markup(f'<span class="absent">{ABSENT}</span>')
    exact = repr(value if isinstance(value, int) else float(value))
    if isnan(value):
        words = "NaN"
    elif isinf(value):
        words = "∞" if value > 0 else "−∞"  # noqa: RUF001
    else:
        words = text(value)
    return Markup('<data value="{}">{}</data>').format(exact, words)
