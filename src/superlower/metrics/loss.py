"""What a change to a model costs on a clip, in dB of luma PSNR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from superlower.errors import OutputsDifferError
from superlower.metrics.psnr import LUMA, Image, Plane, luma, psnr
from superlower.program.model import Frame

Outputs = Sequence[npt.NDArray[np.generic]]

ASSUMED_DB = 36.0
"""Score against the ground truth that a model is taken to have where there is none: the best that networks of
the zoo reach on Vid4 (SOF-VSR x2 on city, 35.83 dB), since the higher the score the more a change costs."""

IDENTICAL_DB = 100.0
"""Stands for the infinite PSNR of identical frames: of 8-bit frames that differ none comes near."""


@dataclass(frozen=True)
class QualityLoss:
    """A clip's loss of quality.

    Attributes:
        db: luma PSNR before minus after in dB, mean over the frames; negative where quality was gained.
        worst_db: of the frame that loses most.
        last_db: mean over the last third of the frames, where recurrent errors have grown.
        psnr_db: luma PSNR of after against before, mean over the frames, identical ones counted as 100 dB.
        before_db, after_db: mean luma PSNR against the ground truth; None where there is none, and then `db`
            is what the change costs a model that scores `ASSUMED_DB`.
    """

    db: float
    worst_db: float
    last_db: float
    psnr_db: float
    before_db: float | None = None
    after_db: float | None = None


class Judge:
    """Holds runs of a clip to one before a change: what that one scores is taken once.

    With the ground truth, each frame's loss is the difference of its scores: of 8-bit frames, as papers have
    them. Without, the model is taken to score s = `ASSUMED_DB`, with errors that have nothing to do with what
    the change does; their squares then add up, and a change of p dB costs 10 log10(1 + 10^((s - p) / 10)).
    """

    def __init__(self, before: Outputs, frame: Frame, truth: Sequence[Image] = ()) -> None:
        """Args:
        before: elements of the output stream, each [1, C, scale * padded H, scale * padded W].
        frame: the contract.
        truth: uint8 [scale * H, scale * W, 3], one a frame, or none.
        """
        self._frame = frame
        self._before = [_luma(output, frame) for output in before]
        self._truth = [luma(picture, rounded=frame.color == "y") for picture in truth]
        self._old = self._scores(before)

    def losses(self, after: Outputs) -> tuple[QualityLoss, tuple[float, ...]]:
        """What a run of the changed model costs: over the clip, and at each frame in dB.

        Raises:
            OutputsDifferError: an output isn't finite.
        """
        for t, output in enumerate(after):
            if not np.isfinite(np.asarray(output, np.float64)).all():
                raise OutputsDifferError(f"frame {t} holds NaN or infinity")
        moved = [_psnr(_luma(a, self._frame), b) for a, b in zip(after, self._before, strict=True)]
        if not self._truth:
            losses = [float(10 * np.log10(1 + 10 ** ((ASSUMED_DB - p) / 10))) for p in moved]
            losses = [0.0 if p == IDENTICAL_DB else loss for p, loss in zip(moved, losses, strict=True)]
            return QualityLoss(fmean(losses), max(losses), _late(losses), fmean(moved)), tuple(losses)
        old, new = self._old, self._scores(after)
        losses = [a - b for a, b in zip(old, new, strict=True)]
        loss = QualityLoss(fmean(losses), max(losses), _late(losses), fmean(moved), fmean(old), fmean(new))
        return loss, tuple(losses)

    def _scores(self, outputs: Outputs) -> list[float]:
        if not self._truth:
            return []
        pairs = zip(outputs, self._truth, strict=True)
        return [_psnr(_luma(output, self._frame, rounded=True), plane) for output, plane in pairs]


def quality_loss(before: Outputs, after: Outputs, frame: Frame, truth: Sequence[Image] = ()) -> QualityLoss:
    """Compare two runs of a clip, as `Judge` does.

    Args:
        before, after: elements of the output stream, each [1, C, scale * padded H, scale * padded W].
        frame: the contract.
        truth: uint8 [scale * H, scale * W, 3], one a frame, or none.

    Raises:
        OutputsDifferError: an output isn't finite.
    """
    return Judge(before, frame, truth).losses(after)[0]


def _late(losses: Sequence[float]) -> float:
    return fmean(losses[-max(1, len(losses) // 3) :])


def _psnr(image: Plane, reference: Plane) -> float:
    return min(psnr(image, reference), IDENTICAL_DB)


def _luma(output: npt.NDArray[np.generic], frame: Frame, *, rounded: bool = False) -> Plane:
    """Luma in 0..255 of one element of the output stream: cropped, clamped, at need rounded to 8 bits."""
    black, white = frame.range
    pixels = np.asarray(output, np.float64)[0, :, : frame.scale * frame.height, : frame.scale * frame.width]
    levels = np.clip((pixels - black) / (white - black), 0, 1) * 255
    if rounded:
        levels = np.rint(levels)
    plane: Plane = levels[0] if frame.color == "y" else np.tensordot(LUMA, levels / 255, axes=1) + 16
    return plane
