"""What pruning costs and gains: BasicVSR by blocks and channels, TecoGAN by blocks. See docs/pruning.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from common import fail, machine, write

from superlower.cli.common import Bars, console, print_table
from superlower.driver.prune import run
from superlower.driver.prune_request import COST_SIZE, Cut, Footage, Pruned, Tuning
from superlower.errors import SuperlowerError

CLIPS = ("bikes", "bigbuckbunny")
SHARES = (0.2, 0.4)
BLOCKS = (20, 15, 10, 5)
TECOGAN_BLOCKS = (10, 7, 5, 3, 1)
TIME_SIZE = (48, 64)


def main() -> int:
    """Run the script; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "truth", nargs="*", help="clips of ground truth to score BasicVSR on; none: TecoGAN only"
    )
    parser.add_argument("--minutes", type=float, help="of fine-tuning each (default: none, refitted only)")
    parser.add_argument("--windows", type=int, default=48, help="cut from the clips to learn from")
    parser.add_argument("--crop", type=int, default=48, help="low-resolution side of those")
    parser.add_argument("--frames", type=int, default=8, help="of each clip to score")
    parser.add_argument("--side", type=int, help="low-resolution side of their middle (default: all)")
    parser.add_argument("--blocks", type=int, nargs="*", default=BLOCKS, help="to keep of BasicVSR's 30")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=SHARES, help="of its parameters, to remove"
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        study = _basicvsr(arguments) if arguments.truth else _tecogan()
    except SuperlowerError as error:
        return fail(error)
    name = "prune-basicvsr" if arguments.truth else "prune-tecogan"
    result = {
        "machine": {**machine(()), "load_average": load},
        "results": {title: asdict(made) for title, made in study.items()},
    }
    _print(study)
    console.print(f"written: {write(name, COST_SIZE, result, arguments.output)}", markup=False)
    return 0


def _basicvsr(arguments: argparse.Namespace) -> dict[str, Pruned]:
    cuts = {f"{blocks} blocks a trunk": Cut(blocks=blocks) for blocks in arguments.blocks}
    cuts |= {f"{share:.0%} of the parameters": Cut(remove=share) for share in arguments.shares}
    steps = 0 if arguments.minutes is None else None
    tuning = Tuning(steps, arguments.minutes, windows=arguments.windows, crop=arguments.crop)
    footage = Footage(CLIPS, arguments.truth, arguments.frames, arguments.side)
    return _study("basicvsr", "vimeo90k-bi", cuts, tuning, footage)


def _tecogan() -> dict[str, Pruned]:
    """No weights of it are published: what is left counts, not what it makes."""
    cuts = {f"{n} blocks": Cut(blocks=n, importance="weights") for n in TECOGAN_BLOCKS}
    return _study("tecogan", "random:0", cuts, Tuning(), Footage(), warmup="0")


def _study(
    model: str, weights: str, cuts: Mapping[str, Cut], tuning: Tuning, footage: Footage, **options: str
) -> dict[str, Pruned]:
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as bars:
        return {
            title: run(
                model,
                weights,
                Path(folder, f"{index}.pth"),
                cut,
                tuning,
                footage,
                options=options,
                time_size=TIME_SIZE,
                progress=bars,
            )
            for index, (title, cut) in enumerate(cuts.items())
        }


def _print(study: Mapping[str, Pruned]) -> None:
    clips = list(next(iter(study.values())).stages[0].psnr)
    print_table(
        "pruned; PSNR-Y in dB against the whole network's, after the cut, the refit and fine-tuning",
        ("", "parameters", "GMAC a frame", "times as fast", *clips),
        (
            (
                title,
                f"{made.after.parameters:,}",
                f"{made.after.gmacs:.1f}",
                f"{made.ratio:.2f}",
                *(
                    " ".join(
                        f"{stage.psnr[clip] - made.stages[0].psnr[clip]:+.2f}" for stage in made.stages[1:]
                    )
                    for clip in clips
                ),
            )
            for title, made in study.items()
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
