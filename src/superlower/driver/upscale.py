"""Video through a bundle's engines, at bounded memory, without a wrong frame."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.driver.progress import Progress, Silent
from superlower.errors import BadInputError
from superlower.media.base import Clip, ClipFrame
from superlower.media.clip import check_sink, open_clip, open_sink
from superlower.media.tensors import from_tensor, to_tensor
from superlower.program import analysis
from superlower.program.model import Program
from superlower.runtime.load import open_runner

LOOK_AHEAD = 15
"""Frames a backward sweep starts beyond its chunk, where memory asks for chunks (docs/video.md)."""


@dataclass(frozen=True)
class Chunking:
    """How a clip is cut. `chunk` None: not at all. `predicted_bytes`: peak of the stream tensors."""

    chunk: int | None
    look_ahead: int | None
    predicted_bytes: int


@dataclass(frozen=True)
class Upscaled:
    """What came of it.

    Attributes:
        frames: written.
        seconds: from the first frame read to the last one written.
        chunking: how the clip was cut.
        peak_bytes: of the stream tensors, as measured.
        ran: equation with a route -> share of the patches that its graphs ran for.
    """

    frames: int
    seconds: float
    chunking: Chunking
    peak_bytes: int
    ran: Mapping[str, float] = field(default_factory=dict)


def plan_chunks(
    program: Program,
    frames: int | None,
    max_bytes: int,
    *,
    chunk: int | None = None,
    look_ahead: int | None = None,
    in_flight: int = 1,
) -> Chunking:
    """Whole clips where that fits; else the longest chunks that do.

    A program of bounded latency streams at constant memory, exactly, in chunks that keep `in_flight` calls
    busy: a chunk ends only when its calls have. One that sweeps backward needs the whole
    clip to be exact; in chunks, its backward states start `look_ahead` frames beyond each.

    Args:
        frames: in the clip, if known.
        max_bytes: for the stream tensors.
        chunk, look_ahead: the user's own.
        in_flight: calls that may run at the same time.

    Raises:
        BadInputError: not even a chunk of one frame, or not the user's own, fits.
    """
    height, width = program.frame.height, program.frame.width

    def peak(count: int) -> int:
        return analysis.peak_bytes(program, count, height, width, in_flight)

    latency = analysis.latency(program)
    if latency is not None:
        size = chunk or in_flight
        cut = Chunking(size, latency, peak(2 * latency + size + 2))
    else:
        if chunk is None and frames is not None and (whole := peak(frames)) <= max_bytes:
            return Chunking(None, None, whole)
        ahead = LOOK_AHEAD if look_ahead is None else look_ahead
        size = chunk or 1
        if chunk is None:
            one, two = peak(1 + ahead), peak(2 + ahead)
            size += max(max_bytes - one, 0) // max(two - one, 1)
        cut = Chunking(size, ahead, peak(size + ahead))
    if cut.predicted_bytes > max_bytes:
        frames_held = f"a chunk of {size} frames" if size > 1 else "a chunk of one frame"
        raise BadInputError(
            f"{frames_held} and {cut.look_ahead} of look-ahead takes {cut.predicted_bytes / 1e9:.3g} GB of "
            f"streams at {height}x{width}, over --max-memory: allow more, or smaller --chunk, --look-ahead "
            f"or --in-flight"
        )
    return cut


def upscale(
    bundle: Bundle,
    variant: Variant,
    source: Path,
    output: Path,
    *,
    max_bytes: int = 4 * 10**9,
    chunk: int | None = None,
    look_ahead: int | None = None,
    limit: int | None = None,
    in_flight: int = 1,
    codec: str = "libx264",
    crf: int = 16,
    pixel_format: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    allow_damaged: bool = False,
    progress: Progress | None = None,
) -> Upscaled:
    """Upscale a video file or a folder of PNG files.

    Args:
        bundle, variant: found whole, and fit for this machine.
        source, output: file or folder; the output appears only once complete.
        max_bytes: for the stream tensors, engines aside.
        chunk, look_ahead: instead of those `plan_chunks` chooses.
        limit: stop after this many frames; sound and subtitles of a video end there too.
        in_flight: calls that may run at the same time.
        codec, crf, pixel_format, codec_options, overwrite: as for `media.clip.open_sink`.
        allow_damaged: go on past damage in the source.

    Raises:
        BadInputError: a frame size that isn't the bundle's, no frames, an unreadable source, a full disk.
    """
    progress = progress or Silent()
    frame = bundle.program.frame
    height, width = frame.scale * frame.height, frame.scale * frame.width
    with open_clip(source, allow_damaged=allow_damaged) as clip:
        cut = _cut(bundle.program, clip, max_bytes, chunk, look_ahead, limit, in_flight)
        progress.stage(f"upscaling {source.name}", _count(clip, limit))
        started = time.monotonic()
        written = 0
        with (
            open_sink(
                output,
                clip,
                height,
                width,
                codec=codec,
                crf=crf,
                pixel_format=pixel_format,
                options=codec_options,
                overwrite=overwrite,
                cut=limit is not None,
            ) as sink,
            open_runner(bundle, variant, in_flight=in_flight) as runner,
        ):
            waiting: deque[ClipFrame] = deque()
            inputs = _inputs(clip, limit, bundle.program, waiting)
            for result in runner.run(inputs, chunk=cut.chunk, look_ahead=cut.look_ahead):
                picture = waiting.popleft()
                depth = np.uint16 if sink.bits == 16 and picture.rgb.dtype == np.uint16 else np.uint8
                pixels = from_tensor(np.asarray(result, np.float32), frame, picture.rgb, depth)
                sink.write(pixels, picture)
                written += 1
                progress.advance()
            peak, chosen = runner.peak_bytes, runner.chosen
    shares = {name: float(patches[1:].sum() / max(1, patches.sum())) for name, patches in chosen.items()}
    return Upscaled(written, time.monotonic() - started, cut, peak, shares)


def plan(
    bundle: Bundle,
    source: Path,
    output: Path,
    *,
    max_bytes: int = 4 * 10**9,
    chunk: int | None = None,
    look_ahead: int | None = None,
    limit: int | None = None,
    in_flight: int = 1,
    codec: str = "libx264",
    crf: int = 16,
    pixel_format: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    allow_damaged: bool = False,
) -> Chunking:
    """How `upscale` would cut the clip; refuses what it would refuse before the first frame, engines aside.

    Args: as of `upscale`.

    Raises:
        BadInputError: as `upscale`.
    """
    frame = bundle.program.frame
    with open_clip(source, allow_damaged=allow_damaged) as clip:
        cut = _cut(bundle.program, clip, max_bytes, chunk, look_ahead, limit, in_flight)
        check_sink(
            output,
            clip,
            frame.scale * frame.height,
            frame.scale * frame.width,
            codec=codec,
            crf=crf,
            pixel_format=pixel_format,
            options=codec_options,
            overwrite=overwrite,
        )
    return cut


def _cut(
    program: Program,
    clip: Clip,
    max_bytes: int,
    chunk: int | None,
    look_ahead: int | None,
    limit: int | None,
    in_flight: int,
) -> Chunking:
    frame = program.frame
    if (clip.height, clip.width) != (frame.height, frame.width):
        raise BadInputError(
            f"{clip.path} is {clip.height}x{clip.width} (HxW), the bundle upscales "
            f"{frame.height}x{frame.width}: export and compile with --size {clip.height}x{clip.width}"
        )
    count = _count(clip, limit)
    return plan_chunks(program, count, max_bytes, chunk=chunk, look_ahead=look_ahead, in_flight=in_flight)


def _count(clip: Clip, limit: int | None) -> int | None:
    return clip.frames if limit is None or clip.frames is None else min(limit, clip.frames)


def _inputs(
    clip: Clip, limit: int | None, program: Program, waiting: deque[ClipFrame]
) -> Iterator[NDArray[np.float32]]:
    for picture in islice(clip, limit):
        waiting.append(picture)
        yield to_tensor(picture.rgb, program.frame)
