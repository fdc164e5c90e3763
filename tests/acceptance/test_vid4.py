"""The published network on Vid4, through the command line: the published quality, on every engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from superlower.frontends.zoo.basicvsr import BasicVsr
from support.command import superlower
from support.published import fetched

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

pytestmark = pytest.mark.slow

CHECKPOINT = BasicVsr.checkpoints[0]
BACKENDS = ("onnxruntime", "openvino")
FRAMES = 31


@pytest.mark.parametrize(
    ("clip", "size", "psnr"),
    [
        # Mean PSNR-Y of the reference PyTorch code with these weights. BasicVSR's paper gives 27.24 dB as the
        # mean of Vid4's four clips, and none of each.
        ("calendar", "144x180", 23.92),
        ("city", "144x176", 27.65),
    ],
)
def test_engines_have_the_published_quality(
    tmp_path: Path, oracles: Path, clip: str, size: str, psnr: float
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    fetched(CHECKPOINT)
    program, bundle = tmp_path / "program", tmp_path / "bundle"
    chosen = [option for name in BACKENDS for option in ("-b", name)]
    commands = (
        ("export", "basicvsr", "-w", CHECKPOINT.name, "--size", size, "-o", program),
        ("compile", program, "-o", bundle, "-t", "cpu", *chosen),
    )
    for command in commands:
        outcome = superlower(*command)
        assert outcome.code == 0, outcome.stderr
    measured = (
        "--gt",
        oracles / "vid4" / clip,
        "--degrade",
        "bi",
        "--frames",
        FRAMES,
        "--pytorch",
        CHECKPOINT.name,
    )
    outcome = superlower("bench", "quality", bundle, *measured, *chosen, "--json")
    assert outcome.code == 0, outcome.stderr
    reference, *rows = outcome.json["results"]
    assert [row["variant"] for row in rows] == [f"{name}-cpu-fp32" for name in BACKENDS]
    for row in (reference, *rows):
        print(row["variant"], row["psnr_y"], row["ssim_y"], max(row["max_abs_frames"], default=0))
        assert len(row["psnr_y_frames"]) == FRAMES
        # Figures are known to 0.01 dB.
        assert row["psnr_y"] == pytest.approx(psnr, abs=0.01)
    for row in rows:
        assert len(row["max_abs_frames"]) == FRAMES
        # A quarter of an 8-bit step: no pixel moves but by rounding.
        assert max(row["max_abs_frames"]) < 1e-3
