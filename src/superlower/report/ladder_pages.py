"""The pages of `bench ladder`: rungs beside the published stages, and a plot of their ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from superlower.driver.ladder import Climb, Step
from superlower.driver.ladder_plan import PublishedLadder
from superlower.report import bars
from superlower.report.numbers import size_text
from superlower.report.speed_pages import peak_lines

_NOTES = """
- **ms a frame**: over whole clips (all of the program: flow, sweeps, reconstruction, states), every rung once
  a round in turns; the median of the rounds. Side by side, clips' frames count together. **times**: within a
  round, against the first row; median and range.
- **by CPU time**: the same ratio by the seconds that this process's threads had together: what other work on
  the machine disturbs least, and the one to read where the load average wasn't low.
- **memory**: the largest resident size of a fresh process that runs the clip once, Python and the SDK in it.
- **of the peak**: convolutions' operations over the time of whole frames, by the fastest matrix product at
  the same precision in the same round.
- **dB**: luma PSNR against the ground truth, less the first row's; mean over the frames of each clip.
"""
_OWN = """\
- **dB from its own**: PSNR of the engine's output to the network's own in PyTorch fp32, mean over the golden
  clip: no ground truth was given.
"""


@dataclass(frozen=True)
class Page:
    """What is said of one ladder.

    Attributes:
        title: model, size, frames, rounds and machine.
        climb: as measured.
        published: what is beside it.
        system: operating system.
        load: average at the start.
        versions: of what was timed.
    """

    title: str
    climb: Climb
    published: PublishedLadder | None
    system: str
    versions: Mapping[str, str]
    load: float = 0.0

    def markdown(self) -> str:
        """The rungs, the published ladder, and what the columns are."""
        steps = self.climb.steps
        own = any(step.own_db is not None for step in steps)
        text = f"# Ladder: {self.title}\n\n{bars.table(columns(steps), cells(steps))}"
        if self.published is not None:
            text += f"\n## Published: {self.published.name}\n\n{self.published.source}.\n\n"
            text += bars.table(*published_table(self.published))
        about = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = "".join(f"- {line}\n" for line in peak_lines(self.climb.peaks))
        about += f"; {self.system}; load average at the start {self.load:.1f}"
        return f"{text}{_NOTES}{_OWN if own else ''}{lines}- {about}.\n"

    def plot(self) -> str:
        """How many times as fast as the first rung each is, as an SVG, with the published ratios marked."""
        rows = []
        for step in self.climb.steps:
            row = step.placed.speed if step.placed else None
            if row is None:
                rows.append(bars.Bar(step.rung.name, None, text=step.why[:24], beside=step.published_ratio))
                continue
            lost = "" if step.lost_db is None else f", {-step.lost_db:+.2f} dB"
            rows.append(
                bars.Bar(
                    step.rung.name,
                    row.ratio,
                    min(row.ratios),
                    max(row.ratios),
                    f"{row.ratio:.2f}x{lost}",
                    step.published_ratio,
                )
            )
        first = self.climb.steps[0].rung.name
        beside = f"published, {self.published.name}" if self.published else ""
        return bars.plot(
            self.title, f"times as fast as {first}, median and range", rows, beside=beside, mark=1
        )


def columns(steps: Sequence[Step]) -> list[str]:
    """Of the table of rungs."""
    found = ["rung", "parameters", "GFLOP a frame"]
    if _timed(steps):
        found += ["ms a frame", "FPS", "memory", "of the peak", f"times {steps[0].rung.name}", "by CPU time"]
    if any(step.stage for step in steps):
        found.append("published times")
    found += [f"{clip}, dB" for clip in _clips(steps)]
    if any(step.own_db is not None for step in steps):
        found.append("dB from its own")
    return found


def cells(steps: Sequence[Step]) -> list[list[str]]:
    """A row for each rung; one that can't be had says why."""
    timed, clips = _timed(steps), _clips(steps)
    rows = []
    for step in steps:
        row = [
            step.rung.name,
            "" if step.parameters is None else f"{step.parameters / 1e6:.2f} M",
            "" if step.gflop is None else f"{step.gflop:.1f}",
        ]
        if step.why:
            row[1] = f"not run: {step.why}"
        if timed:
            row += _times(step)
        if any(each.stage for each in steps):
            stage, ratio = step.stage, step.published_ratio
            row.append("" if stage is None or ratio is None else f"{ratio:.2f} ({stage.name})")
        for clip in clips:
            change = step.change_db.get(clip)
            score = f"{fmean(step.scores[clip].psnr):.3f}" if clip in step.scores else ""
            row.append(score if step is steps[0] or change is None else f"{change:+.3f}")
        if any(each.own_db is not None for each in steps):
            row.append("" if step.own_db is None else f"{step.own_db:.1f}")
        rows.append(row)
    return rows


def _times(step: Step) -> list[str]:
    placed = step.placed
    if placed is None or placed.speed is None:
        return [""] * 6
    row, fresh = placed.speed, placed.fresh
    memory = size_text(fresh.peak_bytes) if fresh and fresh.peak_bytes is not None else ""
    return [
        f"{row.ms:.1f}",
        f"{1000 / row.ms:.2f}",
        memory,
        "" if placed.of_peak is None else f"{placed.of_peak:.0%} of {placed.precision.value}'s",
        f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})",
        "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}",
    ]


def published_table(published: PublishedLadder) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of what was published."""
    rows = [
        [
            stage.name,
            f"{stage.parameters / 1e6:.0f} M",
            f"{stage.gflops:.0f}",
            f"{stage.ms:.0f}",
            f"{1000 / stage.ms:.1f}",
            f"{stage.megabytes:.0f} MB",
            f"{published.ratio(stage.name):.2f}",
            stage.quality,
        ]
        for stage in published.stage
    ]
    return (
        ["stage", "parameters", "GFLOPs", "ms", "FPS", "memory", f"times {published.base}", "quality"],
        rows,
    )


def _timed(steps: Sequence[Step]) -> bool:
    return any(step.placed is not None for step in steps)


def _clips(steps: Sequence[Step]) -> list[str]:
    return list(dict.fromkeys(clip for step in steps for clip in step.scores))
