"""How a variant's plan was found, for people."""

from __future__ import annotations

from statistics import median

from superlower.bundle.choices import Planned
from superlower.cli.common import console, print_table


def print_plan(variant: str, record: Planned) -> None:
    """Every way that was measured, and what was chosen why."""
    if len(record.tried) > 1:
        numbers = {one.name: k for k, one in enumerate(record.tried, 1)}
        print_table(
            f"{variant}: ways to run it, pictures in and out",
            ("", "way", "ms a frame", "times as fast", ""),
            (
                (
                    str(numbers[one.name]),
                    one.name,
                    "" if one.ms is None else f"{one.ms:.4g}",
                    f"{median(one.ratios):.2f} ({min(one.ratios):.2f} to {max(one.ratios):.2f}) than "
                    f"{numbers[one.against]}"
                    if one.ratios
                    else "",
                    one.out or ("taken" if one.plan == record.plan else ""),
                )
                for one in record.tried
            ),
        )
    console.print(f"{variant} runs {record.plan.text()}: {record.reason}", soft_wrap=True, markup=False)
