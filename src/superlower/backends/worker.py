"""The child side of `build_in_subprocess`: `-m superlower.backends.worker MODULE:FUNCTION REQUEST RESULT`."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import msgspec

from superlower.errors import SuperlowerError


def main(function: str, request_file: str, result_file: str) -> int:
    """Run the function and leave its result, or its error by type and message, as JSON."""
    module, _, name = function.partition(":")
    request = msgspec.json.decode(Path(request_file).read_bytes())
    try:
        result = getattr(importlib.import_module(module), name)(request, Path(request_file).parent)
    except SuperlowerError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        result = {"error": "BuildFailedError", "message": f"{type(error).__name__}: {reason}"}
    sys.stdout.flush()
    sys.stderr.flush()
    Path(result_file).write_bytes(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
