"""How long jobs tell what they are at, whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Told of stages and steps; draws a bar, writes lines, or does nothing."""

    def stage(self, title: str, total: int | None = None) -> None:
        """A stage of `total` steps begins (None: unknown); it ends where the next begins."""

    def advance(self, note: str = "") -> None:
        """A step of the stage is done; `note` says what is next."""


class Silent:
    """Progress nobody watches."""

    def stage(self, title: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, note: str = "") -> None:
        """Nothing."""


_MB = 10**6


def received(progress: Progress, title: str) -> Callable[[int, int | None], None]:
    """Tells of a download as a stage counted in megabytes, begun by its first bytes: a cached file has none.

    Returns:
        what `frontends.fetch.fetch` takes for its progress: called with bytes so far, and in all if known.
    """
    told: int | None = None

    def on_bytes(done: int, total: int | None) -> None:
        nonlocal told
        if told is None:
            progress.stage(f"{title}, MB", None if total is None else -(-total // _MB))
            told = 0
        reached = -(-done // _MB) if done == total else done // _MB
        for _ in range(told, reached):
            progress.advance()
        told = reached

    return on_bytes
