"""superlower targets, backends: what there is to choose from, whatever is installed."""

from __future__ import annotations

from typing import cast

import typer

from superlower.backends.registry import backends as all_backends
from superlower.cli.common import JsonFlag, print_json, print_table
from superlower.targets.catalog import targets as all_targets


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("targets")(targets)
    app.command("backends")(backends)


def targets(json: JsonFlag = False) -> None:
    """List the accelerators superlower knows."""
    found = all_targets()
    if json:
        print_json(found)
        return
    print_table(
        "targets",
        ("name", "what", "architecture", "SM", "memory GB", "precisions", "backends"),
        (
            (
                t.name,
                t.title,
                t.architecture,
                t.compute_capability or "",
                f"{t.memory_gb.value:g}" if t.memory_gb else "",
                ", ".join(t.precisions),
                ", ".join(t.backends),
            )
            for t in found
        ),
    )


def backends(json: JsonFlag = False) -> None:
    """List the compilers, and whether each is installed."""
    rows = [
        {"name": b.name, "title": b.title, "missing": b.missing(), "versions": b.versions()}
        for b in all_backends()
    ]
    if json:
        print_json(rows)
        return
    print_table(
        "backends",
        ("name", "what", "installed"),
        (
            (
                r["name"],
                r["title"],
                r["missing"]
                or ", ".join(f"{k} {v}" for k, v in cast("dict[str, str]", r["versions"]).items()),
            )
            for r in rows
        ),
    )
