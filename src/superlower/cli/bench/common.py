"""What the benches share: their options, which variants they take, and results as files."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from superlower import jsontext
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.cli.common import console, plain
from superlower.driver.speed import physical_cores
from superlower.report.html import require_writable, write_page
from superlower.targets.catalog import target

PyTorchWeights = Annotated[
    str | None,
    typer.Option("--pytorch", help="Compare with PyTorch eager too, on these weights (as for `export`)."),
]
Folder = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder for the result as JSON, Markdown and a plot.")
]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Write the plot to this file, as SVG.")]


@dataclass(frozen=True)
class Files:
    """Where a result goes besides the terminal; None for nowhere."""

    json: Path | None
    markdown: Path | None
    plot: Path | None

    @staticmethod
    def of(name: str, folder: Path | None, markdown: Path | None, plot: Path | None) -> Files:
        """Files of a folder by the bench's name, or as given; refused before anything is measured.

        Raises:
            BadInputError: one can't be written.
        """
        found = Files(
            folder / f"{name}.json" if folder else None,
            markdown or (folder / f"{name}.md" if folder else None),
            plot or (folder / f"{name}.svg" if folder else None),
        )
        for path in found:
            require_writable(path)
        return found

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([path for path in (self.json, self.markdown, self.plot) if path is not None])

    def write(self, result: Mapping[str, object], markdown: str, plot: str) -> None:
        """Write what was asked for, and say where."""
        text = msgspec.json.format(jsontext.encode(result, plain), indent=2).decode() + "\n"
        for path, content in ((self.json, text), (self.markdown, markdown), (self.plot, plot)):
            if path is not None:
                write_page(content, path)
                console.print(f"written: {path}", markup=False, soft_wrap=True)


def chosen(bundle: Bundle, names: list[str] | None) -> list[Variant]:
    """The variants that run here, of the backends named or of all.

    Raises:
        BadInputError: a backend that the bundle has no variant of.
        MissingSdkError: one of which none runs here.
    """
    for name in names or ():
        bundle.pick(backend_name=name)
    running = [v for v in bundle.manifest.variants if bundle.why_not(v) is None]
    return [v for v in running if not names or v.backend in names] or [bundle.pick()]


def versions(backends: Sequence[str], *, torch: bool) -> dict[str, str]:
    """Packages that were timed, with their versions."""
    found = {k: v for name in dict.fromkeys(backends) for k, v in backend(name).versions().items()}
    if torch:
        found["torch"] = importlib.metadata.version("torch")
    return found


def surroundings() -> dict[str, str | int | float]:
    """What figures depend on besides the code and the SDKs: the machine, and how busy it was."""
    return {
        "machine": target("cpu").title,
        "system": platform.platform(),
        "threads": physical_cores(),
        "load_average": os.getloadavg()[0],
    }
