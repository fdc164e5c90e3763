"""What cutting a clip in chunks costs BasicVSR, on real footage: quality by look-ahead, and further calls.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import build, fail, machine, write
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.export import golden_input
from superlower.driver.progress import Progress
from superlower.errors import SuperlowerError
from superlower.frontends.fetch import fetch
from superlower.media.samples import SAMPLES
from superlower.program.chunks import Chunk, cut
from superlower.runtime.load import open_runner

SAMPLE = "carphone"
BACKEND = "openvino"
LOOK_AHEADS = (0, 2, 5, 10, 15)

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Error:
    """One frame of a chunked run, against the same frame of the whole clip's.

    Attributes:
        frame: its index.
        distance: frames from it to the last of its chunk.
        mse: mean squared difference of outputs, on the model's value range of 0..1.
        max_abs: largest difference.
    """

    frame: int
    distance: int
    mse: float
    max_abs: float


@dataclass(frozen=True)
class Row:
    """Frames at one distance from their chunk's end.

    Attributes:
        distance: frames to the last of the chunk, 0 for that one.
        frames: how many there were.
        psnr_db: of their mean squared difference, for a peak of 1; None where nothing differs.
        worst_psnr_db: of the frame that differs most.
        max_abs: largest difference of any pixel.
    """

    distance: int
    frames: int
    psnr_db: float | None
    worst_psnr_db: float | None
    max_abs: float


@dataclass(frozen=True)
class Cut:
    """A clip cut one way.

    Attributes:
        look_ahead: frames beyond a chunk that it looks at.
        rows: by distance, in the chunks whose look-ahead ends before the clip does.
        exact_max_abs: largest difference in the others, which compute what the whole clip does.
        calls: calls of each equation, over the clip.
        further_calls: calls of all equations, over those of the whole clip in one go, less one.
    """

    look_ahead: int
    rows: tuple[Row, ...]
    exact_max_abs: float
    calls: dict[str, int]
    further_calls: float


def errors(outputs: Sequence[Array], whole: Sequence[Array], chunks: Sequence[Chunk]) -> list[Error]:
    """Every frame of these chunks against the whole clip's."""
    found = []
    for chunk in chunks:
        for t in range(chunk.first, chunk.stop):
            difference = np.asarray(outputs[t], np.float64) - np.asarray(whole[t], np.float64)
            mse = float(np.mean(difference**2))
            found.append(Error(t, chunk.stop - 1 - t, mse, float(np.abs(difference).max())))
    return found


def by_distance(found: Sequence[Error]) -> list[Row]:
    """Those errors pooled by distance to the chunk's end, nearest first."""
    rows = []
    for distance in sorted({error.distance for error in found}):
        alike = [error for error in found if error.distance == distance]
        rows.append(
            Row(
                distance,
                len(alike),
                decibels(float(np.mean([error.mse for error in alike]))),
                decibels(max(error.mse for error in alike)),
                max(error.max_abs for error in alike),
            )
        )
    return rows


def decibels(mse: float) -> float | None:
    """PSNR for a peak of 1; None for no difference."""
    return None if mse == 0 else float(-10 * np.log10(mse))


def measure(
    bundle: Bundle, frames: Sequence[NDArray[np.float32]], size: int, ahead: Sequence[int], progress: Progress
) -> list[Cut]:
    """Run the clip whole, then in chunks of `size` with each look-ahead."""
    count = len(frames)
    found = []
    with open_runner(bundle, bundle.pick(backend_name=BACKEND)) as runner:
        progress.stage("the whole clip", count)
        whole = []
        for output in runner.run(frames, total=count):
            whole.append(output)
            progress.advance()
        before = {name: len(seconds) for name, seconds in runner.seconds.items()}
        in_one_go = sum(before.values())
        for look_ahead in ahead:
            progress.stage(f"chunks of {size}, look-ahead {look_ahead}", count)
            outputs = []
            for output in runner.run(frames, total=count, chunk=size, look_ahead=look_ahead):
                outputs.append(output)
                progress.advance()
            now = {name: len(seconds) for name, seconds in runner.seconds.items()}
            calls = {name: now[name] - before[name] for name in now}
            before = now
            chunks = cut(count, size, look_ahead)
            rows = by_distance(errors(outputs, whole, [c for c in chunks if c.end < count]))
            exact = errors(outputs, whole, [c for c in chunks if c.end == count])
            found.append(
                Cut(
                    look_ahead=look_ahead,
                    rows=tuple(rows),
                    exact_max_abs=max(error.max_abs for error in exact),
                    calls=calls,
                    further_calls=sum(calls.values()) / in_one_go - 1,
                )
            )
    return found


def show(title: str, cuts: Sequence[Cut]) -> None:
    """A table for people: PSNR by look-ahead and distance."""
    distances = sorted({row.distance for each in cuts for row in each.rows})

    def cells(each: Cut) -> list[str]:
        of = {row.distance: row for row in each.rows}
        texts = ["" if d not in of else _text(of[d].psnr_db) for d in distances]
        worst = f"{255 * max(row.max_abs for row in each.rows):.1f}" if each.rows else ""
        return [str(each.look_ahead), *texts, worst, f"{each.further_calls:+.0%}"]

    print_table(
        title,
        ("look-ahead", *(f"{d} to end" for d in distances), "largest, of 255", "calls"),
        (cells(each) for each in cuts),
    )
    exact = max(each.exact_max_abs for each in cuts)
    console.print(
        f"PSNR in dB against the whole clip in one go, by frames to the end of the chunk. Chunks that see "
        f"the clip's end are left out: they differ by {exact:.2g}.",
        soft_wrap=True,
    )


def _text(psnr_db: float | None) -> str:
    return "same" if psnr_db is None else f"{psnr_db:.1f}"


def arguments() -> argparse.Namespace:
    """The command line."""
    sample = SAMPLES[SAMPLE]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", default=f"{sample.height}x{sample.width}", help="HEIGHTxWIDTH, from the middle"
    )
    parser.add_argument("--blocks", type=int, help="residual blocks, with seeded weights; default: published")
    parser.add_argument("--frames", type=int, default=48, help="of the clip (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=8, help="frames a chunk (default: %(default)s)")
    parser.add_argument("--look-ahead", type=int, nargs="+", default=LOOK_AHEADS, help="frames beyond it")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; default: by the machine, in results/")
    given = parser.parse_args()
    if given.chunk < 1 or min(given.look_ahead) < 0:
        parser.error("--chunk must be 1 or more, --look-ahead 0 or more")
    if given.chunk + min(given.look_ahead) >= given.frames:
        parser.error(f"--frames {given.frames}: no chunk of {given.chunk} ends before the clip does")
    return given


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    try:
        size = parse_size(given.size)
        clip = fetch(SAMPLES[SAMPLE].location, sha256=SAMPLES[SAMPLE].sha256).path
        about = machine([BACKEND])
        with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as progress:
            built = build(Path(folder) / "bundle", size, [BACKEND], progress, blocks=given.blocks, clip=clip)
            program = built.bundle.program
            frames, source = golden_input(program.frame, given.frames, clip)
            cuts = measure(built.bundle, frames, given.chunk, given.look_ahead, progress)
    except SuperlowerError as error:
        return fail(error)
    blocks = program.provenance["blocks"]
    show(f"BasicVSR, {blocks} blocks, {given.size}, {source}, chunks of {given.chunk}", cuts)
    result = {
        "benchmark": "chunking",
        "machine": about,
        "model": {"name": "basicvsr", "blocks": int(blocks), "weights": built.weights},
        "height": size[0],
        "width": size[1],
        "clip": source,
        "frames": given.frames,
        "chunk": given.chunk,
        "cuts": [asdict(each) for each in cuts],
    }
    path = write("chunking", size, result, given.output)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
