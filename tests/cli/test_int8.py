"""int8 on the command line: what must be given, what is said, what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from superlower.bundle.bundle import Bundle
from superlower.driver import quantization
from support.clips import save_folder
from support.command import superlower
from support.models import recurrent, save_program


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return save_program(recurrent(), tmp_path / "program")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "clip", 8, 32, 32)


def compiled(program: Path, *options: object):
    output = program.parent / "bundle"
    return superlower("compile", program, "-o", output, "-t", "cpu", "-b", "onnxruntime", *options)


def test_compiled_and_checked(program: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "_FASTEST", ("onnxruntime",))
    outcome = compiled(program, "-p", "fp32", "-p", "int8", "--calibrate", clip, "--budget-db", "0.5")
    assert outcome.code == 0, outcome.stderr
    said = " ".join(outcome.stderr.split())
    assert "onnxruntime-cpu-int8: uint8 activations, calibrated on clip, first 8 frames" in said
    assert all(role in said for role in ("entry", "trunk", "last"))
    assert "dB of PSNR of 0.5 allowed" in said
    bundle = Bundle.open(program.parent / "bundle")
    assert [v.name for v in bundle.manifest.variants] == ["onnxruntime-cpu-fp32", "onnxruntime-cpu-int8"]
    checked = superlower("check", bundle.folder, "--json")
    assert checked.code == 0, checked.stderr
    exact, rounded = checked.json["checks"]
    assert (exact["floor_db"], exact["passed"], rounded["passed"]) == (None, True, True)
    assert rounded["floor_db"] == bundle.manifest.variants[1].floor_db


def test_a_clip_is_needed(program: Path) -> None:
    outcome = compiled(program, "-p", "int8")
    assert outcome.code == 2
    assert "--precision int8 is calibrated on video: give a clip with --calibrate" in outcome.verdict


def test_a_clip_is_for_int8(program: Path, clip: Path) -> None:
    outcome = compiled(program, "--calibrate", clip)
    assert outcome.code == 2
    assert "--calibrate is for --precision int8 or mixed" in outcome.verdict


@pytest.mark.parametrize("budget", ["0", "-1", "nan"])
def test_a_budget_is_above_0(program: Path, clip: Path, budget: str) -> None:
    outcome = compiled(program, "-p", "int8", "--calibrate", clip, "--budget-db", budget)
    assert outcome.code == 2
    assert "--budget-db" in outcome.verdict


def test_a_clip_that_is_not_there(program: Path) -> None:
    outcome = compiled(program, "-p", "int8", "--calibrate", program / "none.mp4")
    assert outcome.code == 2
    assert "none.mp4" in outcome.verdict
    assert not (program.parent / "bundle").exists()
