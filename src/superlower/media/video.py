"""Video files in and out, through PyAV."""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from math import lcm
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from superlower.errors import BadInputError
from superlower.media.base import Clip, ClipFrame, Image
from superlower.media.color import Color, Converter, output_color
from superlower.media.length import cut_at, expected_frames
from superlower.media.orientation import Orientation
from superlower.media.passthrough import Passthrough, main_video

log = logging.getLogger(__name__)

LOSSLESS = "ffv1"
"""The codec that keeps RGB bit for bit; its files end in .mkv."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RATES = {"crf", "qp", "b"}
_NO_TIMES = 0x80  # AVFMT_NOTIMESTAMPS
_RATED = {"libx264", "libx265", "libsvtav1", "libvpx-vp9", "libaom-av1"}


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


class VideoWriter:
    """Writes upscaled frames as a video, with everything else of the source: sound, subtitles, attachments,
    chapters, metadata, and the time of every frame.

    Nothing appears under `path` until the `with` block ends well; after an error or Ctrl-C nothing is left at
    all.
    Times are exact as far as the container can hold them: .mp4 and .mov take any time base, .mkv counts
    milliseconds, and moves all streams together where the sound starts before zero. Colour keeps the source's
    matrix and range where the source names them, else takes BT.709 from 720 lines or 1280 columns on and
    BT.601 below; the file is tagged with what was used.

    Args:
        path: the file; its suffix is the container.
        clip: where the frames come from; of a `VideoReader` the other streams are copied.
        height, width: of the frames to come.
        codec: an FFmpeg encoder. "libx264", "libx265", "libsvtav1", "ffv1" (lossless), "h264_nvenc", ...
        crf: constant quality of the encoders that have it, lower is better.
        pixel_format: of the encoder. By default lossless RGB for ffv1, else yuv420p, or yuv444p where a side
            is odd.
        options: the encoder's own, as {"preset": "slow"}.
        overwrite: replace `path` if it exists.

    Raises:
        BadInputError: options that don't fit, a target that can't be written, a full disk.
    """

    def __init__(
        self,
        path: Path | str,
        clip: Clip,
        height: int,
        width: int,
        *,
        codec: str = "libx264",
        crf: int = 16,
        pixel_format: str | None = None,
        options: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._size = (height, width)
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._container: Any = None
        self._time_base = clip.time_base
        self._last: int | None = None
        self._color = output_color(clip.color, height, width)
        self._converter = Converter(self._color)
        self._pixel_format = _pixel_format(pixel_format, codec, height, width)
        self._check_target(clip.path, overwrite)
        with ExitStack() as stack, self._errors():
            stack.callback(self._discard)
            self._container = self._create()
            self._stream = self._video_stream(codec, clip, crf, options or {})
            self._passthrough: Passthrough | None = None
            if isinstance(clip, VideoReader):
                self._passthrough = stack.enter_context(Passthrough(clip.path))
                self._passthrough.attach(self._container)
                self._stream.metadata.update(self._passthrough.video_metadata())
            self._container.start_encoding()
            self._undo = stack.pop_all()

    def write(self, rgb: Image, source: ClipFrame) -> None:
        """Append uint8 [height, width, 3], shown when `source` was."""
        if rgb.dtype != np.uint8 or rgb.shape != (*self._size, 3):
            raise BadInputError(
                f"{self.path} takes uint8 frames of {self._size[1]}x{self._size[0]}, "
                f"not {rgb.dtype} {list(rgb.shape)}"
            )
        with self._errors():
            frame = self._converter.from_rgb(rgb, self._pixel_format)
            frame.pts = self._in_order(source.pts)
            frame.time_base = source.time_base
            frame.duration = source.duration
            self._mux(self._stream.encode(frame))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._undo, self._errors():
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        self._mux(self._stream.encode(None))
        if self._passthrough is not None:
            self._passthrough.finish()
        self._container.close()
        self._partial.replace(self.path)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._passthrough is not None:
                self._passthrough.until(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _in_order(self, pts: int) -> int:
        if self._last is not None and pts <= self._last:
            log.warning("%s: two frames at one time: the later is moved by one tick", self.path)
            pts = self._last + 1
        self._last = pts
        return pts

    def _create(self) -> Any:
        import av

        try:
            container = av.open(f"file:{self.path}", "w").format
        except (ValueError, av.FFmpegError) as error:
            raise BadInputError(
                f"'{self.path.suffix}' is no video container that FFmpeg writes: name the output .mp4 or .mkv"
            ) from error
        if container.flags & _NO_TIMES or container.name == "avi":
            raise BadInputError(
                f"a {container.name} file can't hold the times of frames: name the output .mp4 or .mkv"
            )
        exact = {}
        if container.name in ("mp4", "mov", "ipod"):
            # Edit lists count in this unit. FFmpeg's default, milliseconds, can cut the last frame off.
            exact["movie_timescale"] = str(_common_unit(self._time_base))
        return av.open(f"file:{self._partial}", "w", format=container.name, container_options=exact)

    def _video_stream(self, codec: str, clip: Clip, crf: int, options: Mapping[str, str]) -> Any:
        import av
        from av.codec.context import Flags

        rated = {"crf": str(crf)} if codec in _RATED and not _RATES & options.keys() else {}
        if rated and codec == "libvpx-vp9":
            rated["b"] = "0"
        try:
            stream = self._container.add_stream(codec, rate=clip.rate, options={**rated, **options})
        except av.codec.codec.UnknownCodecError as error:
            raise BadInputError(f"this build of FFmpeg has no encoder '{codec}'") from error
        except ValueError as error:
            hint = "; name the output .mkv" if codec == LOSSLESS else ""
            raise BadInputError(f"can't put {codec} video into {self.path}: {error}{hint}") from error
        stream.height, stream.width = self._size
        stream.pix_fmt = self._pixel_format
        stream.time_base = self._time_base
        stream.codec_context.time_base = self._time_base
        stream.codec_context.sample_aspect_ratio = clip.sample_aspect_ratio
        # Without it encoders guess how long a frame is shown, and the last one is cut short.
        stream.codec_context.flags |= Flags.frame_duration
        if not av.VideoFormat(self._pixel_format).is_rgb:
            self._converter.tag(stream.codec_context)
        return stream

    def _check_target(self, source: Path, overwrite: bool) -> None:
        if not self.path.parent.is_dir():
            raise BadInputError(f"can't write {self.path}: there is no folder {self.path.parent}")
        if self.path.is_dir():
            raise BadInputError(f"can't write {self.path}: it is a folder")
        if self.path.exists():
            if source.exists() and self.path.samefile(source):
                raise BadInputError(f"{self.path} is the source: name another output")
            if not overwrite:
                raise BadInputError(f"{self.path} exists: name another output or allow overwriting")

    def _discard(self) -> None:
        # Closing writes the file's end, which fails in turn when the disk is full.
        with suppress(Exception):
            if self._container is not None:
                self._container.close()
        self._partial.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            reason = error.strerror or str(error)
            if error.errno in _DISK_FULL:
                raise BadInputError(
                    f"disk full while writing {self.path}: {reason}; free some space or name another folder"
                ) from error
            raise BadInputError(f"can't write {self.path}: {reason}") from error


def _common_unit(time_base: Fraction) -> int:
    """Ticks a second in which the video's times and 48 kHz sound's are whole numbers, if 31 bits will do."""
    unit = lcm(time_base.denominator, 48000)
    return unit if unit < 2**31 else time_base.denominator


def _pixel_format(wanted: str | None, codec: str, height: int, width: int) -> str:
    odd = height % 2 == 1 or width % 2 == 1
    if wanted is None and codec == LOSSLESS:
        return "bgr0"
    if wanted is None and odd:
        log.warning("%dx%d has an odd side: written as yuv444p, which some players refuse", width, height)
        return "yuv444p"
    if wanted is not None and odd and "420" in wanted:
        raise BadInputError(f"{wanted} needs even sides, not {width}x{height}: choose yuv444p")
    return wanted or "yuv420p"
