"""Builds in a subprocess: whatever an SDK does there, the caller gets a result or one clear error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from superlower.backends.process import LOG, build_in_subprocess, building_here, log_folder
from superlower.errors import BuildFailedError, MissingSdkError

HERE = Path(__file__).parent
CHILD_ENV = {"PYTHONPATH": str(HERE)}
pytestmark = pytest.mark.usefixtures("private_cache")


def build(function: str, workdir: Path, timeout_s: float = 60.0, **request: object) -> dict[str, object]:
    return build_in_subprocess(
        f"child_functions:{function}", request, workdir, backend="demo", timeout_s=timeout_s, env=CHILD_ENV
    )


def wait_until(happened: object, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether no process of that id runs; a zombie, killed but not yet reaped, runs no more."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def pids_in(workdir: Path) -> list[int]:
    return [int(pid) for pid in (workdir / "pids").read_text().split()]


def test_result_comes_back_from_a_child_in_the_folder(tmp_path: Path) -> None:
    result = build("double", tmp_path, numbers=[1, 2.5])
    assert result == {"doubled": [2, 5.0], "cwd": str(tmp_path), "workdir": str(tmp_path)}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [LOG]


def test_all_output_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build("chatter", tmp_path)
    log = (tmp_path / LOG).read_text()
    for speaker in ("python", "python's stderr", "a file descriptor", "native code", "a compiler"):
        assert f"from {speaker}\n" in log
    assert capfd.readouterr() == ("", "")


def test_environment_is_added_to(tmp_path: Path) -> None:
    result = build_in_subprocess(
        "child_functions:environment",
        {"name": "DEMO_SETTING"},
        tmp_path,
        backend="demo",
        timeout_s=60,
        env={**CHILD_ENV, "DEMO_SETTING": "on"},
    )
    assert result == {"value": "on"}


def test_a_module_lying_in_the_folder_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('imported from the working folder')")
    assert build("double", tmp_path, numbers=[1])["doubled"] == [2]


@pytest.mark.parametrize(
    ("function", "how"),
    [("abort", "signal SIGABRT"), ("segfault", "signal SIGSEGV"), ("leave", "exit code 7")],
)
def test_crash_is_one_error_that_keeps_the_log(function: str, how: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError, match=f"demo build crashed .{how}.*log: ") as caught:
        build(function, tmp_path)
    kept = Path(str(caught.value).rpartition("log: ")[2])
    assert kept.parent == log_folder()
    assert kept.read_bytes() == (tmp_path / LOG).read_bytes()
    assert "\n" not in str(caught.value)


def test_last_words_of_a_crash_are_told(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError, match="about to abort"):
        build("abort", tmp_path)


def test_a_stale_result_does_not_hide_a_crash(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"doubled": 4}')
    with pytest.raises(BuildFailedError, match="crashed"):
        build("abort", tmp_path)


def test_an_unwritable_log_folder_does_not_hide_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BuildFailedError, match=f"SIGABRT.*log: {tmp_path / LOG}"):
        build("abort", tmp_path)


def test_logs_of_failures_in_one_second_do_not_meet(tmp_path: Path) -> None:
    logs = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with pytest.raises(BuildFailedError) as caught:
            build("leave", tmp_path / name)
        logs.add(str(caught.value).rpartition("log: ")[2])
    assert len(logs) == 2


def test_expected_errors_keep_type_and_message(tmp_path: Path) -> None:
    with pytest.raises(MissingSdkError, match=r"^frobnicator isn't installed: pip install frobnicator$"):
        build("refuse", tmp_path)


@pytest.mark.parametrize(
    ("function", "message"),
    [("divide", "ZeroDivisionError: division by zero; log: "), ("refuse_as_plugin", "not today; log: ")],
)
def test_other_errors_are_failed_builds(function: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError, match=message):
        build(function, tmp_path, by=0)


def test_traceback_is_in_the_log_only(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError) as caught:
        build("divide", tmp_path, by=0)
    assert "Traceback" in (tmp_path / LOG).read_text()
    assert "Traceback" not in str(caught.value)


def test_time_limit_kills_the_child_and_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError, match="time limit of 5 s: raise --timeout"):
        build("hang", tmp_path, timeout_s=5)
    for pid in pids_in(tmp_path):
        wait_until(lambda pid=pid: gone(pid), f"the end of process {pid}")


def hanging_parent(workdir: Path, before: str = "") -> subprocess.Popen[str]:
    script = (
        f"import sys, pathlib\n{before}\n"
        "from superlower.backends.process import build_in_subprocess as build\n"
        "build('child_functions:hang', {}, pathlib.Path(sys.argv[1]), backend='demo', timeout_s=300)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(workdir)],
        env={**os.environ, **CHILD_ENV},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((workdir / "pids").is_file, "the child's start", 60)
    return parent


def test_ctrl_c_kills_the_child_and_what_it_started(tmp_path: Path) -> None:
    parent = hanging_parent(tmp_path)
    parent.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    for pid in pids_in(tmp_path):
        wait_until(lambda pid=pid: gone(pid), f"the end of process {pid}")


SLOW_TO_START = """
import subprocess, time
class SlowPopen(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        while not pathlib.Path(sys.argv[1], "interrupted").is_file():
            time.sleep(0.01)
subprocess.Popen = SlowPopen
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_child_is_being_started_leaves_no_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    handler = "import signal\nsignal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    parent = hanging_parent(tmp_path, handler + SLOW_TO_START)
    parent.send_signal(number)
    (tmp_path / "interrupted").touch()
    assert "KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    for pid in pids_in(tmp_path):
        wait_until(lambda pid=pid: gone(pid), f"the end of process {pid}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    parent = hanging_parent(tmp_path)
    parent.kill()
    parent.communicate(timeout=30)
    child, grandchild = pids_in(tmp_path)
    wait_until(lambda: gone(child), "the child's end")
    os.kill(grandchild, signal.SIGKILL)  # Nothing but the test knows it any more.


def test_a_child_may_build_in_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    with building_here():
        assert build("double", tmp_path, numbers=[1, 2.5])["cwd"] == os.getcwd()
        with pytest.raises(MissingSdkError, match=r"^frobnicator isn't installed"):
            build("refuse", tmp_path)
        with pytest.raises(BuildFailedError, match=r"^ZeroDivisionError: division by zero$"):
            build("divide", tmp_path, by=0)
    assert build("double", tmp_path, numbers=[])["cwd"] == str(tmp_path)
