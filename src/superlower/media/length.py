"""How long a video claims to be, and whether it is."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


class End:
    """Whether a video ended where its header says it does.

    Known of .mp4 and .mov, whose index lists every frame, and of .mkv files that FFmpeg or mkvmerge wrote.

    Args:
        container: an `av` input container.
        stream: its video stream.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._stream = stream
        self._packets = 0
        self._last = Fraction(0)
        self._gap = Fraction(0)
        self._indexed = len(stream.index_entries) if container.format.name.startswith("mov") else 0
        self._seconds = _tagged_duration(stream) if container.format.name.startswith("matroska") else None

    def passed(self, packet: Any) -> None:
        """Note a packet of the stream."""
        if packet.pts is None:
            return
        self._packets += 1
        time = packet.pts * packet.time_base
        self._gap = max(self._gap, time - self._last)
        self._last = max(self._last, time)

    def missing(self) -> str | None:
        """Once all packets have passed: what is missing at the end, in words; None if nothing is."""
        if self._packets < self._indexed:
            return f"its index lists {self._indexed}"
        if self._seconds is None:
            return None
        # How long the last frame is shown isn't stored: allow for the longest seen, and three more frames.
        rate = self._stream.average_rate or Fraction(25)
        if self._seconds - self._last > 2 * self._gap + 3 / rate:
            return f"at {float(self._last):.2f} s of {float(self._seconds):.2f} s"
        return None


def _tagged_duration(stream: Any) -> Fraction | None:
    """Seconds, from the tag that FFmpeg and mkvmerge write on each Matroska stream: "00:00:01.200000000"."""
    text = next((value for key, value in stream.metadata.items() if key.upper().startswith("DURATION")), "")
    try:
        hours, minutes, seconds = text.split(":")
        return Fraction(hours) * 3600 + Fraction(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def expected_frames(container: Any, stream: Any, rate: Fraction) -> int | None:
    """How many frames a container claims its video stream holds; None where it says nothing."""
    if container.format.name.startswith("mov") and len(stream.index_entries):
        return len(stream.index_entries)
    seconds = _tagged_duration(stream)
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, 1_000_000)
    return round(seconds * rate) if seconds else stream.frames or None
