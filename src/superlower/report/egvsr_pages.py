"""The pages of `bench egvsr`: each group of forms, and a plot of their times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from superlower.driver.egvsr_study import Form
from superlower.report import bars

COLUMNS = ("form", "on", "GFLOP", "ms", "times as fast as the first", "by CPU time", "published")

_NOTES = """
- **GFLOP**: of convolutions and matrix products, a multiply-accumulate as two; of a call, or of a network's
  frame.
- **ms**: of a call, or of a frame of a clip; forms of a group in turns, medians of the rounds. **times**:
  within a round, against the group's first; median and range.
- **by CPU time**: the same ratio by the seconds that this process's threads had together: what other work on
  the machine disturbs least.
- Weights are seeded: what they make of a picture plays no part.
"""


@dataclass(frozen=True)
class Page:
    """What is said of one study.

    Attributes:
        title: size, rounds and machine.
        forms: as measured.
        system: operating system.
        load: average at the start.
        versions: of what was timed.
    """

    title: str
    forms: Sequence[Form]
    system: str
    versions: Mapping[str, str]
    load: float = 0.0

    def markdown(self) -> str:
        """A table for each group."""
        text = f"# {self.title}\n"
        for group, forms in by_group(self.forms):
            text += f"\n## {group.capitalize()}\n\n{bars.table(COLUMNS, cells(forms))}"
        about = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{text}{_NOTES}- {about}; {self.system}; load average at the start {self.load:.1f}.\n"

    def plot(self) -> str:
        """How many times as fast as the first of its group each is, as an SVG."""
        rows = [
            bars.Bar(
                f"{form.name}, {form.sdk}",
                form.ratio,
                min(form.ratios),
                max(form.ratios),
                f"{form.ratio:.2f}x, {form.ms:.3g} ms",
                form.claim.ratio if form.claim else None,
            )
            for _, forms in by_group(self.forms)
            for form in forms
        ]
        axis = "times as fast as the first of its group, median and range"
        return bars.plot(self.title, axis, rows, beside="published", mark=1)


def by_group(forms: Sequence[Form]) -> Iterator[tuple[str, list[Form]]]:
    """Forms group by group, in order."""
    for group in dict.fromkeys(form.group for form in forms):
        yield group, [form for form in forms if form.group == group]


def cells(forms: Sequence[Form]) -> list[list[str]]:
    """A row for each form."""
    return [
        [
            form.name,
            form.sdk,
            f"{form.gflop:.3g}",
            f"{form.ms:.3g}",
            f"{form.ratio:.2f} ({min(form.ratios):.2f} to {max(form.ratios):.2f})",
            "" if form.cpu_ratio is None else f"{form.cpu_ratio:.2f}",
            form.claim.text if form.claim else "",
        ]
        for form in forms
    ]
