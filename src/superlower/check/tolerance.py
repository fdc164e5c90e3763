"""How far an engine's output may be from the reference, and why just so far."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10

from superlower.errors import BadInputError
from superlower.program.model import Frame
from superlower.targets.base import Precision


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be off.

    Attributes:
        max_abs: largest accepted |output - reference| of any pixel in any frame, on the contract's range.
        reason: where the number comes from.
        floor_db: least accepted mean PSNR over the frames, in the place of `max_abs`; None: that decides.
    """

    max_abs: float
    reason: str
    floor_db: float | None = None


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


def quantized_tolerance(golden_db: float, frame: Frame) -> Tolerance:
    """The tolerance of a quantized engine: a PSNR, since levels differ by one where engines round otherwise.

    Whether the quantized model is good enough is a budget's business, on a clip with a ground truth. Here an
    engine is asked whether it computes that model.

    Args:
        golden_db: mean PSNR, over the golden clip against the reference, of the engines that the quantized
            model was measured on.
        frame: the contract.
    """
    floor = golden_db - 20 * log10(2)
    low, high = frame.range
    reason = (
        f"mean PSNR of {floor:.1f} dB against the reference: twice the error of the engine that the "
        f"quantized model was measured on, {golden_db:.1f} dB"
    )
    return Tolerance(high - low, reason, floor)
