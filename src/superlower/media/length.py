"""How long a video claims to be, and whether all of it is there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def cut_at(path: Path, container: Any, stream: Any) -> int | None:
    """How many bytes the file should have at least, where it has fewer; None where nothing is missing.

    Known of .mp4 and .mov, whose index lists every frame, and of .mkv, .webm and .avi, which say their own
    size.

    Args:
        path: the file.
        container: it, as an `av` input container.
        stream: its video stream.
    """
    needed = 0
    if container.format.name.startswith("mov"):
        needed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    elif container.format.name.startswith("matroska"):
        with path.open("rb") as file:
            needed = _segment_end(file)
    elif container.format.name == "avi":
        with path.open("rb") as file:
            needed = 8 + int.from_bytes(file.read(8)[4:], "little")
    return needed if needed > path.stat().st_size else None


def expected_frames(container: Any, stream: Any, rate: Fraction) -> int | None:
    """How many frames a container claims its video stream holds; None where it says nothing."""
    if container.format.name.startswith("mov") and stream.frames:
        # The index leaves out what an edit list leaves out.
        return len(stream.index_entries)
    seconds = _tagged_duration(stream)
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, 1_000_000)
    return round(seconds * rate) if seconds else stream.frames or None


def _tagged_duration(stream: Any) -> Fraction | None:
    """Seconds, from the tag that FFmpeg and mkvmerge write on each Matroska stream: "00:00:01.200000000"."""
    text = next((value for key, value in stream.metadata.items() if key.upper().startswith("DURATION")), "")
    try:
        hours, minutes, seconds = text.split(":")
        return Fraction(hours) * 3600 + Fraction(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _segment_end(file: BinaryIO) -> int:
    """Where a Matroska file's segment ends, by RFC 8794 (EBML); 0 where a live recording left that open."""
    for wanted in (_EBML, _SEGMENT):
        identifier = int.from_bytes(file.read(4), "big")
        size = _size(file)
        if identifier != wanted or size is None:
            return 0
        end = file.tell() + size
        if wanted == _EBML:
            file.seek(end)
    return end


def _size(file: BinaryIO) -> int | None:
    """A variable-length size: a byte more than the first one has leading zeros; all ones mean unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(more), "big")
    mask = (1 << 7 * (more + 1)) - 1
    return None if value & mask == mask else value & mask
