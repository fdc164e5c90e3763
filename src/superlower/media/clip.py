"""Opening clips and sinks by their path: a video file, or a folder of PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from superlower.errors import BadInputError
from superlower.media import encoders
from superlower.media.base import Clip, Sink
from superlower.media.images import FolderReader, FolderWriter, check_folder
from superlower.media.video_reader import VideoReader
from superlower.media.video_writer import VideoWriter, check_video


def open_clip(
    path: Path | str, *, rate: Fraction = Fraction(25), allow_damaged: bool = False
) -> VideoReader | FolderReader:
    """Open a folder of PNG files, or a video file.

    Args:
        path: the folder or file.
        rate: frames per second of a folder.
        allow_damaged: go on past damage in a video, with warnings.
    """
    if Path(path).is_dir():
        return FolderReader(path, rate=rate)
    return VideoReader(path, allow_damaged=allow_damaged)


def open_sink(
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
) -> Sink:
    """Open what upscaled frames of `clip` go to: a video file, or PNG files where the path has no suffix.

    Args:
        path: "out.mp4" and the like, or a folder.
        clip: where the frames come from; see `VideoWriter` for what is copied of it.
        height, width: of the frames to come.
        codec, crf, pixel_format, options: of a video; see `VideoWriter`.
        overwrite: replace what is there.
        cut: only the clip's first frames are to come.
    """
    target = Path(path)
    if _is_folder(path):
        return FolderWriter(target, clip, height, width, overwrite=overwrite)
    return VideoWriter(
        target,
        clip,
        height,
        width,
        codec=codec,
        crf=crf,
        pixel_format=pixel_format,
        options=options,
        overwrite=overwrite,
        cut=cut,
    )


def check_sink(
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
    """Refuse what `open_sink` would, and write nothing. Only what an encoder makes of `options` isn't known.

    Args: as of `open_sink`.

    Raises:
        BadInputError: as `open_sink`.
    """
    if _is_folder(path):
        check_folder(path, clip.path, overwrite=overwrite)
        return
    check_video(path, clip.path, codec=codec, overwrite=overwrite)
    encoders.pixel_format(pixel_format, codec, height, width)
    encoders.rate_options(codec, crf, options or {})


def _is_folder(path: Path | str) -> bool:
    target = Path(path)
    if target.is_dir() or not target.suffix or str(path).endswith("/"):
        return True
    if target.suffix.lower() == ".png":
        raise BadInputError(f"{target} names one image: name a folder for PNG frames, or a video file")
    return False
