"""What `doctor` says is here, fits, is missing, and is known to be wrong."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from superlower.cli import doctor
from superlower.doctor.rules import rules
from superlower.probes import tables
from superlower.probes.cases import cases
from support.command import fresh, superlower


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions to pretend: None for a distribution that isn't here."""
    pretended: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name not in pretended:
            return real(name)
        if (found := pretended[name]) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return pretended


def test_remedies_are_ones_that_work(versions: dict[str, str | None]) -> None:
    """Extras that pyproject.toml declares, and nothing else in brackets."""
    real = importlib.metadata.version("numpy")
    versions.update(dict.fromkeys(("onnx", "av", "torch")))
    extras = importlib.metadata.metadata("superlower").get_all("Provides-Extra")
    machine = superlower("doctor", "--json").json["machine"]
    assert machine["onnx"] == machine["av"] == "not installed: pip install --force-reinstall superlower"
    assert machine["torch"] == "not installed: pip install 'superlower[torch]'"
    assert "torch" in extras
    assert not {"onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "av"} & set(extras)
    assert machine["numpy"] == real


def test_what_fits_is_said_to_and_ends_well() -> None:
    outcome = superlower("doctor", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["conflicts"] == []
    assert {"NVIDIA GPU", "CUDA compilers"} <= outcome.json["machine"].keys()


def test_a_version_that_does_not_fit_is_exit_6_with_the_command(versions: dict[str, str | None]) -> None:
    pytest.importorskip("tvm_ffi", reason="TVM isn't installed")
    versions["apache-tvm-ffi"] = "0.1.15.post2"
    outcome = superlower("doctor", "--json")
    assert outcome.code == 6
    (conflict,) = outcome.json["conflicts"]
    assert conflict["what"] == "apache-tvm-ffi 0.1.15.post2"
    assert outcome.error.endswith("needs ==0.1.14.post1: pip install 'apache-tvm-ffi==0.1.14.post1'")
    assert [line for line in outcome.json["known_bugs"] if "segfaults" in line]
    people = superlower("doctor")
    assert people.code == 6
    assert "segfaults in save_json" in people.stderr
    assert people.verdict == outcome.error


def test_a_driver_too_old_for_an_sdk_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="TVM isn't installed")
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    monkeypatch.setattr(doctor, "_DRIVER", driver)
    outcome = superlower("doctor", "-b", "tvm", "--json")
    assert outcome.code == 6
    assert "NVIDIA driver 570.86.15 is here, and apache-tvm is built with CUDA 13" in outcome.error
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Thu Jan 23\n")
    assert superlower("doctor", "-b", "tvm", "--json").code == 0


def test_a_report_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.console, "width", 100)
    for arguments in ((), ("--rules",)):
        outcome = superlower("doctor", *arguments)
        assert outcome.stdout == ""
        assert max(map(len, outcome.stderr.splitlines())) <= 100


def test_rules_are_listed_with_those_of_what_is_here(versions: dict[str, str | None]) -> None:
    listed = {rule["id"]: rule for rule in superlower("doctor", "--rules", "--json").json}
    assert listed.keys() == {rule.id for rule in rules()}
    assert listed["invalid-graph"]["here"]
    assert listed["ort-bf16"]["here"]
    assert not listed["tvm-ffi-segfault"]["here"]
    versions["apache-tvm-ffi"] = "0.1.15.post1"
    pytest.importorskip("tvm", reason="TVM isn't installed")
    listed = {rule["id"]: rule for rule in superlower("doctor", "--rules", "--json").json}
    assert listed["tvm-ffi-segfault"]["here"]


def test_rules_of_one_backend() -> None:
    listed = superlower("doctor", "--rules", "-b", "openvino", "--json").json
    assert {name for rule in listed for name in rule["backends"]} == {"openvino"}
    people = superlower("doctor", "--rules", "-b", "openvino").stderr
    assert "openvino-bf16-default" in people
    assert "rtx-antialias" not in people


def test_without_sdks_their_rules_concern_nothing_here() -> None:
    outcome = fresh("doctor", "--rules", "--json", absent=("openvino", "tvm", "tensorrt_rtx", "tensorrt"))
    assert outcome.code == 0, outcome.stderr
    here = {rule["id"]: rule["here"] for rule in json.loads(outcome.stdout)}
    assert here["ort-bf16"]
    assert not here["openvino-bf16-default"]
    assert not here["rtx-antialias"]


def test_rules_and_probe_are_two_things() -> None:
    outcome = superlower("doctor", "--rules", "--probe")
    assert outcome.code == 2
    assert "ask for one of them" in outcome.error


def test_probing_writes_a_table_that_can_be_sent_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = cases(["Relu"])
    assert few
    monkeypatch.setattr(doctor, "cases", lambda: few[:2])
    folder = tmp_path / "probes"
    outcome = superlower("doctor", "--probe", "-b", "onnxruntime", "-o", folder, "--json")
    assert outcome.code == 0, outcome.stderr
    table = tables.read(folder / "onnxruntime-cpu.json")
    assert [result.case for result in table.results] == [case.name for case in few[:2]]
    assert table.machine
    assert table.sdk == {"onnxruntime": importlib.metadata.version("onnxruntime")}


def test_probing_what_is_not_here_is_exit_6(tmp_path: Path) -> None:
    command = ("doctor", "--probe", "-b", "openvino", "-o", tmp_path / "probes")
    outcome = fresh(*command, absent=("openvino",))
    assert outcome.code == 6
    assert "nothing could be probed: openvino isn't installed" in outcome.verdict
