"""A report as one HTML file: no script, style, font or picture comes from anywhere else."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from superlower.backends.base import Support
from superlower.errors import BadInputError
from superlower.folders import replacing_file
from superlower.report import numbers, view
from superlower.report.chart import error_chart
from superlower.report.data import Report

_TEMPLATE = "report.html.j2"


def templates() -> Environment:
    """The package's templates; whatever they are given is escaped."""
    return Environment(
        loader=PackageLoader("superlower.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(report: Report) -> str:
    """The report as a whole HTML document. Every text in it is escaped."""
    environment = templates()
    environment.filters |= {
        "error": numbers.error,
        "decibels": numbers.decibels,
        "times": numbers.times,
        "milliseconds": numbers.milliseconds,
        "seconds": numbers.seconds,
        "size": numbers.size,
        "worst": view.worst,
        "png": lambda data: "data:image/png;base64," + b64encode(data).decode(),
    }
    coverage, verdicts = view.coverage(report.coverage), view.verdicts(report)
    return environment.get_template(_TEMPLATE).render(
        report=report,
        sections=_sections(report),
        verdicts=verdicts,
        chart=error_chart(report.checks),
        coverage=coverage,
        fully_covered=sum(not column.counts.get(Support.UNSUPPORTED) for column in coverage.columns),
        supports=view.WORST_FIRST[::-1],
        stages=view.stages(report.passes),
        engines=view.engines(report.engines),
        bar=view.bar,
        curve=view.curve,
        lowest_psnr=view.lowest_psnr,
        fastest=view.fastest(report.timings),
    )


def _sections(report: Report) -> tuple[tuple[str, str, bool], ...]:
    """Anchor, label and whether it is there, in the order of the page."""
    return (
        ("model", "Model", bool(report.summary or report.provenance)),
        ("pictures", "Before and after", report.pictures is not None),
        ("checks", "Cross-check", bool(report.checks or report.failures)),
        ("losses", "Loss over time", bool(report.searches)),
        ("timings", "Speed", bool(report.timings)),
        ("coverage", "Coverage", bool(report.coverage)),
        ("passes", "Passes", any(report.passes.values())),
        ("engines", "Engines", bool(report.engines)),
        ("notes", "Notes", bool(report.notes)),
        ("versions", "Versions", bool(report.versions)),
    )


def write(report: Report, path: Path) -> None:
    """Render to a file."""
    write_page(render(report), path)


def require_writable(path: Path) -> None:
    """Refuse, before anything is computed, a page that can't be written.

    Raises:
        BadInputError: it is a folder, or its folder can't be made or written to.
    """
    if path.is_dir():
        raise BadInputError(f"can't write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise BadInputError(f"can't write {path}: {error.strerror}; choose another file") from error


def write_page(page: str, path: Path) -> None:
    """Write a page aside first and then under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as aside:
        aside.write_text(page, "utf-8")
