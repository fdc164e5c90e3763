"""Copying what isn't video from one file to another, bit for bit."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from superlower.errors import BadInputError

log = logging.getLogger(__name__)

# What a muxer writes for itself; carried over it would describe the source, not the output.
_CONTAINER_OWN = {"encoder", "major_brand", "minor_version", "compatible_brands"}
_STREAM_OWN = {"encoder", "duration", "vendor_id"}

_APART = 10
"""Seconds that packets of one time may lie apart in a file: FFmpeg interleaves no wider."""


class Passthrough:
    """The audio, subtitle and attachment streams of a source, with its metadata and chapters.

    The source is read a second time, beside the reader of its frames, and no further than the video has come:
    memory stays flat however long the video is.

    Args:
        source: a video file.
        cut: only its beginning is copied; how much, `finish` is told.
    """

    def __init__(self, source: Path, *, cut: bool = False) -> None:
        import av

        self._source = source
        self._cut = cut
        self._input = av.open(f"file:{source}", metadata_errors="replace")
        self._streams: dict[int, Any] = {}
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._shown: deque[Any] = deque()

    def attach(self, output: Any) -> None:
        """Add the streams to an output container, before anything is written to it."""
        self._output = output
        output.metadata.update(_kept(self._input.metadata, _CONTAINER_OWN))
        # The end of a cut is known later: .mp4 and .mkv take chapters at the end as well.
        if not self._cut and (chapters := self._input.chapters()):
            output.set_chapters(chapters)
        video = main_video(self._input)
        for stream in self._input.streams:
            if stream is not video:
                self._add(stream, output)
        self._packets = self._demux()
        self._next = next(self._packets, None)

    def video_metadata(self) -> dict[str, str]:
        """Tags of the video stream that still hold for its upscaled copy (title, language)."""
        return _kept(main_video(self._input).metadata, _STREAM_OWN)

    def until(self, seconds: Fraction) -> None:
        """Write every packet due up to a time, so that the file is interleaved.

        Of a cut, a text waits until it has been shown: were the video to end before, it is cut short.
        """
        while self._next is not None and self._next.dts * self._next.time_base <= seconds:
            packet = self._take()
            if self._cut and packet.stream.type == "subtitle":
                self._shown.append(packet)
            else:
                self._write(packet)
        while self._shown and _end(self._shown[0]) <= seconds:
            self._write(self._shown.popleft())

    def finish(self, end: Fraction | None = None) -> None:
        """Write what is left: all of it, or what begins before a time in seconds."""
        if end is None:
            while self._next is not None:
                self._write(self._take())
            return
        for packet in self._shown:
            self._write(packet, end)
        while self._next is not None and self._next.dts * self._next.time_base < end + _APART:
            packet = self._take()
            if _begin(packet) < end:
                self._write(packet, end)
        if chapters := _until(self._input.chapters(), end):
            self._output.set_chapters(chapters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._input.close()

    def _add(self, stream: Any, output: Any) -> None:
        what = f"{stream.type} stream {stream.index} of {self._source} is left out"
        if stream.type == "attachment":
            if output.format.name != "matroska":
                log.warning("%s: only .mkv files hold attachments", what)
                return
            output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            return
        if stream.type not in ("audio", "subtitle"):
            log.warning("%s: only audio, subtitles and attachments are copied", what)
            return
        try:
            copy = output.add_stream_from_template(stream)
        except ValueError as error:
            log.warning("%s: %s; write to .mkv to keep it", what, error)
            return
        copy.metadata.update(_kept(stream.metadata, {"encoder", "duration"}))
        copy.disposition = stream.disposition
        self._streams[stream.index] = copy

    def _demux(self) -> Iterator[Any]:
        import av

        if not self._streams:
            return
        try:
            for packet in self._input.demux([self._input.streams[index] for index in self._streams]):
                # The packets without a timestamp flush decoders and hold nothing.
                if packet.dts is not None:
                    yield packet
        except av.FFmpegError as error:
            raise BadInputError(
                f"{self._source}: its sound or subtitles can't be read: {error.strerror}"
            ) from error

    def _take(self) -> Any:
        packet, self._next = self._next, next(self._packets, None)
        return packet

    def _write(self, packet: Any, end: Fraction | None = None) -> None:
        if end is not None and packet.stream.type == "subtitle" and _end(packet) > end:
            packet.duration = math.ceil((end - _begin(packet)) / packet.time_base)
        packet.stream = self._streams[packet.stream.index]
        self._output.mux(packet)


def main_video(container: Any) -> Any:
    """The video stream to upscale: the first that isn't cover art; None if there is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _begin(packet: Any) -> Fraction:
    """When a packet is to be heard or seen, in seconds."""
    begin: Fraction = (packet.dts if packet.pts is None else packet.pts) * packet.time_base
    return begin


def _end(packet: Any) -> Fraction:
    length: Fraction = (packet.duration or 0) * packet.time_base
    return _begin(packet) + length


def _until(chapters: list[Any], end: Fraction) -> list[Any]:
    """The chapters that begin before a time in seconds, none beyond it."""
    return [
        {**chapter, "end": min(chapter["end"], math.ceil(end / chapter["time_base"]))}
        for chapter in chapters
        if chapter["start"] * chapter["time_base"] < end
    ]


def _kept(metadata: dict[str, str], own: set[str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in own and not key.startswith(("_STATISTICS", "NUMBER_OF_", "BPS"))
    }
