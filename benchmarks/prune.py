"""What pruning costs and gains: BasicVSR by blocks and channels, TecoGAN by blocks. See docs/pruning.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from common import fail, machine, write
from engines import Engines

from superlower.cli.common import Bars, console, print_table
from superlower.driver.export import frontend
from superlower.driver.prune import run
from superlower.driver.prune_request import COST_SIZE, Cut, Footage, Pruned, Tuning
from superlower.driver.speed import take_turns
from superlower.errors import SuperlowerError
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.program.model import TemporalModel
from superlower.runtime.runner import Runner

CLIPS = ("bikes", "bigbuckbunny")
SHARES = (0.2, 0.4)
BLOCKS = (20, 15, 10, 5)
TECOGAN_BLOCKS = (10, 7, 5, 3, 1)
TIME_SIZE = (48, 64)
TIMED_FRAMES = 6
BACKEND = "openvino"
WHOLE = "whole"


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
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints; default: thrown away")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        study = _basicvsr(arguments) if arguments.truth else _tecogan(arguments)
    except SuperlowerError as error:
        return fail(error)
    name = "prune-basicvsr" if arguments.truth else "prune-tecogan"
    result = {
        "machine": {**machine([BACKEND]), "load_average": load},
        "timed_size": list(TIME_SIZE),
        "backend": BACKEND,
        "results": {title: row.as_json() for title, row in study.items()},
    }
    _print(study)
    console.print(f"written: {write(name, COST_SIZE, result, arguments.output)}", markup=False)
    return 0


@dataclass(frozen=True)
class Row:
    """A pruned network.

    Attributes:
        ms: of processor time a frame, of the whole network's engines and of its own, round by round.
    """

    made: Pruned
    ms: Mapping[str, Sequence[float]]

    def as_json(self) -> dict[str, object]:
        """All but the checkpoint, which isn't kept."""
        found = asdict(self.made)
        del found["output"]
        return found | {"engine_cpu_ms": self.ms}

    @property
    def ratio(self) -> float:
        """How many times as fast its engines are."""
        return median(a / b for a, b in zip(*self.ms.values(), strict=True))


def _basicvsr(arguments: argparse.Namespace) -> dict[str, Row]:
    cuts = {f"{blocks} blocks a trunk": Cut(blocks=blocks) for blocks in arguments.blocks}
    cuts |= {f"{share:.0%} of the parameters": Cut(remove=share) for share in arguments.shares}
    steps = 0 if arguments.minutes is None else None
    tuning = Tuning(steps, arguments.minutes, windows=arguments.windows, crop=arguments.crop)
    footage = Footage(CLIPS, arguments.truth, arguments.frames, arguments.side)
    return _study("basicvsr", "vimeo90k-bi", cuts, tuning, footage, arguments)


def _tecogan(arguments: argparse.Namespace) -> dict[str, Row]:
    """No weights of it are published: what is left counts, not what it makes."""
    cuts = {f"{n} blocks": Cut(blocks=n, importance="weights") for n in TECOGAN_BLOCKS}
    return _study("tecogan", "random:0", cuts, Tuning(), Footage(), arguments, warmup="0")


def _study(
    model: str,
    weights: str,
    cuts: Mapping[str, Cut],
    tuning: Tuning,
    footage: Footage,
    arguments: argparse.Namespace,
    **options: str,
) -> dict[str, Row]:
    architecture = frontend(model)
    fetched = fetch_weights(weights, architecture)

    def export(path: Path) -> TemporalModel:
        return architecture.export(ExportRequest(path, *TIME_SIZE, options, fetched.source))

    with ExitStack() as stack:
        bars = stack.enter_context(Bars())
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="superlower-"))
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {title: folder / f"{model} {title}.pth".replace(" ", "-") for title in cuts}
        made = {
            title: run(model, weights, paths[title], cut, tuning, footage, options=options, progress=bars)
            for title, cut in cuts.items()
        }
        models = {WHOLE: export(fetched.path)} | {title: export(path) for title, path in paths.items()}
        engines = Engines(BACKEND, 1, stack)
        runners = {title: engines.runner(exported) for title, exported in models.items()}
        ms = take_turns(
            {title: partial(_ms, runner) for title, runner in runners.items()},
            rounds=arguments.rounds,
            progress=bars,
        )
    return {title: Row(made[title], {WHOLE: ms[WHOLE], title: ms[title]}) for title in cuts}


def _ms(runner: Runner) -> float:
    """Milliseconds of processor time a frame, of noise: they hold on a machine that does other things."""
    draw = np.random.default_rng(0)
    clip = [draw.random((1, 3, *TIME_SIZE), np.float32) for _ in range(TIMED_FRAMES)]
    started = time.process_time()
    for _ in runner.run(clip, total=TIMED_FRAMES):
        pass
    return 1000 * (time.process_time() - started) / TIMED_FRAMES


def _print(study: Mapping[str, Row]) -> None:
    clips = list(next(iter(study.values())).made.stages[0].psnr)
    print_table(
        "pruned; PSNR-Y in dB against the whole network's, after the cut, the refit and fine-tuning",
        ("", "parameters", "GMAC a frame", f"CPU ms, {BACKEND}", "times as fast", *clips),
        (
            (
                title,
                f"{made.after.parameters:,}",
                f"{made.after.gmacs:.1f}",
                f"{median(row.ms[title]):.1f}",
                f"{row.ratio:.2f}",
                *(
                    " ".join(
                        f"{stage.psnr[clip] - made.stages[0].psnr[clip]:+.2f}" for stage in made.stages[1:]
                    )
                    for clip in clips
                ),
            )
            for title, row in study.items()
            for made in (row.made,)
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
