"""Cutting a frame into tiles: which part each computes, and which part of that is kept.

A tile is a whole run of the program over a crop of every frame, with states of its own, so the temporal
program doesn't know of it. Next to a tile's own border its graphs pad, or warp from outside, where the frame
goes on: what is kept of a tile stays `overlap` pixels away from such a border.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from superlower.errors import BadInputError


@dataclass(frozen=True)
class Span:
    """One side of a tile, in pixels of the padded low-resolution frame.

    Attributes:
        seen: what is computed.
        kept: the part of it that goes into the output; those of all spans make up the frame.
    """

    seen: range
    kept: range


@dataclass(frozen=True)
class Tile:
    """A rectangle of the padded low-resolution frame."""

    rows: Span
    columns: Span


def spans(length: int, size: int, overlap: int, multiple: int = 1) -> list[Span]:
    """The fewest spans of `size` that cover `length`, evenly spread.

    Args:
        length: of the padded frame's side.
        size: of a tile's; at most `length`.
        overlap: least distance of what is kept from a tile's border inside the frame.
        multiple: spans start at multiples of it, so that strides fall as they do in the whole frame; it
            divides `length` and `size`.

    Raises:
        BadInputError: tiles larger than the frame, or too small for that overlap.
    """
    if size > length:
        raise BadInputError(f"tiles of {size} pixels are larger than the frame's {length}")
    step = (size - 2 * overlap) // multiple * multiple
    if size == length:
        starts = [0]
    elif step <= 0:
        raise BadInputError(
            f"tiles of {size} pixels keep nothing of {overlap} pixels of overlap at each side: build for "
            f"larger tiles, or give a smaller --tile-overlap"
        )
    else:
        count, units = -((size - length) // step), (length - size) // multiple
        starts = [multiple * (units * i // count) for i in range(count + 1)]
    seams = [
        0,
        *((before + size + after) // 2 for before, after in pairwise(starts)),
        length,
    ]
    return [Span(range(first, first + size), range(*seams[i : i + 2])) for i, first in enumerate(starts)]


def tiles(frame: tuple[int, int], tile: tuple[int, int], overlap: int, multiple: int = 1) -> list[Tile]:
    """The fewest tiles that cover a padded frame (height, width), row by row; see `spans`."""
    rows, columns = (spans(length, size, overlap, multiple) for length, size in zip(frame, tile, strict=True))
    return [Tile(row, column) for row in rows for column in columns]
