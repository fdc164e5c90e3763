"""What a process takes that has loaded superlower and a backend's runtime: measured on this machine, once.

It isn't the same on all: what of a library is resident depends on the kernel, and on the code that the
processor has it run.
"""

from __future__ import annotations

import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

import superlower
from superlower.backends.base import Artifact, BuildOptions
from superlower.backends.process import build_in_subprocess
from superlower.backends.registry import backend as backend_of
from superlower.driver.engine_cache import own_code
from superlower.driver.small_graphs import CHANNELS, SmallGraph
from superlower.errors import SuperlowerError
from superlower.folders import cache_folder, replacing_file
from superlower.targets.catalog import target
from superlower.targets.detect import cpu_flags

SIDE = 8
TIMEOUT_S = 120.0


@cache
def process_bytes(name: str) -> int | None:
    """The peak of a process that calls an engine of one convolution on the CPU; None if it can't be told.

    It is measured once for a version of everything and a machine, and kept in superlower's cache folder.
    """
    backend = backend_of(name)
    if backend.missing() is not None:
        return None
    facts = {
        "superlower": f"{superlower.__version__} {own_code()}",
        "python": sys.version,
        "kernel": platform.release(),
        "processor": " ".join(sorted(cpu_flags())),
        "backend": name,
        **backend.versions(),
    }
    key = sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:16]
    kept = cache_folder() / "process" / f"{key}.json"
    try:
        return msgspec.json.decode(kept.read_bytes(), type=int)
    except (OSError, msgspec.DecodeError):
        pass
    try:
        found = _measured(name)
    except SuperlowerError:
        return None
    if found is not None:
        _keep(kept, found)
    return found


def _measured(name: str) -> int | None:
    backend, graph = backend_of(name), SmallGraph(SIDE, SIDE)
    with tempfile.TemporaryDirectory(prefix="superlower-process-") as place:
        folder = Path(place)
        options = BuildOptions(threads=1, timeout_s=TIMEOUT_S)
        convolved = graph.add("Conv", graph.x, graph.weight(CHANNELS, CHANNELS, 3, 3), pads=[1, 1, 1, 1])
        artifact = backend.compile(graph.model(convolved), target("cpu"), options, folder)
        request = {"backend": name, "artifact": msgspec.to_builtins(artifact)}
        found = build_in_subprocess(f"{__name__}:run", request, folder, backend=name, timeout_s=TIMEOUT_S)
    return msgspec.convert(found["bytes"], int | None)


def run(fields: Mapping[str, object], folder: Path) -> dict[str, object]:
    """The child's side."""
    # The process is to be that of the command line, which has all verbs.
    import superlower.driver.compile
    import superlower.driver.upscale  # noqa: F401

    artifact = msgspec.convert(fields["artifact"], Artifact)
    session = backend_of(str(fields["backend"])).load(artifact, folder)
    try:
        session.run({"x": np.zeros((1, CHANNELS, SIDE, SIDE), np.float32)})
    finally:
        session.close()
    return {"bytes": peak_bytes()}


def peak_bytes() -> int | None:
    """The most that this process has had resident; None where the system doesn't tell."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def _keep(path: Path, found: int) -> None:
    """For the next time; a cache that can't be written costs a measurement then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as aside:
            aside.write_bytes(msgspec.json.encode(found))
    except OSError:
        pass
