"""BasicVSR's speed: PyTorch eager, ONNX Runtime and OpenVINO in turns, and OpenVINO's convolutions against
the processor's matrix-product peak.

Exits 1 where a bar is missed. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from common import Built, build, fail, machine, start_with_threads, write
from profiled import CONVOLUTION, ProfiledClip, ProfiledLap

from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.flops import clip_macs
from superlower.driver.products import products
from superlower.driver.progress import Progress
from superlower.driver.speed import (
    Lap,
    SpeedRow,
    back_and_forth,
    contenders,
    physical_cores,
    rows,
    stopwatch,
    take_turns,
)
from superlower.errors import SuperlowerError

ENGINE = "openvino-cpu-fp32"
BACKENDS = ("onnxruntime", "openvino")
MINIMUM_ROUNDS = 5
RATIO_BAR = 1.15
FRACTION_BAR = 0.75


@dataclass(frozen=True)
class Figure:
    """A quantity measured once a round."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    @staticmethod
    def of(rounds: Sequence[float]) -> Figure:
        """From its rounds."""
        return Figure(median(rounds), min(rounds), max(rounds), tuple(rounds))

    def text(self, form: str) -> str:
        """Median and range."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class Throughput:
    """OpenVINO's convolutions beside matrix products of the same rounds. GFLOP/s but for the fractions.

    Attributes:
        gflop_frame: operations of all convolutions, a frame of the clip.
        convolutions: those over the time that OpenVINO's profile gives to convolutions.
        wall: those over a frame's whole time, without profiling.
        peak: the fastest product of each round.
        fraction: `convolutions` by `peak`.
        wall_fraction: `wall` by `peak`.
        overhead: a frame's time with profiling, by that without.
        shares: type of node -> part of all nodes' time.
        products: each product by name.
    """

    gflop_frame: float
    convolutions: Figure
    wall: Figure
    peak: Figure
    fraction: Figure
    wall_fraction: Figure
    overhead: Figure
    shares: Mapping[str, float]
    products: Mapping[str, Figure]


@dataclass(frozen=True)
class Bar:
    """What the project holds itself to."""

    name: str
    measured: float
    bar: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured >= self.bar


def throughput(
    gflop: float,
    frames: int,
    plain: Sequence[Lap],
    profiled: Sequence[ProfiledLap],
    measured: Mapping[str, Sequence[float]],
) -> Throughput:
    """Put together what the rounds gave.

    Args:
        gflop: operations of all convolutions over the clip, in units of 10^9.
        frames: in the clip.
        plain: laps without profiling.
        profiled: laps with it.
        measured: product -> GFLOP/s, round by round.
    """
    peak = [max(of_round) for of_round in zip(*measured.values(), strict=True)]
    rates = [gflop / lap.by_type[CONVOLUTION] for lap in profiled]
    walls = [gflop / lap.seconds for lap in plain]
    total = sum((Counter(lap.by_type) for lap in profiled), Counter())
    return Throughput(
        gflop_frame=gflop / frames,
        convolutions=Figure.of(rates),
        wall=Figure.of(walls),
        peak=Figure.of(peak),
        fraction=Figure.of([rate / top for rate, top in zip(rates, peak, strict=True)]),
        wall_fraction=Figure.of([rate / top for rate, top in zip(walls, peak, strict=True)]),
        overhead=Figure.of([a.seconds / b.seconds for a, b in zip(profiled, plain, strict=True)]),
        shares={kind: seconds / total.total() for kind, seconds in total.most_common()},
        products={name: Figure.of(found) for name, found in measured.items()},
    )


def measure(built: Built, frames: int, rounds: int, progress: Progress) -> tuple[list[SpeedRow], Throughput]:
    """Every contender, the profiled engines and every product once a round, in turn."""
    bundle = built.bundle
    clip = back_and_forth(bundle.golden().frames, frames)
    profiled = ProfiledClip(bundle, bundle.variant(ENGINE), clip)
    frame = bundle.program.frame
    multiply = {product.name: product.ready() for product in products(frame.height, frame.width)}
    with contenders(bundle, bundle.manifest.variants, clip, built.reference) as ready:
        turns: dict[str, Callable[[], object]] = {name: stopwatch(each) for name, each in ready.items()}
        turns |= {"profiled": profiled, **multiply}
        found = take_turns(turns, rounds=rounds, progress=progress)
        profiled.hold_to(bundle)
        laps = {name: [lap for lap in found[name] if isinstance(lap, Lap)] for name in ready}
        table = rows(ready, laps, frames)
    return table, throughput(
        2e-9 * clip_macs(bundle.model(), frames),
        frames,
        laps[ENGINE],
        [lap for lap in found["profiled"] if isinstance(lap, ProfiledLap)],
        {name: [rate for rate in found[name] if isinstance(rate, float)] for name in multiply},
    )


def bars(table: Sequence[SpeedRow], found: Throughput) -> list[Bar]:
    """What was reached of what the project holds itself to."""
    engine = next(row for row in table if row.name == ENGINE)
    return [
        Bar(f"{ENGINE}: times as fast as {table[0].name}", engine.ratio, RATIO_BAR),
        Bar("OpenVINO's convolutions: part of the matrix-product peak", found.fraction.median, FRACTION_BAR),
    ]


def show(title: str, table: Sequence[SpeedRow], found: Throughput, held: Sequence[Bar]) -> None:
    """Tables for people."""
    print_table(
        title,
        ("contender", "threads", "ms a frame", f"times as fast as {table[0].name}"),
        (
            (
                row.name,
                row.threads,
                Figure.of(row.rounds_ms).text(".1f"),
                Figure.of(row.ratios).text(".2f"),
            )
            for row in table
        ),
    )
    fastest = max(found.products, key=lambda name: found.products[name].median)
    print_table(
        f"OpenVINO's convolutions, {found.gflop_frame:.1f} GFLOP a frame",
        ("quantity", "GFLOP/s", "of the peak"),
        (
            ("convolutions, by the profile", found.convolutions.text(".0f"), found.fraction.text(".1%")),
            ("convolutions, by the whole frame", found.wall.text(".0f"), found.wall_fraction.text(".1%")),
            (f"peak: fastest product ({fastest})", found.peak.text(".0f"), ""),
        ),
    )
    shares = ", ".join(f"{kind} {share:.1%}" for kind, share in list(found.shares.items())[:6])
    console.print(
        f"Time by type of node: {shares}. Profiling slows a frame {found.overhead.text('.3f')} times."
    )
    print_table(
        "matrix products, fp32",
        ("product", "GFLOP/s"),
        ((name, figure.text(".0f")) for name, figure in found.products.items()),
    )
    print_table(
        "bars",
        ("quantity", "measured", "bar", ""),
        ((each.name, f"{each.measured:.3f}", each.bar, "met" if each.met else "MISSED") for each in held),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="144x176", help="HEIGHTxWIDTH of a frame (default: %(default)s)")
    parser.add_argument("--blocks", type=int, help="residual blocks, with seeded weights; default: published")
    parser.add_argument("--frames", type=int, default=4, help="of the clip (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed (default: %(default)s)")
    parser.add_argument("--no-bars", action="store_true", help="report only: exit 0 where a bar is missed")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; default: by the machine, in results/")
    given = parser.parse_args()
    if given.frames < 2:
        parser.error("--frames: a recurrent clip has 2 frames at least")
    if given.rounds < (1 if given.no_bars else MINIMUM_ROUNDS):
        parser.error(f"--rounds: {MINIMUM_ROUNDS} at least, or any number with --no-bars")
    return given


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    start_with_threads(physical_cores())
    try:
        size = parse_size(given.size)
        about = machine(BACKENDS)
        with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as progress:
            built = build(Path(folder) / "bundle", size, BACKENDS, progress, blocks=given.blocks)
            table, found = measure(built, given.frames, given.rounds, progress)
            provenance = built.bundle.program.provenance
    except SuperlowerError as error:
        return fail(error)
    held = bars(table, found)
    title = (
        f"BasicVSR, {provenance['blocks']} blocks, {given.size}, {given.frames} frames, {given.rounds} rounds"
    )
    show(f"{title}, {about['title']}", table, found, held)
    result = {
        "benchmark": "speed",
        "machine": about,
        "model": {"name": "basicvsr", "blocks": int(provenance["blocks"]), "weights": built.weights},
        "height": size[0],
        "width": size[1],
        "frames": given.frames,
        "rounds": given.rounds,
        "contenders": [asdict(row) for row in table],
        "throughput": asdict(found),
        "bars": [{**asdict(each), "met": each.met} for each in held],
    }
    console.print(f"written: {write('speed', size, result, given.output)}", markup=False, soft_wrap=True)
    missed = [each for each in held if not each.met]
    for each in missed:
        line = f"missed: {each.name}, {each.measured:.3f}, the bar is {each.bar}"
        console.print(line, style="red", markup=False, soft_wrap=True)
    return 1 if missed and not given.no_bars else 0


if __name__ == "__main__":
    raise SystemExit(main())
