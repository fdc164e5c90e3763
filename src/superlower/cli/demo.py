"""superlower demo: the whole path on a public checkpoint and a public clip."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
