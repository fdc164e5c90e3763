"""What test_process.py has its child processes do, imported by them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from superlower.errors import MissingSdkError, SuperlowerError

Request = dict[str, Any]


class PluginError(SuperlowerError):
    """One of a plug-in's own, which the parent can't know."""


def double(request: Request, workdir: Path) -> dict[str, object]:
    return {"doubled": [2 * n for n in request["numbers"]], "cwd": os.getcwd(), "workdir": str(workdir)}


def chatter(request: Request, workdir: Path) -> dict[str, object]:
    print("from python")
    print("from python's stderr", file=sys.stderr)
    os.write(1, b"from a file descriptor\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"from native code\n")
    subprocess.run(["echo", "from a compiler"], check=True)
    return {}


def environment(request: Request, workdir: Path) -> dict[str, object]:
    return {"value": os.environ.get(request["name"])}


def abort(request: Request, workdir: Path) -> dict[str, object]:
    print("about to abort", flush=True)
    os.abort()


def segfault(request: Request, workdir: Path) -> dict[str, object]:
    ctypes.string_at(0)
    return {}


def leave(request: Request, workdir: Path) -> dict[str, object]:
    os._exit(7)


def refuse(request: Request, workdir: Path) -> dict[str, object]:
    raise MissingSdkError("frobnicator isn't installed: pip install frobnicator")


def refuse_as_plugin(request: Request, workdir: Path) -> dict[str, object]:
    raise PluginError("not today")


def divide(request: Request, workdir: Path) -> dict[str, object]:
    return {"quotient": 1 / request["by"]}


def hang(request: Request, workdir: Path) -> dict[str, object]:
    """Hang with a hanging grandchild, both of which leave their process ids in the folder."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (workdir / "pids.part").write_text(f"{os.getpid()} {grandchild.pid}")
    (workdir / "pids.part").rename(workdir / "pids")
    time.sleep(600)
    return {}
