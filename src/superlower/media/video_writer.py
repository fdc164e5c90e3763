"""Video files out, through PyAV."""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from math import lcm
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from superlower.errors import BadInputError
from superlower.media import encoders
from superlower.media.base import Clip, ClipFrame, Image
from superlower.media.color import Converter, output_color
from superlower.media.passthrough import Passthrough
from superlower.media.video_reader import VideoReader

log = logging.getLogger(__name__)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_TIMES = 0x80  # AVFMT_NOTIMESTAMPS


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
        cut: only the clip's first frames are to come: the other streams and chapters end with the last one.

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
        cut: bool = False,
    ) -> None:
        check_video(path, clip.path, codec=codec, overwrite=overwrite)
        self.path = Path(path)
        self._size = (height, width)
        self._partial = self.path.with_name(f".{self.path.name}.partial-{secrets.token_hex(4)}")
        self._container: Any = None
        self._time_base = clip.time_base
        self._frames = 0
        self._last: int | None = None
        self._cut = cut
        self._end = Fraction(0)
        self._color = output_color(clip.color, height, width)
        self._converter = Converter(self._color)
        self._pixel_format = encoders.pixel_format(pixel_format, codec, height, width)
        rate = encoders.rate_options(codec, crf, options or {})
        with ExitStack() as stack, self._errors():
            stack.callback(self._discard)
            self._container = self._create()
            self._stream = self._video_stream(codec, clip, {**rate, **(options or {})})
            self._passthrough: Passthrough | None = None
            if isinstance(clip, VideoReader):
                self._passthrough = stack.enter_context(Passthrough(clip.path, cut=cut))
                self._passthrough.attach(self._container)
                self._stream.metadata.update(self._passthrough.video_metadata())
            encoders.start(self._container, self._stream, codec, options or {})
            self._undo = stack.pop_all()

    @property
    def bits(self) -> int:
        """Bits a colour it can hold."""
        return 8

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
            self._end = (frame.pts + source.duration) * source.time_base
            self._frames += 1
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
        with encoders.quiet():
            codec = self._stream.codec_context.name
            self._mux(encoders.in_decoding_order(self._stream.encode(None), codec, self._frames))
            if self._passthrough is not None:
                self._passthrough.finish(self._end if self._cut else None)
            self._container.close()
            # libx265 reports once more when it is freed.
            self._container = self._stream = self._passthrough = None
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

        name = _container_format(self.path).name
        exact = {}
        if name in ("mp4", "mov", "ipod"):
            # Edit lists count in this unit. FFmpeg's default, milliseconds, can cut the last frame off.
            exact["movie_timescale"] = str(_common_unit(self._time_base))
        return av.open(f"file:{self._partial}", "w", format=name, container_options=exact)

    def _video_stream(self, codec: str, clip: Clip, options: dict[str, str]) -> Any:
        import av
        from av.codec.context import Flags

        try:
            stream = self._container.add_stream(codec, rate=clip.rate, options=options)
        except ValueError as error:
            hint = "; name the output .mkv" if codec == encoders.LOSSLESS else ""
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

    def _discard(self) -> None:
        # Closing writes the file's end, which fails in turn when the disk is full.
        with suppress(Exception), encoders.quiet():
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


def check_video(path: Path | str, source: Path, *, codec: str, overwrite: bool) -> None:
    """Refuse, before anything is computed, a target that can't be written.

    Args:
        path: the file to be.
        source: where the frames come from.
        codec: an FFmpeg encoder.
        overwrite: `path` may exist.

    Raises:
        BadInputError: no such folder or encoder, a suffix that is no video container, or `path` is taken.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInputError(f"can't write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise BadInputError(f"can't write {path}: it is a folder")
    if path.exists():
        if source.exists() and path.samefile(source):
            raise BadInputError(f"{path} is the source: name another output")
        if not overwrite:
            raise BadInputError(f"{path} exists: name another output or allow overwriting (--overwrite)")
    _container_format(path)
    encoders.check_codec(codec)


def _container_format(path: Path) -> Any:
    import av

    try:
        found = av.open(f"file:{path}", "w").format
    except (ValueError, av.FFmpegError) as error:
        raise BadInputError(
            f"'{path.suffix}' is no video container that FFmpeg writes: name the output .mp4 or .mkv"
        ) from error
    if found.flags & _NO_TIMES or found.name == "avi":
        raise BadInputError(
            f"a {found.name} file can't hold the times of frames: name the output .mp4 or .mkv"
        )
    return found


def _common_unit(time_base: Fraction) -> int:
    """Ticks a second in which the video's times and 48 kHz sound's are whole numbers, if 31 bits will do."""
    unit = lcm(time_base.denominator, 48000)
    return unit if unit < 2**31 else time_base.denominator
