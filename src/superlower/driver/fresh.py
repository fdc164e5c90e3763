"""A contender in a process of its own: how long it takes to its first frame, and how much memory in all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from superlower.backends.process import build_in_subprocess
from superlower.bundle.bundle import Bundle
from superlower.driver.entrants import Entrant, exhaust, opened
from superlower.driver.process_size import peak_bytes
from superlower.driver.speed import back_and_forth

TIMEOUT_S = 1800.0


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """What a fresh process took.

    Attributes:
        load_ms: until the engines were loaded, with the SDK itself.
        first_ms: from then until the clip's first output; of a network that needs the whole clip first, until
            it has swept over it. Compilers that wait for the first call are in it.
        peak_bytes: of the process, resident, everything in it; None where the system doesn't tell.
    """

    load_ms: float
    first_ms: float
    peak_bytes: int | None


def measure(
    entrant: Entrant, frames: int, *, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Fresh:
    """Open an entrant in a fresh process and run a clip of so many frames there once.

    Args:
        env: environment variables to add.

    Raises:
        MissingSdkError, BadInputError, BuildFailedError: as `opened`; or the process died.
    """
    request = {"entrant": msgspec.to_builtins(entrant), "frames": frames}
    with tempfile.TemporaryDirectory(prefix="superlower-fresh-") as folder:
        found = build_in_subprocess(
            f"{__name__}:run",
            request,
            Path(folder),
            backend=entrant.name,
            timeout_s=timeout_s,
            env=env,
        )
    return msgspec.convert(found, Fresh)


def run(fields: Mapping[str, object], _workdir: Path) -> dict[str, object]:
    """The child's side."""
    entrant, count = msgspec.convert(fields["entrant"], Entrant), msgspec.convert(fields["frames"], int)
    bundle = Bundle.open(Path(entrant.bundle))
    frames = back_and_forth(bundle.golden().frames, count)
    began = time.perf_counter()
    with opened(entrant, bundle) as ready:
        loaded = time.perf_counter()
        outputs = ready.upscale(frames)
        next(outputs)
        first = time.perf_counter()
        exhaust(outputs)
    return {
        "load_ms": 1000 * (loaded - began),
        "first_ms": 1000 * (first - loaded),
        "peak_bytes": peak_bytes(),
    }
