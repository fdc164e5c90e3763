"""A folder of PNG files as a clip, in and out."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from superlower.errors import BadInputError
from superlower.media.base import Clip, ClipFrame, Image
from superlower.media.color import Color

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FolderReader:
    """The PNG files of a folder, in natural order (2.png before 10.png), 8 or 16 bits a colour.

    Gray and palette files come out as RGB; transparency is refused, for no model knows what to make of it.

    Args:
        path: the folder; files that aren't .png are passed over.
        rate: frames per second, for a video made of them.

    Raises:
        BadInputError: no such folder, no PNG in it, files that aren't images or of several sizes.
    """

    color: Color | None = None
    sample_aspect_ratio = Fraction(1)

    def __init__(self, path: Path | str, *, rate: Fraction = Fraction(25)) -> None:
        self.path = Path(path)
        self.rate = rate
        self.time_base = 1 / rate
        if not self.path.is_dir():
            raise BadInputError(f"there is no folder {self.path}")
        self._files = sorted(
            (file for file in self.path.iterdir() if file.suffix.lower() == ".png"),
            key=lambda file: natural_key(file.name),
        )
        if not self._files:
            raise BadInputError(f"{self.path} holds no .png files")
        self.frames: int | None = len(self._files)
        self.height, self.width = read_png(self._files[0]).shape[:2]

    def __iter__(self) -> Iterator[ClipFrame]:
        for index, file in enumerate(self._files):
            rgb = read_png(file)
            if rgb.shape[:2] != (self.height, self.width):
                raise BadInputError(
                    f"{file} is {rgb.shape[1]}x{rgb.shape[0]} where {self._files[0].name} is "
                    f"{self.width}x{self.height}: a clip's frames must be of one size"
                )
            yield ClipFrame(rgb, index, index, self.time_base, 1, file.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FolderWriter:
    """Writes frames as PNG files, 8 or 16 bits as they come: named as the source's, or 00000001.png and on.

    Files gather in a hidden folder beside the target and move into place when the `with` block ends well;
    after an error or Ctrl-C that folder is removed. Files that were in the target are never removed; with
    `overwrite` those of the same names are replaced.

    Args:
        path: the folder; made if it isn't there.
        clip: where the frames come from.
        height, width: of the frames to come.
        overwrite: write into a folder that holds something.
    """

    def __init__(
        self, path: Path | str, clip: Clip, height: int, width: int, *, overwrite: bool = False
    ) -> None:
        check_folder(path, clip.path, overwrite=overwrite)
        self.path = Path(path)
        self._shape = (height, width, 3)
        try:
            self._aside = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.partial-", dir=self.path.parent))
        except OSError as error:
            raise self._failed(error) from error

    @property
    def bits(self) -> int:
        """Bits a colour it can hold."""
        return 16

    def write(self, rgb: Image, source: ClipFrame) -> None:
        """Write uint8 or uint16 [height, width, 3] as the file of `source`."""
        if rgb.shape != self._shape:
            raise BadInputError(f"{self.path} takes frames of {list(self._shape)}, not {list(rgb.shape)}")
        try:
            write_png(self._aside / (source.name or f"{source.index + 1:08d}.png"), rgb)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._move()
        except OSError as failed:
            raise self._failed(failed) from failed
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _move(self) -> None:
        # mkdtemp makes a folder that only its owner can read.
        self._aside.chmod(_default_mode())
        if not self.path.exists() or not any(self.path.iterdir()):
            self._aside.replace(self.path)
            return
        for file in self._aside.iterdir():
            file.replace(self.path / file.name)

    def _failed(self, error: OSError) -> BadInputError:
        reason = error.strerror or str(error)
        if error.errno in _DISK_FULL:
            return BadInputError(
                f"disk full while writing {self.path}: {reason}; free some space or name another folder"
            )
        return BadInputError(f"can't write {self.path}: {reason}")


def check_folder(path: Path | str, source: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that frames can't be written to.

    Args:
        path: the folder to be.
        source: where the frames come from.
        overwrite: `path` may hold something.

    Raises:
        BadInputError: `path` is a file, the source or not empty, or there is no folder to make it in.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise BadInputError(f"can't write frames to {path}: it is a file")
    if path.exists() and source.exists() and path.samefile(source):
        raise BadInputError(f"{path} is the source: name another output")
    if path.exists() and not overwrite and any(path.iterdir()):
        raise BadInputError(f"{path} isn't empty: name another folder or allow overwriting (--overwrite)")
    if not path.parent.is_dir():
        raise BadInputError(f"can't write {path}: there is no folder {path.parent}")


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Orders names by the numbers in them: "f2" before "f10", digits before letters."""
    parts = re.findall(r"\d+|\D+", name)
    return (*((int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts), (-2, name))


def read_png(file: Path) -> Image:
    """A PNG file as uint8 [H, W, 3], or uint16 where it has 16 bits a colour.

    Raises:
        BadInputError: the file can't be read, is no PNG, or is transparent.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(file, formats=["PNG"]) as image:
            deep = _bits(image) == 16
            if image.mode in ("LA", "RGBA") or "transparency" in image.info:
                raise BadInputError(f"{file} is partly transparent: flatten it first")
            if not deep:
                return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or "it is no whole PNG image"
        raise BadInputError(f"can't read {file}: {reason}") from error
    return _deep(file)


def write_png(file: Path, rgb: Image) -> None:
    """uint8 or uint16 [H, W, 3] as a PNG file of 8 or 16 bits a colour."""
    from PIL import Image as Pillow

    if rgb.dtype == np.uint8:
        Pillow.fromarray(np.ascontiguousarray(rgb)).save(file, "PNG", compress_level=3)
    else:
        file.write_bytes(_encoded(rgb))


def _bits(image: Any) -> int:
    # Pillow cuts 16-bit colour to 8 bits without a word: only the raw mode tells ("RGB;16B", "I;16B").
    return 16 if any("16" in str(tile.args) for tile in image.tile) else 8


def _deep(file: Path) -> Image:
    import av

    try:
        with av.open(f"file:{file}") as container:
            frame = next(container.decode(video=0))
            if frame.format.name.startswith("gray"):
                gray = frame.to_ndarray(format="gray16le")
                return np.repeat(gray[..., None], 3, axis=2)
            return np.asarray(frame.to_ndarray(format="rgb48le"), np.uint16)
    except (av.FFmpegError, StopIteration) as error:
        raise BadInputError(f"can't read {file}: it is no whole PNG image") from error


def _encoded(rgb: Image) -> bytes:
    import av

    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = rgb.shape[:2]
    codec.pix_fmt = "rgb48be"
    codec.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb48le").reformat(format="rgb48be")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def _default_mode() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return 0o777 & ~mask
