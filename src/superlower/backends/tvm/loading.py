"""TVM's import, which is to leave PyTorch where it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


def load_tvm() -> Any:
    """TVM. Whatever of it imports PyTorch as it is loaded (tvm_ffi does, first of all) goes without.

    It takes PyTorch for the sake of tensors exchanged with it, which nothing here does: half of the time that
    a build's process needs to start, and of its memory.
    """
    with _without_torch():
        import tvm

    return tvm


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    if "torch" in sys.modules:  # It is here already, or is hidden by another thread's call of this.
        yield
        return
    # None: import says that there is no such module.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
