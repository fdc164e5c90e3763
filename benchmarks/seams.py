"""What is left of the seams between tiles, on real footage, by the overlap: tiles against the whole frame.

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
from superlower.errors import BadInputError, SuperlowerError
from superlower.frontends.fetch import fetch
from superlower.media.samples import SAMPLES
from superlower.program.tiles import Tile, tiles
from superlower.runtime.load import open_runner, open_runners
from superlower.runtime.tiled import TiledRunner

BACKEND = "openvino"
OVERLAPS = (0, 8, 16, 32, 48)
BAND = 8

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """Two tiles by two with one overlap, against the whole frame.

    Attributes:
        overlap: low-resolution pixels from a seam to the border of either tile.
        tile: height and width of a tile.
        psnr_db: of the mean squared difference over all frames, for a peak of 1.
        seam_psnr_db: the same over the pixels at most `BAND` low-resolution pixels from a seam.
        worst_seam_psnr_db: of the frame whose seams differ most.
        max_abs: largest difference of any value, on a range of 0..1.
        changed: share of 8-bit values that differ at all, after rounding.
        step: mean absolute difference of the two rows or columns on either side of a seam, beyond the whole
            frame's own: what an eye would see of an edge, in levels of 255.
        pixels: computed, over those of the frame, less one.
    """

    overlap: int
    tile: tuple[int, int]
    psnr_db: float
    seam_psnr_db: float
    worst_seam_psnr_db: float
    max_abs: float
    changed: float
    step: float
    pixels: float


def decibels(mse: float) -> float:
    """PSNR for a peak of 1."""
    return float(-10 * np.log10(max(mse, 1e-20)))


def joined(bundle: Bundle, laid: Sequence[Tile], frames: Sequence[Array], progress: Bars) -> list[Array]:
    """The clip upscaled in tiles, whole frames put together."""

    def cut(whole: Array, tile: Tile) -> Array:
        rows, columns = tile.rows.seen, tile.columns.seen
        return np.ascontiguousarray(whole[..., rows.start : rows.stop, columns.start : columns.stop])

    scale = bundle.program.frame.scale
    height, width = frames[0].shape[-2:]
    made = []
    with open_runners(bundle, bundle.pick(backend_name=BACKEND), len(laid)) as runners:
        for parts in TiledRunner(runners, laid, cut).run(frames, total=len(frames)):
            whole = np.empty((3, scale * height, scale * width), np.float32)
            for tile, part in parts:
                rows, columns = tile.rows.kept, tile.columns.kept
                area = np.s_[
                    scale * rows.start : scale * rows.stop, scale * columns.start : scale * columns.stop
                ]
                whole[:, *area] = part[0]
            made.append(whole)
            progress.advance()
    return made


def compare(
    overlap: int, laid: Sequence[Tile], scale: int, made: Sequence[Array], whole: Sequence[Array]
) -> Row:
    """A row from both sides' frames, [3, H, W] each."""
    height, width = whole[0].shape[-2:]
    y, x = (scale * laid[-1].rows.kept.start, scale * laid[-1].columns.kept.start)
    near = np.zeros((height, width), bool)
    near[y - scale * BAND : y + scale * BAND] = True
    near[:, x - scale * BAND : x + scale * BAND] = True
    squares = [(a - b) ** 2 for a, b in zip(made, whole, strict=True)]
    seams = [float(square[:, near].mean()) for square in squares]
    eight = [[np.rint(255 * np.clip(frame, 0, 1)) for frame in side] for side in (made, whole)]

    def edge(frame: Array) -> float:
        down, across = frame[:, y] - frame[:, y - 1], frame[:, :, x] - frame[:, :, x - 1]
        return 255 * float((np.abs(down).sum() + np.abs(across).sum()) / (down.size + across.size))

    rows, columns = laid[0].rows.seen, laid[0].columns.seen
    return Row(
        overlap=overlap,
        tile=(len(rows), len(columns)),
        psnr_db=decibels(float(np.mean([square.mean() for square in squares]))),
        seam_psnr_db=decibels(float(np.mean(seams))),
        worst_seam_psnr_db=decibels(max(seams)),
        max_abs=float(np.sqrt(max(float(square.max()) for square in squares))),
        changed=float(np.mean([np.mean(a != b) for a, b in zip(*eight, strict=True)])),
        step=float(np.mean([edge(a) - edge(b) for a, b in zip(made, whole, strict=True)])),
        pixels=len(laid) * len(rows) * len(columns) * scale**2 / (height * width) - 1,
    )


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", default="bikes", help="a sample's name (default: %(default)s)")
    parser.add_argument(
        "--size", default="144x176", help="HEIGHTxWIDTH, from the middle (default: %(default)s)"
    )
    parser.add_argument("--frames", type=int, default=15, help="of the clip (default: %(default)s)")
    parser.add_argument("--overlap", type=int, nargs="+", default=OVERLAPS, help="low-resolution pixels")
    parser.add_argument("--blocks", type=int, help="residual blocks, with seeded weights; default: published")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; default: by the machine, in results/")
    given = parser.parse_args()
    try:
        size = parse_size(given.size)
        if given.clip not in SAMPLES:
            raise BadInputError(f"no sample '{given.clip}': one of {', '.join(SAMPLES)}")
        sample = SAMPLES[given.clip]
        clip = fetch(sample.location, sha256=sample.sha256).path
        about = machine([BACKEND])
        found = []
        with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as progress:

            def built(name: str, sides: tuple[int, int]) -> tuple[Bundle, str]:
                one = build(Path(folder) / name, sides, [BACKEND], progress, blocks=given.blocks, clip=clip)
                return one.bundle, one.weights

            bundle, weights = built("whole", size)
            contract = bundle.program.frame
            frames, source = golden_input(contract, given.frames, clip)
            progress.stage("whole frames", len(frames))
            whole = []
            with open_runner(bundle, bundle.pick(backend_name=BACKEND)) as runner:
                for output in runner.run(frames, total=len(frames)):
                    whole.append(np.asarray(output[0], np.float32))
                    progress.advance()
            for overlap in given.overlap:
                sides = (size[0] // 2 + overlap, size[1] // 2 + overlap)
                bundle, _ = built(f"tile-{overlap}", sides)
                laid = tiles(size, sides, overlap, contract.multiple)
                progress.stage(f"tiles of {sides[0]}x{sides[1]}", len(frames))
                made = joined(bundle, laid, frames, progress)
                found.append(compare(overlap, laid, contract.scale, made, whole))
    except SuperlowerError as error:
        return fail(error)
    print_table(
        f"BasicVSR, two tiles by two of {given.size}, {source}, against the whole frame",
        (
            "overlap",
            "PSNR",
            "at seams",
            "worst frame",
            "largest, of 255",
            "8-bit changed",
            "edge, of 255",
            "pixels",
        ),
        (
            (
                str(r.overlap),
                *(f"{db:.1f}" for db in (r.psnr_db, r.seam_psnr_db, r.worst_seam_psnr_db)),
                f"{255 * r.max_abs:.1f}",
                f"{r.changed:.2%}",
                f"{r.step:+.3f}",
                f"{r.pixels:+.0%}",
            )
            for r in found
        ),
    )
    result = {
        "benchmark": "seams",
        "machine": about,
        "model": {"name": "basicvsr", "weights": weights},
        "clip": source,
        "height": size[0],
        "width": size[1],
        "frames": given.frames,
        "band": BAND,
        "rows": [asdict(row) for row in found],
    }
    path = write(f"seams-{given.clip}", size, result, given.output)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
