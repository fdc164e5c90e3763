"""Tiles and chunks for a limit of memory: of all that fit, those with the least work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil, prod

import msgspec

from superlower.driver.chunking import ENCODER_AHEADS, LOOK_AHEAD, Chunking, plan_chunks
from superlower.driver.flops import graph_macs
from superlower.driver.memory import ENCODER_AHEAD, HEADROOM, Peak, area_of, predict, video_bytes
from superlower.driver.tiling import default_overlap
from superlower.errors import BadInputError
from superlower.program import analysis
from superlower.program.chunks import Chunk, ChunkPlanner, kept_bytes
from superlower.program.legality import horizon, period
from superlower.program.model import Program, TemporalModel
from superlower.program.tiles import spans

LONG = 100
"""Frames of a video of which nothing is known: enough that an encoder holds all that it ever does."""

CHUNKS = (1, 2, 4, 8, 16, 32)
"""Frames of chunks that are tried: of longer ones the look-ahead is a small part."""

_MOST_TILES = 16
"""Along a side: smaller tiles are mostly overlap."""

_UNSURE = 1.1
"""How far a straight line between two frame sizes may be off what an engine takes at another."""


@dataclass(frozen=True)
class Plan:
    """How a video is cut for a limit.

    Attributes:
        tile: height and width of what graphs are built for; the frame's own where it isn't cut.
        rows, columns: of tiles.
        cut: chunks, and the overlap of tiles.
        work: operations, in those of whole frames and the whole clip in one go.
        peak: of the process.
    """

    tile: tuple[int, int]
    rows: int
    columns: int
    cut: Chunking
    work: float
    peak: Peak


@dataclass(frozen=True)
class Request:
    """What is to be cut.

    Attributes:
        model: exported at any size, its graphs as the backend takes them (see `memory.legalized`).
        backend: one of `memory.RUNTIMES`.
        size: height and width of the video.
        limit: bytes, of the whole process.
        frames: of the video, if known.
        overlap: of tiles; None for `tiling.default_overlap`.
        look_ahead: of chunks, where the whole clip doesn't fit and the program sweeps backward.
        video: whether to count what decoding and encoding take.
    """

    model: TemporalModel
    backend: str
    size: tuple[int, int]
    limit: int
    frames: int | None = None
    overlap: int | None = None
    look_ahead: int = LOOK_AHEAD
    video: bool = True


def plan_memory(request: Request) -> Plan:
    """The tile and chunk of least work with which a process stays within a limit.

    Raises:
        BadInputError: nothing fits; the message tells the least that would do.
    """
    search = _Search(request)
    best: _Way | None = None
    for search.encoder_ahead in ENCODER_AHEADS if request.video else (None,):
        for way in search.ways():
            if best is not None and way.tile_work >= best.work:
                break
            if (best is None or way.work < best.work) and search.fits(way):
                best = way
        if best is not None:
            break
    if best is None:
        least = min(search.ways(), key=search.guess)
        raise BadInputError(
            f"{request.model.program.name} at {request.size[0]}x{request.size[1]} through {request.backend} "
            f"takes {search.peak(least).total / HEADROOM / 1e9:.2f} GB however it is cut, "
            f"over --max-memory: allow that much ({1 - HEADROOM:.0%} of it is headroom)"
        )
    return search.plan(best)


@dataclass(frozen=True)
class _Way:
    """Tiles and a chunk; `chunk` None for the whole clip, `tile_work` without what chunks add to `work`."""

    tile: tuple[int, int]
    rows: int
    columns: int
    chunk: int | None
    tile_work: float
    work: float


class _Search:
    """What ways to cut a video take; engines and streams grow with the tile's area in straight lines."""

    def __init__(self, request: Request) -> None:
        self.encoder_ahead: int | None = None
        self._request = request
        program = request.model.program
        self._frame = program.frame
        self._margin = default_overlap(request.model) if request.overlap is None else request.overlap
        self._bounded = analysis.latency(program) is not None
        own = program.frame.height, program.frame.width
        self._engines = [(float(self._area(size)), self._predicted(size)) for size in (own, request.size)]
        self._streams: dict[int | None, tuple[int, int]] = {}
        self._exact: dict[tuple[int, int], Peak] = {}

    def ways(self) -> Iterator[_Way]:
        """The least tile work first."""
        padded = prod(self._of(self._request.size).frame.padded)
        chunks: list[int | None] = [1] if self._bounded else [*CHUNKS]
        if self._request.frames is not None and not self._bounded:
            chunks.insert(0, None)
        further = {chunk: self._further(chunk) for chunk in chunks}
        for tile, rows, columns in tilings(self._request.model.program, self._request.size, self._margin):
            work = rows * columns * prod(self._of(tile).frame.padded) / padded
            for chunk in chunks:
                yield _Way(tile, rows, columns, chunk, work, work * further[chunk])

    def fits(self, way: _Way) -> bool:
        """Whether it keeps to the limit; asked exactly where a straight line doesn't tell."""
        limit = HEADROOM * self._request.limit
        return self.guess(way) <= _UNSURE * limit and self.peak(way).total <= limit

    def guess(self, way: _Way) -> float:
        """Bytes of the process, about."""
        (a, first), (b, second) = self._engines
        slope = (second.engines - first.engines) / (b - a) if a != b else 0.0
        area = float(self._area(way.tile))
        return first.process + first.engines + slope * (area - a) + self._held(way) + self._shown(way)

    def peak(self, way: _Way) -> Peak:
        """Bytes of the process, part by part."""
        if way.tile not in self._exact:
            self._exact[way.tile] = self._predicted(way.tile)
        return replace(self._exact[way.tile], streams=self._held(way), video=self._shown(way))

    def plan(self, way: _Way) -> Plan:
        """The way as it is told."""
        tiles = way.rows * way.columns
        overlap = self._margin if tiles > 1 else None
        ahead = None if way.chunk is None else self._ahead
        peak = self.peak(way)
        cut = Chunking(
            way.chunk,
            ahead,
            peak.streams,
            tiles,
            tile_overlap=overlap,
            tile_pixels=way.tile_work if tiles > 1 else None,
            process_bytes=peak.total,
            encoder_ahead=self.encoder_ahead,
        )
        return Plan(way.tile, way.rows, way.columns, cut, way.work, peak)

    @cached_property
    def _ahead(self) -> int:
        latency = analysis.latency(self._request.model.program)
        return self._request.look_ahead if latency is None else latency

    def _of(self, tile: tuple[int, int]) -> Program:
        frame = msgspec.structs.replace(self._frame, height=tile[0], width=tile[1])
        return msgspec.structs.replace(self._request.model.program, frame=frame)

    def _area(self, tile: tuple[int, int]) -> Fraction:
        return area_of(self._frame, *tile)

    def _predicted(self, tile: tuple[int, int]) -> Peak:
        return replace(predict(self._request.model, self._request.backend, 1, tile), streams=0)

    def _held(self, way: _Way) -> int:
        """Bytes of streams: of the tile that computes, and what the others keep for their next chunk."""
        program = self._request.model.program
        if way.chunk not in self._streams:
            if way.chunk is None:
                cut = plan_chunks(program, self._request.frames, 2**60)
                self._streams[None] = cut.predicted_bytes, 0
            else:
                ahead = None if self._bounded else self._ahead
                cut = plan_chunks(program, None, 2**60, chunk=way.chunk, look_ahead=ahead)
                self._streams[way.chunk] = cut.predicted_bytes, kept_bytes(program, way.chunk, self._ahead)
        own, waiting = self._streams[way.chunk]
        return ceil((own + (way.rows * way.columns - 1) * waiting) * self._area(way.tile))

    def _shown(self, way: _Way) -> int:
        """Bytes of pictures and of the video's libraries."""
        if not self._request.video:
            return 0
        frames = LONG if self._request.frames is None else self._request.frames
        waiting = frames if way.chunk is None else way.chunk + self._ahead
        ahead = ENCODER_AHEAD if self.encoder_ahead is None else self.encoder_ahead
        return video_bytes(self._frame, self._request.size, way.tile, waiting, frames, ahead)

    def _further(self, chunk: int | None) -> float:
        """Operations of a clip in chunks, in those of one in one go."""
        if chunk is None or self._bounded:
            return 1.0
        macs, told = graph_macs(self._request.model), msgspec.json.encode(self._request.model.program)
        one, long = (
            sum(macs[name] * count / size for name, count in _calls(told, size, ahead).items())
            for size, ahead in ((chunk, self._ahead), (CHUNKS[-1], 0))
        )
        return max(1.0, one / long) if long else 1.0


def sides(length: int, overlap: int, multiple: int, minimum: int) -> Iterator[tuple[int, int]]:
    """Tiles of one side, as (size, how many): for each number the smallest that cover it, largest first.

    Args:
        length: of the padded frame's side.
        overlap, multiple: as of `tiles.spans`.
        minimum: the least that a graph takes.
    """
    yield length, 1
    for count in range(2, _MOST_TILES + 1):
        size = -(-(length + 2 * overlap * (count - 1)) // (count * multiple)) * multiple
        if size >= length or size < minimum or (size - 2 * overlap) // multiple < 1:
            return
        if len(spans(length, size, overlap, multiple)) == count:
            yield size, count


def tilings(program: Program, size: tuple[int, int], overlap: int) -> list[tuple[tuple[int, int], int, int]]:
    """(tile, rows, columns) of a frame, the least work first, and of alike ones the squarest."""
    contract = msgspec.structs.replace(program.frame, height=size[0], width=size[1])
    ways = [list(sides(length, overlap, contract.multiple, contract.minimum)) for length in contract.padded]
    found = [((height, width), rows, columns) for height, rows in ways[0] for width, columns in ways[1]]
    found.sort(key=lambda way: (way[1] * way[2] * prod(way[0]), abs(way[0][0] - way[0][1])))
    # A frame that isn't cut needn't be exported at its padded size.
    return [(size if way[1:] == (1, 1) else way[0], *way[1:]) for way in found]


@lru_cache(maxsize=64)
def _calls(program_json: bytes, size: int, ahead: int) -> Counter[str]:
    """Calls of each graph in a chunk far from both ends."""
    program = msgspec.json.decode(program_json, type=Program)
    planner = ChunkPlanner(program)
    calls: Counter[str] = Counter()
    for i in range(2 + -(-(horizon(program) + period(program)) // size)):
        steps = planner.plan(Chunk(i * size, (i + 1) * size, (i + 1) * size + ahead), None).steps
        calls = Counter(step.graph for step in steps)
    return calls
