"""superlower plan, and what --max-memory says."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command import superlower
from support.models import bidirectional, save_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_program(bidirectional(32, 32), tmp_path_factory.mktemp("plan") / "program")


def test_a_plan_keeps_to_its_limit(folder: Path) -> None:
    asked = (
        "plan",
        folder,
        "--size",
        "288x352",
        "--max-memory",
        "1GB",
        "-b",
        "openvino",
        "--tile-overlap",
        8,
    )
    found = superlower(*asked, "--json").json["plans"]["openvino"]
    peak = found["peak"]
    assert sum(peak.values()) == found["cut"]["process_bytes"] <= 10**9
    assert found["cut"]["tiles"] == found["rows"] * found["columns"]
    assert "288x352 within 1 GB" in superlower(*asked).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-memory", "1MB"), "however it is cut, over --max-memory: allow that much"),
        (("--max-memory", "4GB", "-b", "tvm"), "tvm"),
        (("--max-memory", "lots"), "'lots' is no amount of memory"),
    ],
)
def test_a_plan_that_cant_be_is_one_line(folder: Path, options: tuple[str, ...], message: str) -> None:
    outcome = superlower("plan", folder, "--size", "288x352", *options)
    assert outcome.code == 2
    assert message in " ".join(outcome.stderr.split())


def test_whose_memory_is_asked_with_a_limit_alone(tmp_path: Path) -> None:
    outcome = superlower("export", "espcn", "-o", tmp_path / "p", "--size", "64x64", "-b", "openvino")
    assert outcome.code == 2
    assert "--max-memory" in outcome.stderr
    assert not (tmp_path / "p").exists()
