"""How far an engine's output may be from the reference, and why just so far."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10

from superlower.errors import BadInputError
from superlower.metrics.psnr import LUMA
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


def quantized_tolerance(budget_db: float, score_db: float, frame: Frame) -> Tolerance:
    """The tolerance of a quantized engine, whose single pixels say nothing: a PSNR.

    An error that has nothing to do with the model's own and lies p dB below the range costs a model that
    scores s dB 10 log10(1 + 10^((s - p) / 10)): p is solved for. The budget is of luma, and PSNR here of
    all channels: an error that differs from channel to channel is smaller in luma by what its weights say.

    Args:
        budget_db: luma PSNR that quantization may cost.
        score_db: of the float model on the calibration clip.
        frame: the contract.
    """
    floor = score_db - 10 * log10(10 ** (budget_db / 10) - 1)
    if frame.color == "rgb":
        floor += 10 * log10(float(((LUMA / 255) ** 2).sum()))
    low, high = frame.range
    reason = (
        f"mean PSNR of {floor:.1f} dB against the reference: an error that costs {budget_db:g} dB of a "
        f"score of {score_db:.2f} dB, the float model's on the calibration clip"
    )
    return Tolerance(high - low, reason, floor)
