"""Video files in, through PyAV."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from superlower.errors import BadInputError
from superlower.media.base import ClipFrame
from superlower.media.color import Color, Converter
from superlower.media.length import cut_at, expected_frames
from superlower.media.orientation import Orientation
from superlower.media.passthrough import main_video

log = logging.getLogger(__name__)


class VideoReader:
    """A video file as a clip of upright uint8 RGB frames.

    Colour is converted by the matrix and range the file names (see `Color.of`), and rotation in its metadata
    applied. Every iteration opens the file anew. Frames without a time get one by the average rate.

    Args:
        path: the file.
        allow_damaged: go on past what can't be decoded, with a warning, and take a cut file as it is.

    Raises:
        BadInputError: no such file, no video, no frames, a missing end (of a .ts that can't always be told);
            and while iterating, damage, or frames that change size.
    """

    def __init__(self, path: Path | str, *, allow_damaged: bool = False) -> None:
        self.path = Path(path)
        self._allow_damaged = allow_damaged
        with self._opened() as container:
            stream = main_video(container)
            if needed := cut_at(self.path, container, stream):
                self._damaged(f"is cut: it has {self.path.stat().st_size} bytes of {needed}")
            first = next(self._decoded(container, stream), None)
            if first is None:
                raise BadInputError(f"{self.path} holds no video frames")
            self._stored = (first.height, first.width)
            self._orientation = Orientation.of(first)
            self.color: Color | None = Color.of(first)
            self.time_base: Fraction = stream.time_base
            self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.frames: int | None = expected_frames(container, stream, self.rate)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            self.sample_aspect_ratio: Fraction = 1 / aspect if self._orientation.transposed else aspect
            self._warn_about(first)
        self.height, self.width = self._stored[::-1] if self._orientation.transposed else self._stored

    def __iter__(self) -> Iterator[ClipFrame]:
        converter = Converter(self.color)

        def shown(index: int, frame: Any, duration: int) -> ClipFrame:
            rgb = self._orientation.apply(converter.to_rgb(frame))
            return ClipFrame(rgb, index, frame.pts, self.time_base, duration)

        default = max(1, round(1 / (self.rate * self.time_base)))
        held: Any = None
        with self._opened() as container:
            for index, frame in enumerate(self._decoded(container, main_video(container))):
                if (frame.height, frame.width) != self._stored:
                    raise BadInputError(
                        f"{self.path}: frame {index} is {frame.width}x{frame.height} where those before are "
                        f"{self._stored[1]}x{self._stored[0]}: cut the video there and upscale the parts"
                    )
                if frame.pts is None:
                    frame.pts = 0 if held is None else held.pts + (held.duration or default)
                # How long a frame is shown, the next one tells: files count durations in decoding order.
                if held is not None:
                    yield shown(index - 1, held, max(0, frame.pts - held.pts))
                held = frame
            if held is not None:
                yield shown(index, held, held.duration or default)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import av

        try:
            # With "file:" a name such as "a:b.mp4" isn't taken for a network protocol.
            container = av.open(f"file:{self.path}", metadata_errors="replace")
        except OSError as error:
            raise BadInputError(f"can't open {self.path}: {error.strerror}") from error
        except av.FFmpegError as error:
            raise BadInputError(f"{self.path} is no video that FFmpeg can read: {error.strerror}") from error
        with container:
            # FFmpeg draws text files as a terminal would: a video nobody meant.
            if container.format.name == "tty" or main_video(container) is None:
                raise BadInputError(f"{self.path} has no video stream")
            if main_video(container).codec_context is None:
                raise BadInputError(
                    f"{self.path}: its video is cut off, or FFmpeg has no decoder for it here"
                )
            yield container

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        import av

        stream.thread_type = "AUTO"
        frames = 0
        # AVI holds no presentation times, and FFmpeg's guesses are in decoding order: take them as they come.
        times: deque[int | None] | None = deque() if container.format.name == "avi" else None
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self._damaged(f"can't be read after frame {frames}: {error.strerror}")
                return
            if packet is None:
                break
            if times is not None and packet.size:
                times.append(packet.dts)
            if packet.is_corrupt:
                self._damaged(f"is cut or damaged after frame {frames}")
            try:
                decoded = packet.decode()
            except av.FFmpegError as error:
                self._damaged(f"can't be decoded after frame {frames}: {error.strerror}")
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self._damaged(f"is damaged at frame {frames}")
                if times:
                    frame.pts = times.popleft()
                frames += 1
                yield frame

    def _damaged(self, what: str) -> None:
        if not self._allow_damaged:
            raise BadInputError(f"{self.path} {what}")
        log.warning("%s %s", self.path, what)

    def _warn_about(self, frame: Any) -> None:
        if frame.interlaced_frame:
            log.warning("%s is interlaced: deinterlace it first, or combing is upscaled too", self.path)
        if any(component.bits > 8 for component in frame.format.components):
            log.warning("%s has more than 8 bits a colour: they are rounded to 8", self.path)
        if any(component.is_alpha for component in frame.format.components):
            log.warning("%s is partly transparent: that is dropped", self.path)
