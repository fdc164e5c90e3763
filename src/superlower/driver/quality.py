"""Quality of a bundle's engines on real footage: degrade the ground truth, upscale it, score it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.bundle.golden import frame_errors
from superlower.bundle.manifest import Variant
from superlower.driver.progress import Progress, Silent
from superlower.errors import BadInputError, unknown_name
from superlower.frontends.base import ClipReference
from superlower.media import degrade
from superlower.media.clip import open_clip
from superlower.media.tensors import from_tensor, luma_from_tensor, to_tensor
from superlower.metrics.clip import Quality, clip_quality
from superlower.metrics.scorers import DEFAULT, scorers
from superlower.program.model import Frame
from superlower.runtime.load import open_runner

Image = NDArray[np.uint8]

DEGRADATIONS: dict[str, Callable[[Image, int], Image]] = {
    "bi": degrade.bi,
    "bd": lambda rgb, scale: degrade.bd_basicvsr(rgb),
    "bd13": lambda rgb, scale: degrade.bd_13(rgb),
    "bd9": lambda rgb, scale: degrade.bd_9(rgb),
}
"""bi: MATLAB bicubic. bd: BasicVSR's blur and phase; bd13: RSDN and SOF-VSR; bd9: TecoGAN and EGVSR."""


@dataclass(frozen=True)
class QualityRow:
    """One variant's scores over a clip.

    Attributes:
        variant: its name.
        quality: its scores, frame by frame of those scored.
        max_abs: largest |output - PyTorch's| of each frame, where PyTorch was asked for.
    """

    variant: str
    quality: Quality
    max_abs: tuple[float, ...] = ()


def read_truth(folder: Path, frame: Frame, count: int | None) -> list[Image]:
    """Ground-truth frames, cropped to the model's output size.

    Raises:
        BadInputError: too few frames, or a size that isn't the model's scale times its input.
    """
    height, width = frame.scale * frame.height, frame.scale * frame.width
    truth: list[Image] = []
    with open_clip(folder) as clip:
        if clip.height // frame.scale != frame.height or clip.width // frame.scale != frame.width:
            raise BadInputError(
                f"ground truth {folder} is {clip.height}x{clip.width}: degraded it is "
                f"{clip.height // frame.scale}x{clip.width // frame.scale}, the bundle takes "
                f"{frame.height}x{frame.width}; export the model with --size "
                f"{clip.height // frame.scale}x{clip.width // frame.scale}"
            )
        for picture in islice(clip, count):
            if picture.rgb.dtype != np.uint8:
                raise BadInputError(f"ground truth {folder} has 16 bits a colour: scores are of 8-bit frames")
            truth.append(np.ascontiguousarray(picture.rgb[:height, :width]).astype(np.uint8, copy=False))
    if count is not None and len(truth) < count:
        raise BadInputError(f"ground truth {folder} has {len(truth)} frames, {count} were asked for")
    return truth


def shrink(truth: Sequence[Image], frame: Frame, degradation: str) -> list[Image]:
    """What a model is given of its ground truth: uint8 [H, W, 3] frames.

    Args:
        truth: uint8 [scale*H, scale*W, 3] frames.
        degradation: a name in `DEGRADATIONS`.

    Raises:
        BadInputError: no such degradation, or one that is only defined for another scale.
    """
    if degradation not in DEGRADATIONS:
        raise unknown_name("degradation", degradation, DEGRADATIONS)
    if degradation != "bi" and frame.scale != 4:
        raise BadInputError(
            f"degradation {degradation} is defined for x4, the model is x{frame.scale}: use bi"
        )
    return [DEGRADATIONS[degradation](picture, frame.scale) for picture in truth]


def measure(
    bundle: Bundle,
    variants: Sequence[Variant],
    truth: Sequence[Image],
    degradation: str,
    *,
    metrics: Sequence[str] = DEFAULT,
    border: int = 0,
    ends: int = 0,
    rounded: bool = False,
    reference: ClipReference | None = None,
    chunk: int | None = None,
    look_ahead: int | None = None,
    progress: Progress | None = None,
) -> list[QualityRow]:
    """Score variants on a clip of known truth.

    Args:
        bundle: found whole.
        variants: to measure; each fit for this machine.
        truth: uint8 [scale*H, scale*W, 3] frames.
        degradation: a name in `DEGRADATIONS`.
        metrics: names, as `metrics.scorers.METRICS` has them; those on colours don't go with a luma model's
            `rounded`.
        border: output pixels left out at each edge.
        ends: frames upscaled but not scored at either end of the clip, where a window reaches beyond it.
        rounded: score luma in whole levels: of RGB pixels, and a luma model's own before it becomes RGB.
        reference: PyTorch's whole-clip run; its own row comes first, and variants are compared with it.
        chunk, look_ahead: as for `Runner.run`.

    Raises:
        BadInputError: no such degradation or metric, or one that is only defined for another scale; no frame
            to score.
        MissingSdkError: a metric's library or weights aren't here.
    """
    scorers(metrics, border=border)  # refused before anything runs
    progress = progress or Silent()
    frame = bundle.program.frame
    if ends < 0 or 2 * ends >= len(truth):
        raise BadInputError(f"with {ends} frames left out at either end, none of {len(truth)} is scored")
    scored = slice(ends, len(truth) - ends)
    low = shrink(truth, frame, degradation)
    inputs = [to_tensor(picture, frame) for picture in low]
    rows: list[QualityRow] = []
    expected: list[NDArray[np.float32]] | None = None
    if reference is not None:
        progress.stage("PyTorch eager")
        expected = reference(inputs)
        pictures = _pixels(expected[scored], frame, low[scored], rounded)
        scores = clip_quality(pictures, truth[scored], metrics=metrics, border=border, rounded=rounded)
        rows.append(QualityRow("PyTorch eager fp32", scores))
    for variant in variants:
        progress.stage(variant.name, len(inputs))
        errors: list[float] = []

        def watched(outputs: Iterator[NDArray[np.generic]], errors: list[float] = errors) -> Iterator[Image]:
            for t, output in enumerate(outputs):
                if expected is not None:
                    errors += frame_errors([output], [expected[t]], frame.range[1] - frame.range[0])[0]
                progress.advance()
                if t in range(len(truth))[scored]:
                    yield from _pixels([output], frame, low[t : t + 1], rounded)

        with open_runner(bundle, variant) as runner:
            outputs = runner.run(inputs, total=len(inputs), chunk=chunk, look_ahead=look_ahead)
            scores = clip_quality(
                watched(outputs), truth[scored], metrics=metrics, border=border, rounded=rounded
            )
        rows.append(QualityRow(variant.name, scores, tuple(errors)))
    return rows


def _pixels(
    outputs: Sequence[NDArray[np.generic]], frame: Frame, sources: Sequence[Image], rounded: bool
) -> Iterator[Image]:
    """RGB [H, W, 3]; of a luma model, where whole levels are scored, luma [H, W]."""
    for output, source in zip(outputs, sources, strict=True):
        values = np.asarray(output, np.float32)
        if rounded and frame.color == "y":
            yield luma_from_tensor(values, frame)
        else:
            yield from_tensor(values, frame, source).astype(np.uint8, copy=False)
