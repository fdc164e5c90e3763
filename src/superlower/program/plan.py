"""How a program's calls are run: what may differ between machines, and doesn't change what they compute."""

from __future__ import annotations

import msgspec


class ExecutionPlan(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """A way to run a program; the default is one call after another.

    Attributes:
        in_flight: calls that may run at the same time, where they don't wait for one another.
        threads: CPU threads of a call; 0 for what the engines were compiled with.
        batch: graph -> calls of it that run as one.
        tail_cut: whether what no hidden state depends on is cut off the recurrence (the pass split-tail).
        pixels: whether graphs take and make uint8 pictures.
        states: "host", or "engine" where engines keep hidden states to themselves.
    """

    in_flight: int = 1
    threads: int = 0
    batch: dict[str, int] = {}
    tail_cut: bool = False
    pixels: bool = False
    states: str = "host"

    def text(self) -> str:
        """In words."""
        parts = ["tail cut off"] if self.tail_cut else []
        parts += [f"{self.in_flight} in flight"] if self.in_flight > 1 else []
        parts += [f"{self.threads} thread{'s' * (self.threads > 1)} each"] if self.threads else []
        parts += [f"{graph} by {size}" for graph, size in self.batch.items()]
        parts += ["pixels in the graphs"] if self.pixels else []
        parts += ["states in the engines"] if self.states == "engine" else []
        return ", ".join(parts) or "one call after another"
