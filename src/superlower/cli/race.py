"""How a race of backends went, for people."""

from __future__ import annotations

from superlower.bundle.choices import RacedEngine, RacedProgram, RaceRecord
from superlower.cli.common import console, print_table


def print_race(variant: str, record: RaceRecord) -> None:
    """Every engine's time, the whole programs', and what was chosen why."""
    ways = {"measured": "measured on", "estimated": "estimated, as it isn't here, for"}
    how = ways.get(record.basis, "nothing is known of speed on")
    taken = next((one.backends for one in record.programs if not one.out), {})
    print_table(
        f"{variant}: a race {how} {record.device}",
        ("graph", "backend", "ms a call", "error", ""),
        (
            (
                graph,
                engine.backend,
                _ms(engine),
                "" if engine.error is None else f"{engine.error:.1e}",
                engine.out or ("taken" if taken.get(graph) == engine.backend else ""),
            )
            for graph, engines in record.graphs.items()
            for engine in engines
        ),
    )
    if len(record.programs) > 1:
        print_table(
            "whole program, ms a frame",
            ("engines", "by its graphs", "as a whole", ""),
            (
                (one.name, f"{one.expected_ms or 0:.4g}", _ms(one), one.out or "taken")
                for one in record.programs
            ),
        )
    console.print(f"{variant} is {record.reason}", soft_wrap=True)


def _ms(one: RacedEngine | RacedProgram) -> str:
    if one.ms is None:
        return ""
    spread = f" ({min(one.rounds_ms):.4g} to {max(one.rounds_ms):.4g})" if len(one.rounds_ms) > 1 else ""
    return f"{one.ms:.4g}{spread}"
