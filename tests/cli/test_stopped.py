"""Runs cut short, by the user or by the disk: the exit code, one line, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from superlower.cli import lists, upscale
from support.clips import save_folder, save_video
from support.command import Outcome, fresh, superlower
from support.models import recurrent, save_program

CPU = ("-t", "cpu", "-b", "onnxruntime", "--threads", 1)
# As a shell's foreground job has it: where the tests run in the background, Ctrl-C may be ignored.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from superlower.cli.main import main
main()
"""
COMMAND = (sys.executable, "-c", SCRIPT, "--no-progress")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def interrupted(
    arguments: tuple[object, ...], begun: Callable[[], bool], number: signal.Signals = signal.SIGINT
) -> Outcome:
    """Press Ctrl-C, or send another signal, once `begun` says that the work is under way."""
    child = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not begun():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    return Outcome(child.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More frames than can be upscaled before the test stops it."""
    return save_video(tmp_path_factory.mktemp("endless") / "in.mp4", 12000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("output", ["out.mp4", "out"])
def test_stopped_in_mid_video(
    output: str, number: signal.Signals, upscaler_bundle: Path, endless: Path, tmp_path: Path
) -> None:
    def begun() -> bool:
        """More is there than a file's header: the first frames are through."""
        return any(path.is_file() and path.stat().st_size > 100 for path in tmp_path.rglob("*"))

    arguments = ("upscale", upscaler_bundle, "-i", endless, "-o", tmp_path / output)
    outcome = interrupted(arguments, begun, number)
    assert outcome.code == 130
    assert outcome.error == "stopped"
    assert names(tmp_path) == []


def test_ctrl_c_in_mid_build(tmp_path: Path) -> None:
    """The child that builds is gone too."""
    program = save_program(recurrent(), tmp_path / "program")
    arguments = ("compile", program, "-o", tmp_path / "bundle", *CPU)
    outcome = interrupted(arguments, lambda: any(name.startswith(".bundle") for name in names(tmp_path)))
    assert outcome.code == 130
    assert outcome.error == "stopped"
    assert names(tmp_path) == ["program"]


def test_ctrl_c_in_this_process(
    upscaler_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_folder(tmp_path / "in", 4)

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(upscale.Bars, "advance", press)
    outcome = superlower("upscale", upscaler_bundle, "-i", source, "-o", tmp_path / "out")
    assert (outcome.code, outcome.error) == (130, "stopped")
    assert names(tmp_path) == ["in"]


def test_an_interrupt_that_became_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Ctrl-C hits a native module that is being imported."""

    def fail() -> None:
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, "the signal would end the tests"
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(lists, "all_targets", fail)
    before = signal.getsignal(signal.SIGTERM)
    outcome = superlower("targets")
    assert (outcome.code, outcome.error) == (130, "stopped")
    assert signal.getsignal(signal.SIGTERM) == before


def test_ignored_signals_stay_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(lists, "all_targets", lambda: signal.raise_signal(signal.SIGHUP) or [])
    try:
        outcome = superlower("targets")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outcome.code == 0, outcome.stderr


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
"""No file may grow beyond this many bytes, as on a full disk."""


@pytest.mark.parametrize("output", ["out.mp4", "out"])
def test_a_full_disk_while_upscaling(output: str, upscaler_bundle: Path, tmp_path: Path) -> None:
    source = save_video(tmp_path / "in.mp4", 60)
    arguments = ("upscale", upscaler_bundle, "-i", source, "-o", tmp_path / output)
    outcome = fresh(*arguments, before=FULL.format(1000))
    assert outcome.code == 2
    assert outcome.error.startswith(f"disk full while writing {tmp_path / output}: ")
    assert names(tmp_path) == ["in.mp4"]


def test_a_full_disk_while_compiling(tmp_path: Path) -> None:
    program = save_program(recurrent(), tmp_path / "program")
    outcome = fresh("compile", program, "-o", tmp_path / "bundle", *CPU, before=FULL.format(20_000))
    assert outcome.code == 2
    assert outcome.error.startswith(f"disk full while writing {tmp_path / 'bundle'}: ")
    assert names(tmp_path) == ["program"]


def test_a_full_disk_anywhere_else(tmp_path: Path) -> None:
    """Such an error of the system's names no file."""
    code = "from superlower.cli import lists; lists.all_targets = lambda: open('f', 'w', 1).write('xx\\n')"
    outcome = fresh("targets", before=f"{FULL.format(1)}; {code}", cwd=tmp_path)
    wanted = "File too large: the disk is full, free some space or choose another output"
    assert (outcome.code, outcome.error) == (2, wanted)


def test_a_place_that_cant_be_written_to(lone: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = superlower("compile", lone, "-o", tmp_path / "file" / "bundle", *CPU, "--frames", 2)
    assert outcome.code == 2
    assert outcome.error.startswith(f"can't write {tmp_path / 'file' / 'bundle'}")


def test_a_reader_that_has_seen_enough() -> None:
    """`superlower targets --json | head -1`: no traceback."""
    read, write = os.pipe()
    os.close(read)
    child = subprocess.run(
        [*COMMAND, "targets", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (child.returncode, child.stderr) == (0, "")


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system refuses is told with its file, and is no bug of ours."""

    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/etc/secrets.toml")

    monkeypatch.setattr(lists, "all_targets", refuse)
    outcome = superlower("targets")
    assert (outcome.code, outcome.error) == (2, "Permission denied: /etc/secrets.toml")
