"""A process that loads engines, calls each twice, and tells its peak: support.peak FOLDER BACKEND."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from superlower.backends.base import Artifact
from superlower.backends.registry import backend
from superlower.driver import compile, upscale
from superlower.driver.process_size import peak_bytes

ARTIFACTS = "artifacts.json"

LOADED = compile, upscale
"""What the command line imports too."""


def main() -> None:
    """See the module; the peak is VmHWM in bytes, and beside it that of feeds and outputs."""
    folder, runtime = Path(sys.argv[1]), backend(sys.argv[2])
    artifacts = msgspec.json.decode((folder / ARTIFACTS).read_bytes(), type=dict[str, Artifact])
    sessions = {name: runtime.load(artifact, folder / name) for name, artifact in artifacts.items()}
    rng, callers = np.random.default_rng(0), 0
    for session in sessions.values():
        ports = session._inputs  # type: ignore[attr-defined]
        feeds = {name: rng.random(port.shape, np.float32) for name, port in ports.items()}
        for _ in range(2):
            made = session.run(feeds)
        nbytes = sum(a.nbytes for a in feeds.values()) + 2 * sum(a.nbytes for a in made.values())
        callers = max(callers, nbytes)
    found = peak_bytes()
    assert found is not None
    print(found, callers)


if __name__ == "__main__":
    main()
