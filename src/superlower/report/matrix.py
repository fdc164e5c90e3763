"""A matrix of compiled models as one HTML page."""

from __future__ import annotations

from pathlib import Path

from superlower.driver.matrix import Report
from superlower.report import numbers
from superlower.report.html import templates, write_page

_TEMPLATE = "matrix.html.j2"


def render(report: Report) -> str:
    """The page. Every text in it is escaped."""
    environment = templates()
    environment.filters |= {"size": numbers.size, "seconds": numbers.seconds}
    cells = [cell for row in report.rows.values() for cell in row.cells]
    return environment.get_template(_TEMPLATE).render(
        report=report,
        made=sum(not cell.failed for cell in cells),
        built=sum(row.built for row in report.rows.values()),
        found=sum(row.found for row in report.rows.values()),
    )


def write(report: Report, path: Path) -> None:
    """Render to a file."""
    write_page(render(report), path)
