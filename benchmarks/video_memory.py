"""A video through `superlower export --max-memory`, `compile` and `upscale`: the peak of that last process.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from common import MODEL, fail, machine, write

from superlower.bundle.bundle import Bundle
from superlower.cli.common import console, parse_bytes, parse_size
from superlower.errors import BadInputError, BuildFailedError, SuperlowerError
from superlower.frontends.fetch import fetch
from superlower.media.samples import SAMPLES


def verb(*words: str) -> tuple[dict[str, object], int]:
    """What a verb says with --json, and the peak of its process in bytes."""
    command = [sys.executable, "-m", "superlower.cli.main", "--no-progress", *words, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BuildFailedError(f"superlower {' '.join(words)} exits {process.returncode}")
    return msgspec.json.decode(told, type=dict[str, object]), 1024 * usage.ru_maxrss


def main() -> int:
    """Export, compile, upscale, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", default="bigbuckbunny", help="a sample's name (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=2, help="to upscale (default: %(default)s)")
    parser.add_argument("--max-memory", default="4GB", help="of the process (default: %(default)s)")
    parser.add_argument("--backend", default="openvino", help="default: %(default)s")
    parser.add_argument("--size", help="HEIGHTxWIDTH of tiles; default: as --max-memory has it planned")
    parser.add_argument("--blocks", type=int, help="residual blocks, with seeded weights; default: published")
    parser.add_argument(
        "--bundle", type=Path, help="made here, or taken up if it is there; default: thrown away"
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file; default: by the machine, in results/")
    given = parser.parse_args()
    try:
        if given.clip not in SAMPLES:
            raise BadInputError(f"no sample '{given.clip}': one of {', '.join(SAMPLES)}")
        sample, limit = SAMPLES[given.clip], parse_bytes(given.max_memory)
        clip = fetch(sample.location, sha256=sample.sha256).path
        about = machine([given.backend])
        size = given.size or f"{sample.height}x{sample.width}"
        parse_size(size)
        with tempfile.TemporaryDirectory(prefix="superlower-") as scratch:
            bundle = given.bundle or Path(scratch) / "bundle"
            weights = ("-w", "random:0", "--set", f"blocks={given.blocks}") if given.blocks else ()
            if not bundle.exists():
                folder = str(Path(scratch) / "program")
                planned = () if given.size else ("--max-memory", given.max_memory, "-b", given.backend)
                verb("export", MODEL, "--size", size, "-o", folder, "--clip", str(clip), *weights, *planned)
                verb("compile", folder, "-o", str(bundle), "-t", "cpu", "-b", given.backend)
            told, peak = verb(
                "upscale",
                str(bundle),
                *("-i", str(clip), "-o", str(Path(scratch) / "out.mp4")),
                *("--frames", str(given.frames), "--max-memory", given.max_memory, "-b", given.backend),
            )
            frame = Bundle.open(bundle).program.frame
    except SuperlowerError as error:
        return fail(error)
    result = msgspec.convert(told["result"], type=dict[str, object])
    cut = msgspec.convert(result["chunking"], type=dict[str, int | float | None])
    predicted = cut["process_bytes"] or 0
    console.print(
        f"{given.clip}, {sample.height}x{sample.width} to {frame.scale * sample.height}x"
        f"{frame.scale * sample.width}, {given.frames} frames in {cut['tiles']} tiles of {frame.height}x"
        f"{frame.width}, {cut['tile_overlap']} pixels beyond each: peak {peak / 1e9:.3f} GB of "
        f"{limit / 1e9:.3g} allowed, predicted {predicted / 1e9:.3f} ({predicted / peak - 1:+.1%})",
        soft_wrap=True,
    )
    record = {
        "benchmark": "video-memory",
        "machine": about,
        "model": {"name": MODEL, "blocks": given.blocks},
        "backend": given.backend,
        "clip": given.clip,
        "tile": [frame.height, frame.width],
        "limit": limit,
        "measured": peak,
        "result": result,
    }
    path = write(f"video-memory-{given.clip}", (sample.height, sample.width), record, given.output)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    return int(peak > limit)


if __name__ == "__main__":
    raise SystemExit(main())
