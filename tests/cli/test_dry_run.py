"""Dry runs: what would be done, on stdout too, and nothing made."""

from __future__ import annotations

from pathlib import Path

from support.clips import save_folder
from support.command import Outcome, superlower


def said(outcome: Outcome) -> object:
    assert outcome.code == 0, outcome.stderr
    assert "would " in outcome.stderr
    return outcome.json


def test_upscale(upscaler_bundle: Path, tmp_path: Path) -> None:
    source, output = save_folder(tmp_path / "in", 4), tmp_path / "out.mp4"
    arguments = ("upscale", upscaler_bundle, "-i", source, "-o", output, "--in-flight", 2, "--frames", 3)
    planned = said(superlower(*arguments, "--dry-run", "--json"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    done = superlower(*arguments, "--json").json
    assert planned == {
        "output": str(output),
        "variant": done["variant"],
        "chunking": done["result"]["chunking"],
    }
    assert done["result"]["chunking"]["chunk"] == 2
    assert done["result"]["frames"] == 3


def test_compile(lone: Path, tmp_path: Path) -> None:
    targets = ("-t", "cpu", "-b", "onnxruntime", "-p", "fp32", "-p", "fp32")
    outcome = superlower("compile", lone, "-o", tmp_path / "b", *targets, "--dry-run", "--json")
    assert said(outcome) == {
        "output": str(tmp_path / "b"),
        "variants": ["onnxruntime-cpu-fp32"],
        "graphs": ["upscale"],
    }
    assert list(tmp_path.iterdir()) == [lone]


def test_export(tmp_path: Path) -> None:
    outcome = superlower("export", "basicvsr", "-o", tmp_path / "p", "--size", "64x80", "--dry-run", "--json")
    assert said(outcome) == {"output": str(tmp_path / "p"), "model": "basicvsr", "size": [64, 80]}
    assert list(tmp_path.iterdir()) == []
