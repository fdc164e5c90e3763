"""Published figures on Vid4, through compiled engines beside PyTorch. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from common import build, fail, machine, write

from superlower.cli.common import Bars, console, print_table
from superlower.driver import export as exporting
from superlower.driver.quality import measure, read_truth
from superlower.driver.speed import physical_cores, pytorch_threads
from superlower.errors import SuperlowerError
from superlower.media.clip import open_clip

BACKENDS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Protocol:
    """How a model's published figures on Vid4 (BI) were taken.

    Attributes:
        scale: how much smaller the input is.
        ends, border, rounded: as for `measure`.
        golden_frames: that the engines are held to when they are compiled; states need eight, windows fewer.
    """

    scale: int
    ends: int = 0
    border: int = 0
    rounded: bool = False
    golden_frames: int = exporting.GOLDEN_FRAMES


PROTOCOLS = {
    "basicvsr": Protocol(scale=4),
    "vespcn": Protocol(scale=4, ends=1, golden_frames=3),
    "sofvsr": Protocol(scale=2, ends=2, border=8, rounded=True, golden_frames=3),
}


def main() -> int:
    """Run the script; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("truth", type=Path, nargs="+", help="folders of ground-truth PNG frames, one a clip")
    parser.add_argument("--model", choices=PROTOCOLS, default="basicvsr")
    parser.add_argument("--weights", help="checkpoint's name or file (default: the first published one)")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="repeatable (default: both)")
    parser.add_argument("--no-pytorch", action="store_true", help="run the engines alone")
    parser.add_argument("--frames", type=int, help="of each clip (default: all)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file, of a single clip")
    arguments = parser.parse_args()
    try:
        for truth in arguments.truth:
            _clip(truth, arguments)
    except SuperlowerError as error:
        return fail(error)
    return 0


def _clip(truth: Path, arguments: argparse.Namespace) -> None:
    model, backends = arguments.model, arguments.backend or BACKENDS
    protocol = PROTOCOLS[model]
    with open_clip(truth) as clip:
        size = clip.height // protocol.scale, clip.width // protocol.scale
    with tempfile.TemporaryDirectory(prefix="superlower-") as folder, Bars() as bars:
        built = build(
            Path(folder, f"{model}.bundle"),
            size,
            backends,
            bars,
            model=model,
            weights=arguments.weights,
            golden_frames=protocol.golden_frames,
        )
        frames = read_truth(truth, built.bundle.program.frame, arguments.frames)
        with pytorch_threads(physical_cores()):
            rows = measure(
                built.bundle,
                built.bundle.manifest.variants,
                frames,
                "bi",
                ends=protocol.ends,
                border=protocol.border,
                rounded=protocol.rounded,
                reference=None if arguments.no_pytorch else built.reference,
                progress=bars,
            )
    result = {
        "machine": machine(backends),
        "model": model,
        "clip": truth.name,
        "frames": len(frames),
        "degradation": "bi",
        "protocol": asdict(protocol),
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
        f"{model}, {truth.name}, {len(frames)} frames, MATLAB bicubic x{protocol.scale} down",
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
    name = f"vid4-{truth.name}" if model == "basicvsr" else f"vid4-{model}-{truth.name}"
    console.print(f"written: {write(name, size, result, arguments.output)}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
