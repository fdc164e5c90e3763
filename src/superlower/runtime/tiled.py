"""A program run over frames larger than its own, tile by tile: each has its runner, and so its states."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import BinaryIO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from superlower.program.tiles import Tile
from superlower.runtime.runner import Runner

Array = NDArray[np.generic]
Picture = TypeVar("Picture")


class TiledRunner(Generic[Picture]):
    """Runs chunk after chunk, tile after tile.

    A tile waits with its states while the others compute, so memory is that of one tile's chunk, and of what
    the others keep between chunks. What is kept of outputs waits on disk.

    Attributes:
        peak_bytes: largest sum of stream tensors that were alive at once in the last run.
    """

    def __init__(
        self, runners: Sequence[Runner], tiles: Sequence[Tile], cut: Callable[[Picture, Tile], Array]
    ) -> None:
        """Args:
        runners: one a tile, of one program.
        tiles: in the order of the runners.
        cut: an element of the input stream from a whole frame, for a tile.
        """
        self.peak_bytes = 0
        self._runners, self._tiles, self._cut = runners, tiles, cut
        self._scale = runners[0].program.frame.scale

    def run(
        self,
        pictures: Iterable[Picture],
        *,
        total: int | None = None,
        chunk: int | None = None,
        look_ahead: int | None = None,
    ) -> Iterator[Iterator[tuple[Tile, NDArray[np.floating]]]]:
        """Upscale a clip; for each frame, in order, what is kept of each tile's output.

        Args:
            pictures: whole frames in order; each is taken once.
            total, chunk, look_ahead: as of `Runner.run`; without a chunk every tile runs the whole clip.

        Yields:
            For a frame, (tile, [1, C, scale * kept rows, scale * kept columns]) of every tile; to be used up
            before the next frame is asked for.
        """
        self.peak_bytes = 0
        shared = _Shared(iter(pictures), len(self._tiles))
        clips = [
            runner.run(
                map(self._cut, shared.reader(index), repeat(tile)),
                total=total,
                chunk=chunk,
                look_ahead=look_ahead,
            )
            for index, (runner, tile) in enumerate(zip(self._runners, self._tiles, strict=True))
        ]
        while True:
            with tempfile.TemporaryFile(prefix="superlower-") as scratch:
                made = [self._advance(index, clip, chunk, scratch) for index, clip in enumerate(clips)]
                count = len(made[0])
                for t in range(count):
                    yield ((tile, made[i][t].read(scratch)) for i, tile in enumerate(self._tiles))
            if chunk is None or count < chunk:
                return

    def _advance(
        self, index: int, outputs: Iterator[Array], chunk: int | None, scratch: BinaryIO
    ) -> list[_Stored]:
        """Compute one tile's next chunk; what is kept of it goes to disk."""
        tile, stored = self._tiles[index], []
        for output in islice(outputs, chunk):
            stored.append(_Stored.write(output[self._region(tile)], scratch))
        waiting = sum(r.held_bytes for i, r in enumerate(self._runners) if i != index)
        self.peak_bytes = max(self.peak_bytes, self._runners[index].peak_bytes + waiting)
        return stored

    def _region(self, tile: Tile) -> tuple[slice, ...]:
        return (
            slice(None),
            slice(None),
            *(
                slice(
                    self._scale * (span.kept.start - span.seen.start),
                    self._scale * (span.kept.stop - span.seen.start),
                )
                for span in (tile.rows, tile.columns)
            ),
        )


class _Stored:
    """An array in a file."""

    def __init__(self, place: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._place, self._shape, self._dtype = place, shape, dtype

    @classmethod
    def write(cls, array: Array, file: BinaryIO) -> _Stored:
        place = file.seek(0, 2)
        file.write(np.ascontiguousarray(array).data)
        return cls(place, array.shape, array.dtype)

    def read(self, file: BinaryIO) -> NDArray[np.floating]:
        file.seek(self._place)
        array: NDArray[np.floating] = np.empty(self._shape, self._dtype)
        file.readinto(array.data)  # type: ignore[attr-defined]
        return array


class _Shared(Generic[Picture]):
    """One pass over a clip for several readers; a frame is held until the last of them has taken it."""

    def __init__(self, pictures: Iterator[Picture], readers: int) -> None:
        self._pictures = pictures
        self._held: deque[Picture] = deque()
        self._first = 0
        self._next = [0] * readers

    def reader(self, index: int) -> Iterator[Picture]:
        while True:
            at = self._next[index] - self._first
            if at == len(self._held):
                try:
                    self._held.append(next(self._pictures))
                except StopIteration:
                    return
            picture = self._held[at]
            self._next[index] += 1
            while self._held and min(self._next) > self._first:
                self._held.popleft()
                self._first += 1
            yield picture
