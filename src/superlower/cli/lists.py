"""superlower models, targets, backends: what there is to choose from, whatever is installed."""

from __future__ import annotations

from typing import Any, cast

import typer

from superlower import plugins
from superlower.backends.registry import backends as all_backends
from superlower.cli.common import JsonFlag, print_json, print_table
from superlower.frontends.base import ZooFrontend
from superlower.targets.catalog import targets as all_targets


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("models")(models)
    app.command("targets")(targets)
    app.command("backends")(backends)


def models(json: JsonFlag = False) -> None:
    """List the architectures and their published checkpoints."""
    rows: list[dict[str, Any]] = []
    for name in plugins.table("frontend"):
        architecture = cast("type[ZooFrontend]", plugins.load("frontend", name))()
        rows.append(
            {
                "name": name,
                "title": architecture.title,
                "paper": architecture.paper,
                "scale": architecture.scale,
                "missing": architecture.missing(),
                "checkpoints": architecture.checkpoints,
            }
        )
    if json:
        print_json(rows)
        return
    print_table(
        "models",
        ("name", "title", "scale", "checkpoint", "trained on", "licence"),
        (
            (r["name"], r["title"], r["scale"], *checkpoint)
            for r in rows
            for checkpoint in [(c.name, c.trained_on, c.license) for c in r["checkpoints"]]
            or [("none known", "", "")]
        ),
    )


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
