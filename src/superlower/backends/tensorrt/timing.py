"""TensorRT's timing cache: what each kernel took on a GPU, kept and shared between engines.

A measured time holds for one GPU and one version of TensorRT, so there is a file for each. Builds at the same
time write to one file: each adds what it measured to what is there by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superlower.backends.tensorrt.cuda import Device
from superlower.folders import replacing_file


def timing_file(device: Device, version: str) -> Path:
    """Where a GPU's times are kept ($XDG_CACHE_HOME/superlower/tensorrt).

    Named by architecture, product and SDK version: an A30's times are not an A100's, though both are SM80.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    product = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    return folder / "superlower" / "tensorrt" / f"sm{device.sm}-{product}-{version}.timing"


class TimingCache:
    """The timing cache of one build."""

    def __init__(self, config: Any, path: Path) -> None:
        """Give the builder's configuration the times that are on disk; none if the SDK doesn't take them."""
        self._config, self._path, self._read = config, path, b""
        with contextlib.suppress(OSError):
            self._read = path.read_bytes()
        cache = config.create_timing_cache(self._read)
        # False: it was made by another version or on another device, whatever its name says.
        if not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def keep(self) -> None:
        """Add what the build measured to the file. One that can't be written is no error."""
        with contextlib.suppress(OSError), _alone(self._path):
            cache, there = self._config.get_timing_cache(), b""
            with contextlib.suppress(FileNotFoundError):
                there = self._path.read_bytes()
            if there and there != self._read:
                cache.combine(self._config.create_timing_cache(there), False)
            content = bytes(memoryview(cache.serialize()))
            if content == there:
                return
            with replacing_file(self._path) as aside:
                aside.write_bytes(content)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from the file. The lock lies beside it: the file itself is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
