"""Processes of a matrix, and what may be left as it is."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from superlower.bundle.bundle import Bundle
from superlower.driver import matrix
from superlower.driver.matrix import Cell, Outcome, Report, Row, key_of, names, run_all, standing
from superlower.errors import BadInputError
from superlower.targets.catalog import target
from support.models import save_upscaler

CPU = [target("cpu")]


def test_models_are_named_after_their_folders_and_files(tmp_path: Path) -> None:
    lone = save_upscaler(tmp_path / "lone.onnx")
    (tmp_path / "vsr.v2").mkdir()
    assert list(names([lone, tmp_path / "vsr.v2"])) == ["lone", "vsr.v2"]
    (tmp_path / "lone").mkdir()
    with pytest.raises(BadInputError, match="would both become lone"):
        names([lone, tmp_path / "lone"])


def test_a_key_depends_on_files_options_and_targets(tmp_path: Path) -> None:
    model, clip = save_upscaler(tmp_path / "a.onnx"), tmp_path / "clip"
    clip.mkdir()
    (clip / "0.png").write_bytes(b"0")
    key = key_of(model, [clip], "options", CPU, {})
    assert key == key_of(model, [clip], "options", CPU, {})
    others = [key_of(model, [clip], "other options", CPU, {}), key_of(model, [], "options", CPU, {})]
    (clip / "0.png").write_bytes(b"1")
    others.append(key_of(model, [clip], "options", CPU, {}))
    save_upscaler(model, 24)
    others.append(key_of(model, [clip], "options", CPU, {}))
    assert len({key, *others}) == 5


def test_a_key_depends_on_what_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the contents of the tuning database that is set."""
    read = {"database": "before"}
    monkeypatch.setattr(matrix, "build_inputs", lambda sdk, where, options: read if options.settings else {})
    model = save_upscaler(tmp_path / "a.onnx")
    without, key = (key_of(model, [], "", CPU, each) for each in ({}, {"onnxruntime.database": "there"}))
    read["database"] = "after"
    assert len({without, key, key_of(model, [], "", CPU, {"onnxruntime.database": "there"})}) == 3


class TestStanding:
    @pytest.fixture
    def folder(self, recurrent_bundle: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(recurrent_bundle, tmp_path / "bundle"))

    def row(self, folder: Path, **changed: object) -> Row:
        checksum = Bundle.open(folder).manifest.checksum
        return msgspec.structs.replace(
            Row(model="m", key="k", exit_code=0, checksum=checksum, built=2), **changed
        )

    def test_a_whole_bundle_of_the_same_key_stays(self, folder: Path) -> None:
        there = standing(folder, self.row(folder), "k")
        assert there is not None
        assert (there.kept, there.built) == (True, 0)

    @pytest.mark.parametrize("changed", [{"key": "other"}, {"exit_code": 4}, {"exit_code": None}])
    def test_another_key_and_a_failure_do_not(self, folder: Path, changed: dict[str, object]) -> None:
        assert standing(folder, self.row(folder, **changed), "k") is None
        assert standing(folder, None, "k") is None

    def test_nor_does_a_damaged_one_or_another(self, folder: Path) -> None:
        row = self.row(folder)
        assert standing(folder, msgspec.structs.replace(row, checksum="of another"), "k") is None
        (folder / "golden.npz").write_bytes(b"")
        assert standing(folder, row, "k") is None


class Log(list[tuple[str, int]]):
    def __call__(self, name: str, outcome: Outcome, seconds: float) -> None:
        assert seconds >= 0
        self.append((name, outcome.code))


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


class TestRunAll:
    def test_outcomes(self) -> None:
        found: dict[str, Outcome] = {}
        commands = {"a": shell("echo out; echo first >&2; echo last >&2"), "b": shell("exit 5")}
        run_all(commands, 2, keep_going=True, on_done=lambda name, outcome, _: found.update({name: outcome}))
        assert found["a"] == Outcome(code=0, document=b"out\n", message="last")
        assert found["b"].code == 5

    def test_a_failure_starts_no_further_ones(self, tmp_path: Path) -> None:
        log = Log()
        run_all({"a": shell("exit 3"), "b": shell(f"touch {tmp_path}/b")}, 1, keep_going=False, on_done=log)
        assert log == [("a", 3)]
        assert not any(tmp_path.iterdir())

    def test_and_ends_those_that_run(self, tmp_path: Path) -> None:
        log = Log()
        waits = (
            f"trap 'touch {tmp_path}/asked; exit 130' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"
        )
        fails = f"while [ ! -e {tmp_path}/up ]; do sleep 0.05; done; exit 3"
        run_all({"a": shell(waits), "b": shell(fails)}, 2, keep_going=False, on_done=log)
        assert log == [("b", 3)]
        assert (tmp_path / "asked").exists()

    def test_those_that_do_not_listen_are_killed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(matrix, "_GRACE_S", 0.2)
        deaf = f"trap '' TERM; echo $$ > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/up; exec sleep 600"
        fails = f"while [ ! -e {tmp_path}/up ]; do sleep 0.05; done; exit 3"
        run_all({"a": shell(deaf), "b": shell(fails)}, 2, keep_going=False, on_done=Log())
        pid = int((tmp_path / "up").read_text())
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
            time.sleep(0.02)
        assert not Path(f"/proc/{pid}").exists()

    def test_ctrl_c_ends_them_too(self, tmp_path: Path) -> None:
        waits = (
            f"trap 'touch {tmp_path}/asked; exit 130' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"
        )

        def press() -> None:
            while not (tmp_path / "up").exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_all({"a": shell(waits)}, 1, keep_going=True, on_done=Log())
        thread.join()
        assert (tmp_path / "asked").exists()


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    cell = Cell(variant="v", backend="b", target="t", precision="fp32", max_abs=0.5, tolerance=1.0, bytes=3)
    rows = {"m": Row(model="m", key="k", exit_code=0, cells=(cell,), checksum="c", built=1, found=2)}
    report = Report(superlower="0", machine="here", rows=rows)
    matrix.write_report(tmp_path / "out", report)
    assert matrix.read_report(tmp_path / "out") == report
    assert report.failures == {}
    (tmp_path / "out" / matrix.REPORT).write_text("{")
    assert matrix.read_report(tmp_path / "out") is None
    assert matrix.read_report(tmp_path) is None
