"""superlower tune as a user meets it, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from superlower.backends.tvm.engine import nvidia_gpus
from superlower.backends.tvm.tuning.ranking import Record
from superlower.backends.tvm.tuning.store import Store
from support.command import superlower

RECORD = Record(
    task="a",
    name="fused_conv2d_add",
    kind="k",
    shapes=((1, 3, 8, 8),),
    target="llvm/generic",
    tvm="0.27",
    device="a processor",
    origin="search",
    threads=2,
    seconds=(0.5,),
    trace="[[],[]]",
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to tune: give MODEL"),
        (("MODEL",), "say what to tune for: --target"),
        (("MODEL", "--target", "cpu", "--trials", 3, "--minutes", 1), "either --trials or --minutes"),
        (("MODEL", "--target", "cpu", "--minutes", 0), "write a number above 0"),
        (("MODEL", "--target", "cpu", "--key", "rtx4090"), "--tracker HOST:PORT and --key NAME"),
        (("MODEL", "--target", "cpu", "--key", "k", "--tracker", "here"), "write HOST:PORT"),
        (("MODEL", "--target", "cpu", "--export", "f"), "is of the whole database"),
        (("--stats", "--prune"), "two commands"),
        (("--import", "nowhere"), "no such file or folder"),
    ],
)
def test_refusals(lone: Path, tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    given = [lone if argument == "MODEL" else argument for argument in arguments]
    outcome = superlower("tune", *given, "--db", tmp_path / "database")
    assert outcome.code == 2
    assert said in outcome.error
    assert not (tmp_path / "database").exists()


@pytest.mark.parametrize(
    ("target", "options", "code", "message"),
    [
        ("v100", (), 6, "by --tracker and --key"),
        ("rtx4090", ("--precision", "fp16"), 6, "by --tracker and --key"),
        ("rtx4090", ("--precision", "int8"), 2, "int8 graphs are made by compile's calibration"),
        ("intel-gpu", (), 2, "the apache-tvm wheel has no OpenCL runtime"),
    ],
)
def test_what_cannot_be_tuned_for_is_said(
    lone: Path, tmp_path: Path, target: str, options: tuple[str, ...], code: int, message: str
) -> None:
    if target != "intel-gpu" and not isinstance(nvidia_gpus(), str):
        pytest.skip("this machine has an NVIDIA GPU")
    outcome = superlower("tune", lone, "--target", target, "--trials", 1, "--db", tmp_path / "d", *options)
    if "isn't installed" in outcome.verdict:
        pytest.skip(outcome.verdict)
    assert outcome.code == code
    assert message in outcome.verdict


def test_the_default_database_may_be_switched_off(lone: Path) -> None:
    outcome = superlower("tune", "--stats")
    assert outcome.code == 2
    assert "SUPERLOWER_TUNING=off" in outcome.error


def test_a_database_travels_by_export_and_import(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "best.jsonl"
    slower = [msgspec.structs.replace(RECORD, seconds=(n / 1,), trace=f"[[],[{n}]]") for n in range(1, 4)]
    Store(here).append([RECORD, *slower])
    assert superlower("tune", "--db", here, "--export", file, "--keep", 2, "--json").json == {
        "written": 2,
        "skipped": 0,
    }
    with file.open("a") as lines:
        lines.write("not a measurement\n")
    counts = {"added": 2, "known": 0, "skipped": 1}
    assert superlower("tune", "--db", there, "--import", file, "--json").json == counts
    assert Store(there).read().records == (RECORD, slower[0])
    (group,) = superlower("tune", "--db", there, "--stats", "--json").json["groups"]
    assert (group["tasks"], group["measurements"], group["searched"], group["failed"]) == (1, 2, 1, 0)
    assert superlower("tune", "--db", here, "--prune", "--keep", 1, "--json").json == {
        "before": 4,
        "after": 1,
    }
