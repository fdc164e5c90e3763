"""How a clip is cut in time, so that its streams keep to a bound of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from superlower.errors import BadInputError
from superlower.program import analysis
from superlower.program.chunks import kept_bytes
from superlower.program.model import Program

ENCODER_AHEADS = (None, 20, 10, 5)
"""Frames for an encoder to look ahead, tried in turn where a limit is passed; None: as it is."""

LOOK_AHEAD = 15
"""Frames a backward sweep starts beyond its chunk, where memory asks for chunks (docs/video.md)."""


@dataclass(frozen=True)
class Chunking:
    """How a clip is cut.

    Attributes:
        chunk: frames; None: not at all.
        look_ahead: frames a chunk looks beyond its own.
        predicted_bytes: peak of the stream tensors.
        tiles: that make up a frame.
        tile_overlap: pixels that a tile sees beyond what is kept of it; None for one tile.
        tile_pixels: of all tiles, over those of the frame; None for one tile.
        encoder_ahead: frames that libx264 is to look ahead, where its 40 would pass the limit.
        process_bytes: predicted peak of the whole process; None where no limit was given for it.
    """

    chunk: int | None
    look_ahead: int | None
    predicted_bytes: int
    tiles: int = 1
    _: KW_ONLY
    tile_overlap: int | None = None
    tile_pixels: float | None = None
    process_bytes: int | None = None
    encoder_ahead: int | None = None


def plan_chunks(
    program: Program,
    frames: int | None,
    max_bytes: int,
    *,
    chunk: int | None = None,
    look_ahead: int | None = None,
    in_flight: int = 1,
    tiles: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> Chunking:
    """Whole clips where that fits; else the longest chunks that do.

    A program of bounded latency streams at constant memory, exactly, in chunks that keep `in_flight` calls
    busy and batches full: a chunk ends only when its calls have. One that sweeps backward needs the whole
    clip to be exact; in chunks, its backward states start `look_ahead` frames beyond each.

    Args:
        frames: in the clip, if known.
        max_bytes: for the stream tensors.
        chunk, look_ahead: the user's own.
        in_flight: calls that may run at the same time.
        tiles: that make up a frame; while one computes, the others keep what their next chunk reads.
        sizes: graph -> calls that it takes at once.

    Raises:
        BadInputError: not even a chunk of one frame, or not the user's own, fits.
    """
    height, width = program.frame.height, program.frame.width

    def peak(count: int) -> int:
        own = analysis.peak_bytes(program, count, height, width, in_flight, sizes)
        return own + (tiles - 1) * waiting

    waiting = 0

    latency = analysis.latency(program)
    if latency is not None:
        size = chunk or max(in_flight, *(sizes or {}).values(), 1)
        waiting = kept_bytes(program, size, latency) if tiles > 1 else 0
        cut = Chunking(size, latency, peak(2 * latency + size + 2), tiles)
    else:
        if chunk is None and frames is not None and (whole := peak(frames)) <= max_bytes:
            return Chunking(None, None, whole, tiles)
        ahead = LOOK_AHEAD if look_ahead is None else look_ahead
        size = chunk or 1
        # What is kept doesn't depend on the chunk's length.
        waiting = kept_bytes(program, size, ahead) if tiles > 1 else 0
        if chunk is None:
            one, two = peak(1 + ahead), peak(2 + ahead)
            size += max(max_bytes - one, 0) // max(two - one, 1)
        cut = Chunking(size, ahead, peak(size + ahead), tiles)
    if cut.predicted_bytes > max_bytes:
        of_tiles = f" in each of {tiles} tiles" if tiles > 1 else ""
        frames_held = f"a chunk of {size} frames" if size > 1 else "a chunk of one frame"
        raise BadInputError(
            f"{frames_held} and {cut.look_ahead} of look-ahead takes {cut.predicted_bytes / 1e9:.3g} GB of "
            f"streams at {height}x{width}{of_tiles}, over --max-memory: allow more, or smaller --chunk, "
            f"--look-ahead or --in-flight"
        )
    return cut
