"""How far an engine's output may be from the reference, and why just so far."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from superlower.errors import BadInputError
from superlower.program.model import Frame
from superlower.targets.base import Precision


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted |output - reference| of any pixel in any frame, on the contract's value range."""

    max_abs: float
    reason: str


_STEPS: dict[Precision, tuple[float, str]] = {
    Precision.FP32: (
        0.255,
        "1e-3 of the range: a quarter of an 8-bit step, so no pixel moves but by rounding",
    ),
    Precision.FP16: (2.0, "two 8-bit steps: half precision keeps 11 bits, three more than a pixel has"),
    Precision.BF16: (16.0, "sixteen 8-bit steps: bfloat16 keeps 8 bits, as many as a pixel, before any sum"),
}


def tolerance(precision: Precision, frame: Frame, override: float | None = None) -> Tolerance:
    """The tolerance at a precision, or the user's own.

    Args:
        precision: of the engine's arithmetic.
        frame: the contract, whose range scales it.
        override: what `--atol` gave.

    Raises:
        BadInputError: no tolerance is known for the precision and none was given; or one without end.
    """
    if override is not None:
        if not isfinite(override):
            raise BadInputError(f"--atol {override}: no output would ever differ; write a number")
        return Tolerance(override, "--atol")
    if precision not in _STEPS:
        raise BadInputError(f"no tolerance is known for {precision}: give one with --atol")
    steps, reason = _STEPS[precision]
    low, high = frame.range
    return Tolerance(steps / 255 * (high - low), reason)
