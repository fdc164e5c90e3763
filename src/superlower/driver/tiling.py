"""Clips larger than a bundle's frame: where tiles lie, what goes into each, the picture of what comes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.driver.receptive import reach
from superlower.errors import BadInputError
from superlower.media.base import Clip, ClipFrame, Image
from superlower.media.tensors import from_tensor, to_tensor
from superlower.program.model import Frame, TemporalModel
from superlower.program.tiles import Tile, tiles

Depth = type[np.uint8] | type[np.uint16]

OVERLAP = 32
"""Pixels that a tile of a program of unbounded reach sees beyond what is kept of it (docs/decisions/0011)."""


@dataclass(frozen=True)
class Laid:
    """A clip's frames in tiles of a program's padded frame.

    Attributes:
        frame: the contract of the clip's own frames.
        tiles: what makes up the padded frame; one of them all where the clip has the program's size.
        overlap: least distance of what is kept from a tile's border inside the frame.
    """

    frame: Frame
    tiles: tuple[Tile, ...]
    overlap: int

    @property
    def cut(self) -> bool:
        """Whether there is more than one."""
        return len(self.tiles) > 1

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the upscaled picture."""
        return self.frame.scale * self.frame.height, self.frame.scale * self.frame.width

    def cut_out(self, picture: ClipFrame, tile: Tile) -> NDArray[np.float32]:
        """A tile's element of the input stream."""
        whole = to_tensor(picture.rgb, self.frame)
        return np.ascontiguousarray(whole[..., _scaled(tile.rows.seen), _scaled(tile.columns.seen)])

    def join(
        self, parts: Iterable[tuple[Tile, NDArray[np.floating]]], picture: ClipFrame, depth: Depth
    ) -> Image:
        """The picture [scale * H, scale * W, 3] of what is kept of each tile.

        Raises:
            OutputsDifferError: an output holds NaN or infinities.
        """
        scale = self.frame.scale
        if self.frame.color == "y":
            # Chroma is upscaled by the whole frame.
            sides = (scale * side for side in self.frame.padded)
            whole = np.empty((1, self.frame.channels, *sides), np.float32)
            for tile, part in parts:
                whole[..., _scaled(tile.rows.kept, scale), _scaled(tile.columns.kept, scale)] = part
            return from_tensor(whole, self.frame, picture.rgb, depth)
        pixels: Image = np.empty((*self.output, 3), depth)  # type: ignore[assignment]
        for tile, part in parts:
            rows, columns = (
                range(span.kept.start, min(span.kept.stop, side))
                for span, side in ((tile.rows, self.frame.height), (tile.columns, self.frame.width))
            )
            if not rows or not columns:
                continue
            own = msgspec.structs.replace(
                self.frame, height=len(rows), width=len(columns), multiple=1, minimum=1
            )
            values = part[..., : scale * len(rows), : scale * len(columns)]
            source = picture.rgb[_scaled(rows), _scaled(columns)]
            pixels[_scaled(rows, scale), _scaled(columns, scale)] = from_tensor(values, own, source, depth)
        return pixels


def lay_tiles(bundle: Bundle, clip: Clip, overlap: int | None = None) -> Laid:
    """The tiles of a bundle's size that a clip takes: one where it has that size.

    Args:
        overlap: instead of `default_overlap`.

    Raises:
        BadInputError: a clip smaller than the bundle's frame, or tiles too small for the overlap.
    """
    own = bundle.program.frame
    if (clip.height, clip.width) == (own.height, own.width):
        return Laid(own, tuple(tiles(own.padded, own.padded, 0)), 0)
    frame = msgspec.structs.replace(own, height=clip.height, width=clip.width)
    if any(have < need for have, need in zip(frame.padded, own.padded, strict=True)):
        raise BadInputError(
            f"{clip.path} is {clip.height}x{clip.width} (HxW), the bundle upscales "
            f"{own.height}x{own.width}: export and compile with --size {clip.height}x{clip.width}"
        )
    margin = default_overlap(bundle.model()) if overlap is None else overlap
    return Laid(frame, tuple(tiles(frame.padded, own.padded, margin, own.multiple)), margin)


def default_overlap(model: TemporalModel) -> int:
    """The pixels around a kept one that decide it, where they are bounded and few: seams are exact then.

    Else `OVERLAP`: motion and recurrence carry what lies beyond a tile's border inwards, ever fainter.
    """
    bound = reach(model)
    return OVERLAP if bound is None else bound


def _scaled(span: range, scale: int = 1) -> slice:
    return slice(scale * span.start, scale * span.stop)
