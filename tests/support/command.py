"""The command line as a test sees it: in this process where that will do, else in a fresh one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from superlower.cli import main as command
from superlower.cli.common import State


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was written."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The error, which is all that was said."""
        assert len(self.stderr.splitlines()) == 1, self.stderr
        return self.verdict

    @property
    def verdict(self) -> str:
        """The one line of the error, which ends a report for people."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("superlower: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        assert self.stderr.splitlines()[-1] == lines[0], "something came after the error"
        return lines[0].removeprefix("superlower: ")


class _Stream(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", newline="\n", write_through=True)

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


def superlower(*arguments: object) -> Outcome:
    """Run `main` in this process, with its progress off."""
    out, err = _Stream(), _Stream()
    argv = ["superlower", "--no-progress", *map(str, arguments)]
    code: object = 0
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
        mock.patch.object(State, "progress", True),
    ):
        try:
            command.main()
        except SystemExit as stopped:
            code = stopped.code
    return Outcome(int(str(code or 0)), out.text(), err.text())


def fresh(
    *arguments: object, absent: tuple[str, ...] = (), before: str = "", cwd: Path | None = None
) -> Outcome:
    """Run the command in a fresh Python in which these modules can't be imported.

    Args:
        before: further code to run first.
    """
    # None in sys.modules: neither `import` nor `importlib.util.find_spec` finds it.
    hide = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))"
    script = f"{hide}\n{before}\nfrom superlower.cli.main import main\nmain()"
    run = subprocess.run(
        [sys.executable, "-c", script, "--no-progress", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
    )
    return Outcome(run.returncode, run.stdout, run.stderr)
