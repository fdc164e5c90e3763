"""Golden clips whose ground truth is known: real footage, shrunk as the papers shrink it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from superlower.bundle.golden import GoldenClip
from superlower.check.reference import reference_outputs
from superlower.driver.export import GOLDEN_FRAMES, check_length
from superlower.driver.quality import Image, shrink
from superlower.errors import BadInputError
from superlower.media.clip import open_clip
from superlower.media.tensors import to_tensor
from superlower.program.model import Frame, TemporalModel


@dataclass(frozen=True, eq=False)
class Footage:
    """A clip at the output's size, and what the model is given of it.

    Attributes:
        truth: uint8 [scale * H, scale * W, 3] a frame.
        frames: input stream elements, float32 [1, C, padded H, padded W].
        source: where they come from.
    """

    truth: tuple[Image, ...]
    frames: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]
    source: str


def read_footage(path: Path, frame: Frame, count: int | None, degradation: str = "bi") -> Footage:
    """The middle of a clip's first frames as ground truth, and degraded as the model's input.

    Args:
        path: video or folder of PNG frames, at least scale times the model's frame.
        frame: the contract.
        count: how many frames; None for all.
        degradation: a name in `superlower.driver.quality.DEGRADATIONS`.

    Raises:
        BadInputError: a clip too small, too short or of 16 bits a colour; no such degradation.
    """
    height, width = frame.scale * frame.height, frame.scale * frame.width
    truth: list[Image] = []
    with open_clip(path) as clip:
        top, left = (clip.height - height) // 2, (clip.width - width) // 2
        if top < 0 or left < 0:
            raise BadInputError(
                f"ground truth {path} is {clip.height}x{clip.width}, smaller than the model's output, "
                f"{height}x{width}: choose a larger clip, or export the model at a smaller --size"
            )
        for picture in clip:
            if picture.rgb.dtype != np.uint8:
                raise BadInputError(f"ground truth {path} has 16 bits a colour: scores are of 8-bit frames")
            truth.append(picture.rgb[top : top + height, left : left + width].astype(np.uint8))
            if len(truth) == count:
                break
    if count is not None and len(truth) < count:
        raise BadInputError(f"ground truth {path} has {len(truth)} frames, {count} are needed")
    frames = tuple(to_tensor(small, frame) for small in shrink(truth, frame, degradation))
    cut = ", centre crop" if top or left else ""
    return Footage(
        tuple(truth), frames, f"{path.name}, first {len(truth)} frames{cut}, degraded by {degradation}"
    )


def golden_of(model: TemporalModel, footage: Footage) -> GoldenClip:
    """A golden clip of footage, its outputs by ONNX Runtime on the graphs as given."""
    outputs = reference_outputs(model, footage.frames)
    return GoldenClip(
        footage.frames,
        tuple(np.asarray(o, np.float32) for o in outputs),
        footage.source,
        "ONNX Runtime on the graphs as given",
    )


def golden_with_truth(
    model: TemporalModel, path: Path, count: int | None = None, degradation: str = "bi"
) -> tuple[GoldenClip, tuple[Image, ...]]:
    """A golden clip made from its ground truth, and that.

    Args:
        path, degradation: as for `read_footage`.
        count: frames; `GOLDEN_FRAMES` if None.

    Raises:
        BadInputError: as for `read_footage`; too few frames for a model with hidden states.
    """
    count = GOLDEN_FRAMES if count is None else count
    check_length(model.program, count)
    footage = read_footage(path, model.program.frame, count, degradation)
    return golden_of(model, footage), footage.truth
