"""The tuning database: measurements of schedules, one a line, in files that are only ever appended to.

    DIR/measurements.jsonl    {"sum": sha256 of the record's bytes, "record": {...}}

A line stands alone: files of two machines are merged by putting them into one folder, and a line that was cut
short by a crash, or that anything else wrote there, is skipped and counted. Needs no TVM.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import msgspec

from superlower.backends.tvm.tuning.ranking import Record, defaults_of, fastest, ranked, target_key
from superlower.errors import BadInputError
from superlower.folders import cache_folder, replacing_file

FOLDER = "SUPERLOWER_TUNING"
"""Environment variable: the database's folder; "off" for none at all, not even the one in the package."""

FILE = "measurements.jsonl"
SHIPPED = Path(__file__).parent / "records"


class _Line(msgspec.Struct, frozen=True):
    sum: str
    record: msgspec.Raw


@dataclass(frozen=True)
class Measurements:
    """What a database holds.

    Attributes:
        records: in the order read, each once.
        skipped: lines that are no records of ours.
    """

    records: tuple[Record, ...]
    skipped: int = 0

    @cached_property
    def _by_task(self) -> dict[tuple[str, str, str], list[Record]]:
        found = defaultdict(list)
        for record in self.records:
            if record.defaults == defaults_of(record.target):
                found[record.task, record.target, record.tvm].append(record)
        return found

    def of(self, task: str, target: str, tvm: str) -> Sequence[Record]:
        """Every measurement of a task for a target by a TVM version, beside the default schedules of now."""
        return self._by_task.get((task, target, tvm), ())

    def best(self, task: str, target: str, tvm: str, threads: int = 0) -> Record | None:
        """The fastest schedule of a task; None if none was measured.

        Args:
            threads: those measured with as many go first, where there are any.
        """
        found = [record for record in self.of(task, target, tvm) if record.seconds]
        same = [record for record in found if record.threads == threads]
        schedules = ranked(same or found)
        return min(schedules[0].records, key=lambda record: record.time) if schedules else None


def default_folder() -> Path | None:
    """$SUPERLOWER_TUNING, else "tuning" in superlower's cache folder; None where it is switched off."""
    asked = os.environ.get(FOLDER)
    if asked == "off":
        return None
    return Path(asked) if asked else cache_folder() / "tuning"


class Store:
    """A database in a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Measurements:
        """Everything in the folder's *.jsonl files.

        Raises:
            BadInputError: a file can't be opened.
        """
        return read_files(sorted(self.folder.glob("*.jsonl")) if self.folder.is_dir() else [])

    def append(self, records: Iterable[Record]) -> None:
        """Add measurements; they are on the disk when this returns.

        Raises:
            BadInputError: the folder can't be written.
        """
        lines = b"".join(map(_line, records))
        if not lines:
            return
        with _reporting(self.folder, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / FILE) as file:
                if (size := file.seek(0, os.SEEK_END)) > 0:
                    file.seek(size - 1)
                    # A writer that was killed left half a line: it must not take this one with it.
                    lines = lines if file.read(1) == b"\n" else b"\n" + lines
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())

    def merge(self, source: Path) -> tuple[int, int, int]:
        """Take over what another database or exported file holds.

        Returns:
            Measurements added, those that were here already, and lines skipped.

        Raises:
            BadInputError: there is no such file or folder, or nothing in it is a measurement.
        """
        if not source.exists():
            raise BadInputError(f"no such file or folder: {source}")
        found = Store(source).read() if source.is_dir() else read_files([source])
        if not found.records:
            raise BadInputError(f"{source} holds no measurements of superlower tune")
        here = set(self.read().records)
        new = [record for record in found.records if record not in here]
        self.append(new)
        return len(new), len(found.records) - len(new), found.skipped

    def prune(self, keep: int, tvm: str | None = None) -> tuple[int, int]:
        """Leave the `keep` fastest schedules of each task on each device, and its default; drop the rest.

        Args:
            tvm: only this version's; None for all.

        Returns:
            Measurements before and after.
        """
        with _reporting(self.folder, "written"), _locked(self.folder / FILE):
            before = self.read()
            kept = fastest([r for r in before.records if tvm in (None, r.tvm)], keep)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".pruned-", delete=False) as aside:
                aside.write(b"".join(map(_line, kept)))
                aside.flush()
                os.fsync(aside.fileno())
            Path(aside.name).replace(self.folder / FILE)
            for other in self.folder.glob("*.jsonl"):
                if other.name != FILE:
                    other.unlink()
        return len(before.records), len(kept)


def export(records: Iterable[Record], file: Path) -> int:
    """Write measurements to a file that `merge` reads; returns how many.

    Raises:
        BadInputError: it can't be written.
    """
    lines = list(map(_line, records))
    with _reporting(file, "written"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file) as aside:
            aside.write_bytes(b"".join(lines))
    return len(lines)


def read_files(files: Iterable[Path]) -> Measurements:
    """The measurements in some files.

    Raises:
        BadInputError: one can't be opened.
    """
    found: dict[Record, None] = {}
    skipped = 0
    for file in files:
        with _reporting(file, "read"):
            content = file.read_bytes()
        for line in content.split(b"\n"):
            if line.strip():
                record = _parsed(line)
                skipped += record is None
                if record is not None:
                    found[record] = None
    return Measurements(tuple(found), skipped)


def in_force(folder: Path | None) -> list[Measurements]:
    """What a build asks, in order: the user's own measurements, then those that ship with the package."""
    return [] if folder is None else [Store(folder).read(), Store(SHIPPED).read()]


def digest(folder: Path | None, target: Mapping[str, object]) -> str:
    """Of all that a build for a target may take from a database; "" where there is nothing."""
    key, whole = target_key(target), hashlib.sha256()
    found = [r for source in in_force(folder) for r in source.records if r.target == key and r.seconds]
    for record in found:
        whole.update(_line(record))
    return whole.hexdigest() if found else ""


def _line(record: Record) -> bytes:
    body = msgspec.json.encode(record)
    return msgspec.json.encode(_Line(_sum(body), msgspec.Raw(body))) + b"\n"


def _parsed(line: bytes) -> Record | None:
    try:
        found = msgspec.json.decode(line, type=_Line)
        body = bytes(found.record)
        return msgspec.json.decode(body, type=Record) if _sum(body) == found.sum else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _sum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """A file to append to, which nobody else writes or replaces meanwhile."""
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever pruned while this one waited has put another file in its place.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


@contextmanager
def _reporting(path: Path, verb: str) -> Iterator[None]:
    """Turn what the file system refuses into an error for the user."""
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"tuning database {path} can't be {verb}: {error.strerror or error}; give another folder by --db"
        ) from error
