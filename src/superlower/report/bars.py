"""Bars of a measured quantity, one a row, as an SVG that stands by itself; and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from superlower.report.html import templates

_TEMPLATE = "bars.svg.j2"
WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 860, 300, 150, 44, 26, 40
_TICKS = 5


@dataclass(frozen=True)
class Bar:
    """One row of a plot.

    Attributes:
        label: what it is.
        value: its length; None where there is none.
        low, high: range of the rounds; None to draw none.
        text: at its end.
        beside: a value to mark on it, as a published one; None for none.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""
    beside: float | None = None


def plot(title: str, axis: str, bars: Sequence[Bar], *, beside: str = "", mark: float | None = None) -> str:
    """An SVG of horizontal bars that begin at zero. Every text in it is escaped.

    Args:
        title: above the bars.
        axis: the quantity and its unit.
        bars: from top to bottom.
        beside: what the marked values are, for the legend.
        mark: a line across all rows, as at the first row's value.
    """
    values = [v for bar in bars for v in (bar.value, bar.high, bar.beside) if v is not None]
    step = _step(max(values, default=1.0))
    top = step * max(1, ceil(max(values, default=1.0) / step))
    span = WIDTH - LEFT - RIGHT

    def x(value: float) -> float:
        return round(LEFT + span * value / top, 1)

    ticks = [step * i for i in range(round(top / step) + 1)]
    bottom = TOP + ROW * len(bars)
    return (
        templates()
        .get_template(_TEMPLATE)
        .render(
            title=title,
            axis=axis,
            width=WIDTH,
            height=bottom + BOTTOM,
            left=LEFT,
            top=TOP,
            bottom=bottom,
            ticks=[(x(value), f"{value:g}") for value in ticks],
            mark=None if mark is None else x(mark),
            beside=beside,
            rows=[
                {
                    "label": bar.label,
                    "y": TOP + ROW * i,
                    "x": None if bar.value is None else x(bar.value),
                    "low": None if bar.low is None else x(bar.low),
                    "high": None if bar.high is None else x(bar.high),
                    "end": x(max((v for v in (bar.value, bar.high, bar.beside) if v is not None), default=0)),
                    "text": bar.text,
                    "beside": None if bar.beside is None else x(bar.beside),
                }
                for i, bar in enumerate(bars)
            ],
        )
    )


def _step(largest: float) -> float:
    """A round distance for about `_TICKS` ticks."""
    if largest <= 0:
        return 1.0
    rough = largest / _TICKS
    magnitude = 10.0 ** floor(log10(rough))
    return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)


def table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    lines = [" | ".join(map(_cell, columns)), " | ".join(["---"] + ["---:"] * (len(columns) - 1))]
    return "".join(f"| {line} |\n" for line in (*lines, *(" | ".join(row) for row in cells)))


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
