"""The pages of `bench speed`: one table of all contenders, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superlower.driver.side_by_side import Peak, Placed
from superlower.report import bars
from superlower.report.numbers import size_text

_NOTES = """
- **ms a frame**: steady state, over whole clips, every contender once a round in turns; median and range of
  the rounds. **times as fast**: within a round, against the first row.
- **by CPU time**: the same ratio by the seconds that this process's threads had together: what other work on
  the machine disturbs least, and the one to read where the load average wasn't low.
- **loaded**, **first frame**, **memory**: of a fresh process that runs the clip once. Loading has the SDK's
  own import in it. A compiler that waits for the first call is in the first frame, and so is the sweep over
  the whole clip of a network that looks ahead to its end. Memory is the largest resident size of the process.
- **of the peak**: operations of all convolutions over the time of whole frames, as a share of the fastest
  matrix product at the same precision in the same round.
"""


@dataclass(frozen=True)
class Page:
    """What is said of one run.

    Attributes:
        title: model, size, rounds and machine.
        placed: contenders in order.
        peaks: fastest matrix products.
        gflop: convolutions' operations a frame, 10^9.
        system: operating system.
        load: average at the start.
        versions: of what was timed.
    """

    title: str
    placed: Sequence[Placed]
    peaks: Sequence[Peak]
    gflop: float
    system: str
    versions: Mapping[str, str]
    load: float = 0.0

    def markdown(self) -> str:
        """The table, what its columns are, and what it was read on."""
        about = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = "".join(f"- {line}\n" for line in peak_lines(self.peaks))
        return (
            f"# Speed: {self.title}\n\n{bars.table(columns(self.placed), cells(self.placed))}{_NOTES}{lines}"
            f"- {self.gflop:.1f} GFLOP a frame (a multiply-accumulate is two operations). {about}; "
            f"{self.system}; load average at the start {self.load:.1f}.\n"
        )

    def plot(self) -> str:
        """Milliseconds a frame of every contender, as an SVG."""
        rows = [
            bars.Bar(one.name, None, text=one.why[:60])
            if one.speed is None
            else bars.Bar(
                one.name,
                one.speed.ms,
                min(one.speed.rounds_ms),
                max(one.speed.rounds_ms),
                f"{one.speed.ms:.0f} ms, {one.speed.ratio:.2f}x",
            )
            for one in self.placed
        ]
        return bars.plot(self.title, "milliseconds a frame, median and range", rows)


def columns(placed: Sequence[Placed]) -> list[str]:
    """Of the table of contenders."""
    first = next(one.name for one in placed if one.speed is not None)
    found = ["contender", "threads", "ms a frame (range)", f"times as fast as {first} (range)", "by CPU time"]
    if any(one.fresh is not None for one in placed):
        found += ["loaded, ms", "first frame, ms", "memory"]
    if any(one.of_peak is not None for one in placed):
        found.append("of the peak")
    return found


def cells(placed: Sequence[Placed]) -> list[list[str]]:
    """A row for each contender; one that couldn't be run says why."""
    wide = len(columns(placed))
    return [_row(one, wide) for one in placed]


def _row(one: Placed, wide: int) -> list[str]:
    row, fresh = one.speed, one.fresh
    if row is None:
        return [one.name, "", f"not run: {one.why}", *[""] * (wide - 3)]
    found = [
        one.name,
        str(row.threads or ""),
        f"{row.ms:.1f} ({min(row.rounds_ms):.1f} to {max(row.rounds_ms):.1f})",
        f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})",
        "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}",
    ]
    if fresh is not None:
        memory = "" if fresh.peak_bytes is None else size_text(fresh.peak_bytes)
        found += [f"{fresh.load_ms:.0f}", f"{fresh.first_ms:.0f}", memory]
    if one.of_peak is not None:
        found.append(f"{one.of_peak:.0%} of {one.precision.value}'s")
    return found + [""] * (wide - len(found))


def peak_lines(peaks: Sequence[Peak]) -> list[str]:
    """What the peak at each precision is, in words."""
    return [
        f"The peak in {peak.precision.value}: {peak.gflops_s:.0f} GFLOP/s, {peak.product}." for peak in peaks
    ]
