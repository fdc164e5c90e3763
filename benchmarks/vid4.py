"""BasicVSR's published figures on Vid4, through compiled engines beside PyTorch. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common import build, fail, machine, write

from superlower.cli.common import Bars, console, print_table
from superlower.driver.quality import measure, read_truth
from superlower.driver.speed import physical_cores, pytorch_threads
from superlower.errors import SuperlowerError
from superlower.media.clip import open_clip

BACKENDS = ("onnxruntime", "openvino")
SCALE = 4


def main() -> int:
    """Run the script; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("truth", type=Path, nargs="+", help="folders of ground-truth PNG frames, one a clip")
    parser.add_argument("--frames", type=int, help="of each clip (default: all)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file, of a single clip")
    arguments = parser.parse_args()
    try:
        for truth in arguments.truth:
            _clip(truth, arguments.frames, arguments.output)
    except SuperlowerError as error:
        return fail(error)
    return 0


def _clip(truth: Path, count: int | None, output: Path | None) -> None:
    with open_clip(truth) as clip:
        size = clip.height // SCALE, clip.width // SCALE
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as bars:
        built = build(Path(folder, "basicvsr.bundle"), size, BACKENDS, bars)
        frames = read_truth(truth, built.bundle.program.frame, count)
        with pytorch_threads(physical_cores()):
            rows = measure(
                built.bundle,
                built.bundle.manifest.variants,
                frames,
                "bi",
                reference=built.reference,
                progress=bars,
            )
    result = {
        "machine": machine(BACKENDS),
        "clip": truth.name,
        "frames": len(frames),
        "degradation": "bi",
        "weights": built.weights,
        "results": [
            {
                "variant": row.variant,
                "psnr_y": round(row.quality.mean_psnr, 4),
                "ssim_y": round(row.quality.mean_ssim, 5),
                "max_abs_against_pytorch": max(row.max_abs, default=None),
            }
            for row in rows
        ],
    }
    print_table(
        f"{truth.name}, {len(frames)} frames, MATLAB bicubic x4 down",
        ("engine", "PSNR-Y dB", "SSIM-Y", "largest error against PyTorch"),
        (
            (
                row.variant,
                f"{row.quality.mean_psnr:.4f}",
                f"{row.quality.mean_ssim:.4f}",
                f"{max(row.max_abs):.1e}" if row.max_abs else "",
            )
            for row in rows
        ),
    )
    console.print(f"written: {write(f'vid4-{truth.name}', size, result, output)}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
