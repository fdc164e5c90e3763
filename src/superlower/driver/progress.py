"""How long jobs tell what they are at, whoever listens."""

from __future__ import annotations

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
