"""A bundle's chunks for a limit of the whole process: what engines and video leave is the streams'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.driver.chunking import ENCODER_AHEADS, Chunking
from superlower.driver.memory import ENCODER_AHEAD, HEADROOM, RUNTIMES, legalized, predict, video_bytes
from superlower.driver.memory_plan import LONG
from superlower.driver.tiling import Laid
from superlower.errors import BadInputError
from superlower.targets.catalog import target


def predictable(variant: Variant) -> bool:
    """Whether what a variant's engines take is told beforehand. Fewer bits take no more than fp32."""
    return variant.backend in RUNTIMES and target(variant.target).kind == "cpu"


def within(
    bundle: Bundle,
    variant: Variant,
    laid: Laid,
    frames: int | None,
    limit: int,
    chunks: Callable[[int], Chunking],
    adjusts: bool,
) -> Chunking:
    """The longest chunks with which the process stays within a limit.

    Args:
        bundle, variant: `predictable`.
        laid: a clip's tiles.
        frames: of the clip, if known.
        limit: bytes of the process.
        chunks: `plan_chunks` for so many bytes of streams.
        adjusts: whether the encoder can be told to look ahead less.

    Raises:
        BadInputError: not even the shortest chunk fits; the message tells what would.
    """
    own, whole = bundle.program.frame, laid.frame
    peak = predict(legalized(bundle.model(), variant.backend), variant.backend, 1)
    size = whole.height, whole.width

    def besides(waiting: int, ahead: int | None) -> int:
        told = ENCODER_AHEAD if ahead is None else ahead
        video = video_bytes(whole, size, (own.height, own.width), waiting, frames or LONG, told)
        return peak.process + peak.engines + video

    aheads = ENCODER_AHEADS if adjusts else ENCODER_AHEADS[:1]
    for ahead, waiting in product(aheads, _waiting(frames)):
        if (room := round(HEADROOM * limit) - besides(waiting, ahead)) <= 0:
            continue
        try:
            cut = chunks(room)
        except BadInputError:
            continue
        held = frames or waiting if cut.chunk is None else cut.chunk + (cut.look_ahead or 0)
        if held <= waiting:
            total = besides(held, ahead) + cut.predicted_bytes
            return replace(cut, process_bytes=total, encoder_ahead=ahead)
    least = besides(1, aheads[-1]) / HEADROOM
    tiled = f" in tiles of {own.height}x{own.width}" if laid.cut else ""
    raise BadInputError(
        f"{variant.name} takes {least / 1e9:.2f} GB and a chunk's streams for {size[0]}x{size[1]}{tiled}, "
        f"over --max-memory {limit / 1e9:.2f} GB: allow more, or export with that limit, for smaller tiles"
    )


def _waiting(frames: int | None) -> Iterator[int]:
    """Numbers of pictures to leave room for, the most first."""
    if frames is not None:
        yield frames
    yield from (
        count
        for count in (128, 64, 48, 32, 24, 20, 18, 17, 16, 8, 4, 2, 1)
        if frames is None or count < frames
    )
