"""Video through a bundle's engines, at bounded memory, without a wrong frame."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.driver.chunking import Chunking, plan_chunks
from superlower.driver.overlap import Behind, ahead
from superlower.driver.process import predictable, within
from superlower.driver.progress import Progress, Silent
from superlower.driver.tiling import Depth, Laid, lay_tiles
from superlower.errors import BadInputError
from superlower.media.base import Clip, ClipFrame, Image
from superlower.media.clip import check_sink, open_clip, open_sink
from superlower.media.tensors import from_tensor, to_tensor
from superlower.media.video_reader import VideoReader
from superlower.runtime.load import open_planned, open_runners
from superlower.runtime.runner import Runner
from superlower.runtime.tiled import TiledRunner


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
    in_flight: int | None = None,
    planned: bool = True,
    codec: str = "libx264",
    crf: int = 16,
    pixel_format: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    allow_damaged: bool = False,
    tile_overlap: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Upscaled:
    """Upscale a video file or a folder of PNG files.

    Args:
        bundle, variant: found whole, and fit for this machine.
        source, output: file or folder; the output appears only once complete.
        max_bytes: for the stream tensors, engines aside.
        chunk, look_ahead: instead of those `plan_chunks` chooses.
        limit: stop after this many frames; sound and subtitles of a video end there too.
        in_flight: calls that may run at the same time; None for what the variant's plan says.
        planned: follow the variant's plan, where it has one. Clips in tiles don't, nor do folders of frames
            where the plan takes pixels, for these may have 16 bits.
        codec, crf, pixel_format, codec_options, overwrite: as for `media.clip.open_sink`.
        allow_damaged: go on past damage in the source.
        tile_overlap: of the tiles that a clip larger than the bundle's frame is cut into, instead of the
            one `default_overlap` chooses.
        memory: bytes of the whole process, in the place of `max_bytes`; where the memory of the variant's
            engines isn't predicted, of the stream tensors.

    Raises:
        BadInputError: frames smaller than the bundle's, no frames, an unreadable source, a full disk.
    """
    progress = progress or Silent()
    with open_clip(source, allow_damaged=allow_damaged) as clip:
        laid = lay_tiles(bundle, clip, tile_overlap)
        if laid.cut and any(engine.stateful for engine in variant.engines.values()):
            raise BadInputError(
                f"{variant.name} keeps hidden states inside its engines, but each of {len(laid.tiles)} tiles "
                f"needs its own: compile with --state host"
            )
        variant = variant if planned else msgspec.structs.replace(variant, planned=None)
        variant = _followed(variant, laid, clip)
        adjusts = codec == "libx264" and "rc-lookahead" not in (codec_options or {})
        cut = _cut(
            bundle, variant, laid, clip, max_bytes, chunk, look_ahead, limit, in_flight, memory, adjusts
        )
        progress.stage(f"upscaling {source.name}", _count(clip, limit))
        started = time.monotonic()
        written = 0
        with (
            open_sink(
                output,
                clip,
                *laid.output,
                codec=codec,
                crf=crf,
                pixel_format=pixel_format,
                options=_encoder(codec_options, cut),
                overwrite=overwrite,
                cut=limit is not None,
            ) as sink,
            ExitStack() as stack,
        ):
            if laid.cut:
                how = _in_flight(variant, in_flight)
                runners = stack.enter_context(open_runners(bundle, variant, len(laid.tiles), in_flight=how))
            else:
                runners = [stack.enter_context(open_planned(bundle, variant, in_flight=in_flight))]
            waiting: deque[ClipFrame] = deque()
            tiled = TiledRunner(runners, laid.tiles, laid.cut_out) if laid.cut else None
            # Decoding and encoding go on beside the engines.
            behind = stack.enter_context(Behind())
            frames = stack.enter_context(ahead(_pictures(clip, limit, waiting)))

            def write(pixels_of: Callable[[ClipFrame, Depth], Image], picture: ClipFrame) -> None:
                depth = np.uint16 if sink.bits == 16 and picture.rgb.dtype == np.uint16 else np.uint8
                sink.write(pixels_of(picture, depth), picture)

            for pixels_of in _outputs(runners[0], tiled, laid, frames, cut):
                picture = waiting.popleft()
                if tiled is None:
                    behind.do(partial(write, pixels_of, picture))
                else:
                    # What tiles made of a frame is read before the next is asked for.
                    write(pixels_of, picture)
                written += 1
                progress.advance()
            peak = runners[0].peak_bytes if tiled is None else tiled.peak_bytes
            chosen = {name: np.sum([r.chosen[name] for r in runners], axis=0) for name in runners[0].chosen}
    shares = {name: float(patches[1:].sum() / max(1, patches.sum())) for name, patches in chosen.items()}
    return Upscaled(written, time.monotonic() - started, cut, peak, shares)


def plan(
    bundle: Bundle,
    variant: Variant,
    source: Path,
    output: Path,
    *,
    max_bytes: int = 4 * 10**9,
    chunk: int | None = None,
    look_ahead: int | None = None,
    limit: int | None = None,
    in_flight: int | None = None,
    planned: bool = True,
    codec: str = "libx264",
    crf: int = 16,
    pixel_format: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    allow_damaged: bool = False,
    tile_overlap: int | None = None,
    memory: int | None = None,
) -> Chunking:
    """How `upscale` would cut the clip; refuses what it would refuse before the first frame, engines aside.

    Args: as of `upscale`.

    Raises:
        BadInputError: as `upscale`.
    """
    with open_clip(source, allow_damaged=allow_damaged) as clip:
        laid = lay_tiles(bundle, clip, tile_overlap)
        variant = variant if planned else msgspec.structs.replace(variant, planned=None)
        variant = _followed(variant, laid, clip)
        adjusts = codec == "libx264" and "rc-lookahead" not in (codec_options or {})
        cut = _cut(
            bundle, variant, laid, clip, max_bytes, chunk, look_ahead, limit, in_flight, memory, adjusts
        )
        check_sink(
            output,
            clip,
            *laid.output,
            codec=codec,
            crf=crf,
            pixel_format=pixel_format,
            options=codec_options,
            overwrite=overwrite,
        )
    return cut


def _followed(variant: Variant, laid: Laid, clip: Clip) -> Variant:
    """The variant, without its plan where that can't be followed."""
    planned = variant.planned
    if planned is None or not (laid.cut or (planned.plan.pixels and not isinstance(clip, VideoReader))):
        return variant
    return msgspec.structs.replace(variant, planned=None)


def _in_flight(variant: Variant, in_flight: int | None) -> int:
    if in_flight is not None:
        return in_flight
    return 1 if variant.planned is None else variant.planned.plan.in_flight


def _encoder(options: Mapping[str, str] | None, cut: Chunking) -> Mapping[str, str] | None:
    """The user's options, and how far the encoder may look ahead for the limit of memory."""
    if cut.encoder_ahead is None:
        return options
    return {**(options or {}), "rc-lookahead": str(cut.encoder_ahead)}


def _cut(
    bundle: Bundle,
    variant: Variant,
    laid: Laid,
    clip: Clip,
    max_bytes: int,
    chunk: int | None,
    look_ahead: int | None,
    limit: int | None,
    in_flight: int | None,
    memory: int | None,
    adjusts: bool,
) -> Chunking:
    frames = _count(clip, limit)

    def chunks(room: int) -> Chunking:
        return plan_chunks(
            bundle.planned_program(variant),
            frames,
            room,
            chunk=chunk,
            look_ahead=look_ahead,
            in_flight=_in_flight(variant, in_flight),
            tiles=len(laid.tiles),
            sizes={} if variant.planned is None else variant.planned.plan.batch,
        )

    if memory is None or not predictable(variant):
        cut = chunks(max_bytes if memory is None else memory)
    else:
        cut = within(bundle, variant, laid, frames, memory, chunks, adjusts)
    if not laid.cut:
        return cut
    pixels = len(laid.tiles) * prod(bundle.program.frame.padded) / prod(laid.frame.padded)
    return replace(cut, tile_overlap=laid.overlap, tile_pixels=pixels)


def _count(clip: Clip, limit: int | None) -> int | None:
    return clip.frames if limit is None or clip.frames is None else min(limit, clip.frames)


def _pictures(clip: Clip, limit: int | None, waiting: deque[ClipFrame]) -> Iterator[ClipFrame]:
    for picture in islice(clip, limit):
        waiting.append(picture)
        yield picture


def _outputs(
    runner: Runner,
    tiled: TiledRunner[ClipFrame] | None,
    laid: Laid,
    pictures: Iterator[ClipFrame],
    cut: Chunking,
) -> Iterator[Callable[[ClipFrame, Depth], Image]]:
    """For each frame, what makes its pixels, given the frame that went in."""
    if tiled is None and runner.program.frame.pixels is not None:
        planes = (picture.rgb[None] for picture in pictures)
        for result in runner.run(planes, chunk=cut.chunk, look_ahead=cut.look_ahead):
            yield lambda _picture, _depth, whole=result[0]: whole  # type: ignore[misc]
    elif tiled is None:
        inputs = (to_tensor(picture.rgb, laid.frame) for picture in pictures)
        for result in runner.run(inputs, chunk=cut.chunk, look_ahead=cut.look_ahead):
            whole = np.asarray(result, np.float32)
            yield lambda picture, depth, whole=whole: from_tensor(whole, laid.frame, picture.rgb, depth)  # type: ignore[misc]
    else:
        for parts in tiled.run(pictures, chunk=cut.chunk, look_ahead=cut.look_ahead):
            yield lambda picture, depth, parts=parts: laid.join(parts, picture, depth)  # type: ignore[misc]
