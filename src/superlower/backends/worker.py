"""The child side of `build_in_subprocess`: `-m superlower.backends.worker FUNCTION REQUEST RESULT PARENT`."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

import msgspec

from superlower.errors import SuperlowerError

_PR_SET_PDEATHSIG = 1


def main(function: str, request_file: str, result_file: str, parent: str) -> int:
    """Run the function and leave its result, or its error by type and message, as JSON."""
    die_with(int(parent))
    result = call(function, Path(request_file).read_bytes(), Path(request_file).parent)
    sys.stdout.flush()
    sys.stderr.flush()
    aside = Path(f"{result_file}.part")
    aside.write_bytes(result)
    aside.replace(result_file)
    return 0


def call(function: str, request: bytes, workdir: Path) -> bytes:
    """Call "module:function" with a JSON request; its result, or its error by type and message, as JSON."""
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(msgspec.json.decode(request), workdir)
    except SuperlowerError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        result = {"error": "BuildFailedError", "message": f"{type(error).__name__}: {reason}"}
    return msgspec.json.encode(result)


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when its parent is gone: a killed parent can't do it itself."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
