"""Peak memory of processes that run a model's engines, whole frames and tiles, beside what was predicted.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import MODEL, build, fail, machine, write
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.cli.common import Bars, console, parse_size, print_table
from superlower.driver.memory import RUNTIMES, legalized, predict
from superlower.driver.process_size import peak_bytes
from superlower.errors import SuperlowerError
from superlower.program.tiles import Tile, tiles
from superlower.runtime.load import open_runners
from superlower.runtime.tiled import TiledRunner

FRAMES = 4
BAR = 0.1
WHAT = ("whole frames", "two tiles")


@dataclass(frozen=True)
class Row:
    """One process.

    Attributes:
        backend: that ran.
        what: "whole frames", or "two tiles" that overlap in 64 pixels.
        predicted, measured: peak of the process in bytes, all of it.
        error: of the prediction, relative to what was measured.
    """

    backend: str
    what: str
    predicted: int
    measured: int
    error: float


def child(folder: Path, backend: str, what: str) -> int:
    """Run in a process of its own: four random frames, whole or in two tiles. Prints the peak in bytes."""
    bundle = Bundle.open(folder)
    variant, program = bundle.pick(backend_name=backend), bundle.program
    rng = np.random.default_rng(0)
    if what == "whole frames":
        with open_runners(bundle, variant, 1) as (runner,):
            shape = program.sizes(program.input)
            frames = (rng.random(shape).astype(np.float32) for _ in range(FRAMES))
            for _ in runner.run(frames, total=FRAMES):
                pass
    else:
        height, width = program.frame.padded

        def part(whole: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
            seen = tile.columns.seen
            return np.ascontiguousarray(whole[..., seen.start : seen.stop])

        laid = tiles((height, 2 * width - 64), (height, width), 32, program.frame.multiple)
        with open_runners(bundle, variant, len(laid)) as runners:
            tiled = TiledRunner(runners, laid, part)
            frames = (
                rng.random((1, program.frame.channels, height, 2 * width - 64)).astype(np.float32)
                for _ in range(FRAMES)
            )
            for kept in tiled.run(frames, total=FRAMES):
                for _ in kept:
                    pass
    found = peak_bytes()
    assert found is not None
    print(found)
    return 0


def measure(bundle: Bundle, backend: str, what: str) -> Row:
    """A row: the child's peak beside the prediction."""
    command = [sys.executable, __file__, "--child", str(bundle.folder), backend, what]
    measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    predicted = predict(legalized(bundle.model(), backend), backend, FRAMES).total
    return Row(backend, what, predicted, measured, predicted / measured - 1)


def main() -> int:
    """Measure, print, write."""
    if sys.argv[1:2] == ["--child"]:
        return child(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL, help="default: %(default)s")
    parser.add_argument("--weights", help="as of `superlower export`; default: the first published")
    parser.add_argument("--size", default="144x176", help="HEIGHTxWIDTH of whole frames and of tiles")
    parser.add_argument("--blocks", type=int, help="residual blocks, with seeded weights; default: published")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; default: by the machine, in results/")
    given = parser.parse_args()
    try:
        size = parse_size(given.size)
        about = machine(list(RUNTIMES))
        with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as progress:
            built = build(
                Path(folder) / "bundle",
                size,
                list(RUNTIMES),
                progress,
                model=given.model,
                weights=given.weights,
                blocks=given.blocks,
            )
            rows = [
                measure(built.bundle, b, what) for b in RUNTIMES for what in ("whole frames", "two tiles")
            ]
    except SuperlowerError as error:
        return fail(error)
    print_table(
        f"peak of a process over {FRAMES} frames, tiles and whole frames of {given.size}, MB",
        ("backend", "what", "predicted", "measured", "error"),
        (
            (r.backend, r.what, f"{r.predicted / 1e6:.0f}", f"{r.measured / 1e6:.0f}", f"{r.error:+.1%}")
            for r in rows
        ),
    )
    result = {
        "benchmark": "memory",
        "machine": about,
        "model": {"name": given.model, "weights": built.weights},
        "frames": FRAMES,
        "rows": [asdict(row) for row in rows],
    }
    path = write(f"memory-{given.model}", size, result, given.output)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    return int(max(abs(row.error) for row in rows) > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
