"""Folders and files that superlower writes: whole or not at all, folders never over what isn't its own."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from superlower.errors import BadInputError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """$SUPERLOWER_CACHE, else $XDG_CACHE_HOME/superlower, else ~/.cache/superlower."""
    if own := os.environ.get("SUPERLOWER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "superlower"


@contextmanager
def replacing(folder: Path, kind: str, written: Callable[[Path], Collection[str] | None]) -> Iterator[Path]:
    """A folder to write in: takes its final name when the block ends well, else it is removed.

    It lies beside the final name, as an absolute path: builds run in processes with working folders of their
    own. What had the name before keeps it until the new folder can take it, and has it back if that fails.

    Args:
        folder: the final name.
        kind: what the folder is, in words for errors: "bundle".
        written: for a folder that has the name: the files that superlower wrote there, relative to it; None
            if it is of another kind. May raise BadInputError.

    Raises:
        BadInputError: the name is taken by another kind of thing, by a folder with files of the user's own,
            or by the working folder; or it can't be written, or the disk is full.
    """
    folder = folder.resolve()
    _refuse(folder, kind, written)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BadInputError(f"can't write {folder}: {error.strerror}; choose another output") from error
    before = aside.with_name(f"{aside.name}.before")
    try:
        yield aside
        aside.chmod(0o755)
        # Again: the block may have taken an hour, and files put there meanwhile are the user's.
        _refuse(folder, kind, written)
        _swap(aside, folder, before)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise BadInputError(
            f"disk full while writing {folder}: {error.strerror}; free some space or choose another output"
        ) from error
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path to write at: what is there takes the final name when the block ends well, else it is removed.

    It lies beside the final name and ends as that does; no other process or thread has it.

    Raises:
        OSError: it can't be renamed.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _swap(aside: Path, folder: Path, before: Path) -> None:
    try:
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
    except OSError as error:
        raise BadInputError(f"can't replace {folder}: {error.strerror}; choose another output") from error


def _refuse(folder: Path, kind: str, written: Callable[[Path], Collection[str] | None]) -> None:
    if not folder.exists():
        return
    here = Path.cwd()
    if folder == here or folder in here.parents:
        # Renamed away, it would leave the user's shell in a folder that is no more.
        raise BadInputError(f"{folder} is the folder you work in, or holds it: choose another output")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    own = written(folder) if folder.is_dir() else None
    if own is None:
        raise BadInputError(f"{folder} exists and is no {kind}: choose another output")
    present = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    foreign = sorted({p.relative_to(folder).as_posix() for p in present} - set(own))
    if foreign:
        raise BadInputError(
            f"{folder} holds {foreign[0]}, which superlower didn't write: move it away or choose another "
            f"output"
        )
