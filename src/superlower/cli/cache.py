"""superlower cache: engines that were built before, which compiles take instead of building them again."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from superlower.cli.common import JsonFlag, console, parse_bytes, print_json, print_table
from superlower.driver.engine_cache import LIMIT_BYTES, EngineCache

LIMIT = "SUPERLOWER_CACHE_LIMIT"
"""Environment variable: what the cached engines may take, as 10GB."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("cache")(cache)


def engine_cache() -> EngineCache:
    """The user's, with the limit of the environment.

    Raises:
        BadInputError: that is no amount of memory.
    """
    given = os.environ.get(LIMIT)
    return EngineCache.default(parse_bytes(given) if given else LIMIT_BYTES)


def cache_line() -> str:
    """The cache in a line."""
    found = engine_cache()
    entries = found.entries()
    taken = sum(entry.bytes for _, entry, _ in entries) / 1e9
    return f"{len(entries)} engines, {taken:.2f} of {found.limit_bytes / 1e9:g} GB, in {found.folder}"


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all engines.")] = False,
    trim: Annotated[
        str | None, typer.Option("--trim", help="Remove those used longest ago, down to this size, as 2GB.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List the engines that compiles with a cache have built, the last used first.

    Entries never grow stale: what they were built of is their name. $SUPERLOWER_CACHE says where they lie,
    $SUPERLOWER_CACHE_LIMIT (10GB) what they may take; those used longest ago make room for new ones.
    """
    found = engine_cache()
    if clear or trim:
        removed = found.trim(0 if clear else parse_bytes(trim or ""))
        console.print(f"removed {removed} engine{'s' * (removed != 1)}")
    entries = found.entries()
    if json:
        print_json(
            {
                "folder": found.folder,
                "limit_bytes": found.limit_bytes,
                "engines": [
                    {
                        "key": folder.name,
                        "bytes": entry.bytes,
                        "created": entry.created,
                        "used": used,
                        "made_of": entry.made_of,
                        "artifact": entry.artifact,
                    }
                    for folder, entry, used in entries
                ],
            }
        )
        return
    print_table(
        cache_line(),
        ("key", "backend", "target", "precision", "MB", "build s", "used"),
        (
            (
                folder.name[:12],
                entry.artifact.backend,
                entry.artifact.target,
                entry.artifact.precision,
                f"{entry.bytes / 1e6:.1f}",
                f"{entry.artifact.build_s:.1f}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(used)),
            )
            for folder, entry, used in entries
        ),
    )
