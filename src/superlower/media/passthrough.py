"""Copying what isn't video from one file to another, bit for bit."""

from __future__ import annotations

import logging
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


class Passthrough:
    """The audio, subtitle and attachment streams of a source, with its metadata and chapters.

    The source is read a second time, beside the reader of its frames, and no further than the video has come:
    memory stays flat however long the video is.
    """

    def __init__(self, source: Path) -> None:
        import av

        self._source = source
        self._input = av.open(f"file:{source}", metadata_errors="replace")
        self._streams: dict[int, Any] = {}
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None

    def attach(self, output: Any) -> None:
        """Add the streams to an output container, before anything is written to it."""
        self._output = output
        output.metadata.update(_kept(self._input.metadata, _CONTAINER_OWN))
        if chapters := self._input.chapters():
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
        """Write every packet due up to a time, so that the file is interleaved."""
        while self._next is not None and self._next.dts * self._next.time_base <= seconds:
            self._write()

    def finish(self) -> None:
        """Write what is left."""
        while self._next is not None:
            self._write()

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

    def _write(self) -> None:
        packet = self._next
        packet.stream = self._streams[packet.stream.index]
        self._output.mux(packet)
        self._next = next(self._packets, None)


def main_video(container: Any) -> Any:
    """The video stream to upscale: the first that isn't cover art; None if there is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _kept(metadata: dict[str, str], own: set[str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in own and not key.startswith(("_STATISTICS", "NUMBER_OF_", "BPS"))
    }
