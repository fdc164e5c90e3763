"""Passes that cost quality on the command line: budgets enforced, and said in the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from superlower.bundle.bundle import Bundle
from superlower.media.images import write_png
from superlower.program import files
from support.command import superlower
from support.pyramids import FlowPyramid
from support.windows import SIDE

PASS = ("--pass", "truncate-flow-levels")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.save_model(FlowPyramid().model(), tmp_path / "pyramid")
    return tmp_path / "pyramid"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Noise of a few levels about a grey that changes, a pixel larger than the model's output."""
    place = tmp_path / "truth"
    place.mkdir()
    rng = np.random.default_rng(0)
    for t in range(4):
        write_png(
            place / f"{t}.png", rng.integers(90 + 9 * t, 120 + 9 * t, (SIDE + 1, SIDE + 1, 3), np.uint8)
        )
    return place


def test_listed() -> None:
    entries = {e["name"]: e for e in superlower("passes", "--json").json}
    assert entries["truncate-flow-levels"]["budget"]["db"] == 0.1
    assert entries["truncate-flow-levels"]["options"] == {"levels": 1, "budget_db": 0.1}
    assert entries["reuse-coarse-flow"]["options"] == {"budget_db": 0.1}
    assert "0.1 dB" in superlower("passes").stderr


def test_over_budget_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    outcome = superlower(
        *("compile", folder, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime", "--frames", 4),
        *(*PASS, "--set", "truncate-flow-levels.budget_db=0"),
    )
    assert outcome.code == 4
    assert outcome.verdict.startswith("pass truncate-flow-levels on program 'window' costs ")
    assert "over its budget of 0" in outcome.verdict
    assert not (tmp_path / "bundle").exists()


def test_compiled_against_the_truth(folder: Path, truth: Path, tmp_path: Path) -> None:
    outcome = superlower(
        *("compile", folder, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime"),
        *("--truth", truth, "--frames", 4, *PASS),
        *("--set", "truncate-flow-levels.levels=2", "--set", "truncate-flow-levels.budget_db=50"),
    )
    assert outcome.code == 0, outcome.stderr
    assert "dB against the ground truth" in outcome.stderr
    bundle = Bundle.open(tmp_path / "bundle")
    record = bundle.manifest.passes[0]
    assert record.name == "truncate-flow-levels"
    assert record.budget is None
    assert record.quality is not None
    assert record.quality.budget_db == 50
    assert record.quality.before_db is not None
    assert record.quality.after_db is not None
    assert record.quality.db == pytest.approx(record.quality.before_db - record.quality.after_db)
    golden = bundle.manifest.golden
    assert golden.source == "truth, first 4 frames, degraded by bi"
    assert golden.reference == "ONNX Runtime on the graphs after truncate-flow-levels"
    (variant,) = bundle.manifest.variants
    assert variant.measured is not None
    assert max(variant.measured.max_abs) <= variant.tolerance
    assert superlower("check", tmp_path / "bundle").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--frames", 5), "has 4 frames, 5 are needed"),
        (("--degradation", "blur"), "unknown degradation 'blur'"),
        (("--degradation", "bd"), "degradation bd is defined for x4, the model is x1: use bi"),
        (("--clip", "there"), "--clip and --truth both make golden frames: give one"),
    ],
)
def test_refused(folder: Path, truth: Path, tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    outcome = superlower(
        *("compile", folder, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime", "--frames", 4),
        *("--truth", truth, *arguments),
    )
    assert outcome.code == 2
    assert said in outcome.verdict
    assert not (tmp_path / "bundle").exists()


def test_a_truth_too_small(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    write_png(place / "0.png", np.zeros((SIDE - 1, SIDE, 3), np.uint8))
    outcome = superlower(
        *("compile", folder, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime"),
        *("--truth", place, "--frames", 1),
    )
    assert outcome.code == 2
    assert f"is {SIDE - 1}x{SIDE}, smaller than the model's output, {SIDE}x{SIDE}" in outcome.verdict
