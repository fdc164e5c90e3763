"""superlower compile of several models: one report, nothing done twice, and a stopped command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from superlower.bundle.bundle import Bundle
from superlower.driver.matrix import REPORT
from support.command import superlower
from support.models import recurrent, save_program, save_upscaler, window

CPU = ("-t", "cpu", "-b", "onnxruntime", "--threads", 1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUPERLOWER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    return save_program(recurrent(), tmp_path / "recurrent"), save_upscaler(tmp_path / "lone.onnx")


def bundles(output: Path) -> list[str]:
    return sorted(p.name for p in output.iterdir() if p.is_dir())


@pytest.mark.usefixtures("cache")
def test_a_matrix_is_compiled_once(models: tuple[Path, Path], tmp_path: Path) -> None:
    output, page = tmp_path / "out", tmp_path / "report.html"
    outcome = superlower("compile", *models, "-o", output, *CPU, "-j", 2, "--html", page, "--json")
    assert outcome.code == 0, outcome.stderr
    assert bundles(output) == ["lone", "recurrent"]
    rows = outcome.json["rows"]
    assert list(rows) == ["recurrent", "lone"]
    for name, row in rows.items():
        assert (row["exit_code"], row["built"], row["found"]) == (0, 1, 0)
        (cell,) = row["cells"]
        assert cell["variant"] == "onnxruntime-cpu-fp32"
        assert cell["max_abs"] <= cell["tolerance"]
        assert cell["bytes"] > 0
        assert row["checksum"] == Bundle.open(output / name).manifest.checksum
    assert json.loads((output / REPORT).read_text())["rows"] == rows
    assert "onnxruntime-cpu-fp32" in page.read_text()
    stamps = {p: p.stat().st_mtime_ns for p in output.rglob("bundle.json")}
    again = superlower("compile", *models, "-o", output, *CPU, "--json")
    assert again.code == 0
    assert all(row["kept"] for row in again.json["rows"].values())
    assert {p: p.stat().st_mtime_ns for p in output.rglob("bundle.json")} == stamps
    assert "left as they were, for nothing has changed: recurrent, lone" in again.stderr
    (output / "lone" / "golden.npz").write_bytes(b"damaged")
    repaired = superlower("compile", *models, "-o", output, *CPU, "--json")
    assert repaired.code == 0
    rows = repaired.json["rows"]
    assert [(row["kept"], row["built"], row["found"]) for row in rows.values()] == [
        (True, 0, 0),
        (False, 0, 1),
    ]


@pytest.mark.usefixtures("cache")
def test_engines_of_removed_bundles_come_from_the_cache(models: tuple[Path, Path], tmp_path: Path) -> None:
    for output in (tmp_path / "one", tmp_path / "two"):
        outcome = superlower("compile", models[1], "-o", output, *CPU, "--cache", "--json")
        assert outcome.code == 0, outcome.stderr
    assert outcome.json["cache"] == {"built": 0, "found": 1}
    assert "0 engines built, 1 from the cache" in outcome.stderr
    listed = superlower("cache", "--json")
    (engine,) = listed.json["engines"]
    assert engine["made_of"]["backend"] == "onnxruntime"
    assert "engines in it" in superlower("doctor").stderr
    assert superlower("cache", "--clear", "--json").json["engines"] == []


def test_one_model_is_compiled_without_a_cache_unless_asked(
    models: tuple[Path, Path], tmp_path: Path, cache: Path
) -> None:
    outcome = superlower("compile", models[1], "-o", tmp_path / "b", *CPU, "--json")
    assert outcome.code == 0
    assert set(outcome.json) == {"output", "variants", "failures"}
    assert not cache.exists()
    config = (tmp_path / "b.config.toml").read_text()
    assert f'model = "{models[1]}"\n' in config
    again = superlower("--config", tmp_path / "b.config.toml", "compile", "-o", tmp_path / "c")
    assert again.code == 0, again.stderr
    assert (tmp_path / "c" / "bundle.json").is_file()


@pytest.mark.usefixtures("cache")
def test_a_failure_stops_the_rest_or_is_kept_for_the_report(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    bad, output = tmp_path / "bad.onnx", tmp_path / "out"
    bad.write_bytes(b"no model")
    stopped = superlower("compile", bad, models[1], "-o", output, *CPU)
    assert stopped.code == 2
    assert stopped.verdict.startswith("bad: ")
    assert "not a valid ONNX model" in stopped.verdict
    assert bundles(output) == []
    assert "not compiled: lone; the same command goes on" in stopped.stderr
    going = superlower("compile", bad, models[1], "-o", output, *CPU, "--keep-going", "--json")
    assert going.code == 2
    assert bundles(output) == ["lone"]
    rows = going.json["rows"]
    assert (rows["bad"]["exit_code"], rows["lone"]["exit_code"]) == (2, 0)
    assert rows["bad"]["cells"] == []
    bad.unlink()
    save_upscaler(bad)
    mended = superlower("compile", bad, models[1], "-o", output, *CPU, "--keep-going", "--json")
    assert mended.code == 0, mended.stderr
    assert [row["kept"] for row in mended.json["rows"].values()] == [False, True]


@pytest.mark.usefixtures("cache")
def test_options_are_refused_before_anything_is_begun(models: tuple[Path, Path], tmp_path: Path) -> None:
    outcome = superlower("compile", *models, "-o", tmp_path / "out", "-t", "cpu", "--mode", "fast")
    assert (outcome.code, outcome.error) == (2, "--mode fast: write latency or throughput")
    twin = save_program(window(), tmp_path / "other" / "recurrent")
    outcome = superlower("compile", models[0], twin, "-o", tmp_path / "out", *CPU)
    assert outcome.code == 2
    assert "would both become recurrent" in outcome.error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("cache")
def test_a_dry_run_says_what_would_be_compiled(models: tuple[Path, Path], tmp_path: Path) -> None:
    outcome = superlower("compile", *models, "-o", tmp_path / "out", *CPU, "--dry-run")
    assert outcome.code == 0
    assert f"would compile {models[0]} to {tmp_path / 'out' / 'recurrent'}" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_killed_command_goes_on(models: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "superlower.cli.main", "compile", *models, "-o", output, *CPU]
    child = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (output / REPORT).is_file():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    first = (output / "recurrent" / "bundle.json").stat().st_mtime_ns
    outcome = superlower("compile", *models, "-o", output, *CPU, "--json")
    assert outcome.code == 0, outcome.stderr
    assert [row["kept"] for row in outcome.json["rows"].values()] == [True, False]
    assert (output / "recurrent" / "bundle.json").stat().st_mtime_ns == first
    assert bundles(output) == ["lone", "recurrent"], "the killed one's child left nothing"
