"""superlower bench: engines measured, for quality and for speed."""

from __future__ import annotations

import typer

from superlower.cli.bench.egvsr import egvsr
from superlower.cli.bench.ladder import ladder
from superlower.cli.bench.quality import quality
from superlower.cli.bench.speed import speed

bench = typer.Typer(help="Measure engines.", no_args_is_help=True)
bench.command("egvsr")(egvsr)
bench.command("ladder")(ladder)
bench.command("quality")(quality)
bench.command("speed")(speed)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(bench, name="bench")
