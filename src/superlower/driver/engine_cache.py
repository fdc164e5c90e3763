"""Engines that were built before, by the content they were built of.

    $SUPERLOWER_CACHE/engines/KEY/entry.json
    $SUPERLOWER_CACHE/engines/KEY/files/...

The key is a digest of all that a build depends on, so an entry never grows stale; it only ceases to be asked
for. What was used longest ago is removed where the folder grows over its limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec
import onnx_ir as ir

import superlower
from superlower.backends.base import Artifact, Backend, BuildOptions, build_inputs
from superlower.bundle.manifest import FileRecord, record
from superlower.folders import cache_folder
from superlower.ir import clone, digest
from superlower.targets.base import Target
from superlower.targets.detect import cpu_flags

log = logging.getLogger(__name__)

LIMIT_BYTES = 10 * 10**9
ENTRY, FILES = "entry.json", "files"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """entry.json.

    Attributes:
        artifact: as the build left it.
        files: path -> size and digest.
        made_of: what the key is the digest of.
        created: seconds since 1970.
    """

    artifact: Artifact
    files: dict[str, FileRecord]
    made_of: dict[str, str]
    created: float

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files.values())


@dataclass
class EngineCache:
    """A folder of engines, which any number of processes may use at a time.

    Attributes:
        folder: where they lie.
        limit_bytes: largest sum of their files; the newest stays, whatever its size.
        hits, built: engines that were found, and that were not, by this object.
    """

    folder: Path
    limit_bytes: int = LIMIT_BYTES
    hits: int = 0
    built: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def default(limit_bytes: int = LIMIT_BYTES) -> EngineCache:
        """In the user's cache folder."""
        return EngineCache(cache_folder() / "engines", limit_bytes)

    def compile(
        self, backend: Backend, model: ir.Model, target: Target, options: BuildOptions, workdir: Path
    ) -> Artifact:
        """As `Backend.compile`, or the same from the cache. A damaged entry is built anew.

        Raises:
            SuperlowerError: as the backend's; failures aren't kept.
        """
        made_of = ingredients(backend, model, target, options)
        key = hashlib.sha256(msgspec.json.encode(made_of, order="sorted")).hexdigest()
        found = self._take(key, workdir)
        with self._lock:
            self.hits += found is not None
            self.built += found is None
        if found is not None:
            return found
        artifact = backend.compile(model, target, options, workdir)
        try:
            self._keep(key, made_of, artifact, workdir)
        except OSError as error:
            log.warning("the engine isn't kept for the next time: %s", error)
        return artifact

    def entries(self) -> list[tuple[Path, Entry, float]]:
        """Folder, entry and time of last use, the latest first; unreadable ones are left out."""
        found = []
        for path in self.folder.glob(f"*/{ENTRY}"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append((path.parent, _read(path), path.stat().st_mtime))
        return sorted(found, key=lambda one: -one[2])

    def trim(self, limit_bytes: int | None = None) -> int:
        """Remove what was used longest ago until the limit is kept; how many were removed."""
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        kept = removed = 0
        for place, (folder, entry, _) in enumerate(self.entries()):
            kept += entry.bytes
            if kept > limit and (place or limit_bytes is not None):
                kept -= entry.bytes
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed

    def _take(self, key: str, workdir: Path) -> Artifact | None:
        place = self.folder / key
        if not (place / ENTRY).is_file():
            return None
        try:
            entry = _read(place / ENTRY)
            for name, expected in entry.files.items():
                if record(place / FILES / name) != expected:
                    raise ValueError(f"{name} was altered")
            for name in entry.files:
                target = workdir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place / FILES / name, target)
            os.utime(place / ENTRY)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log.warning("a damaged engine in the cache is built anew: %s: %s", place, error)
            shutil.rmtree(place, ignore_errors=True)
            return None
        return entry.artifact

    def _keep(self, key: str, made_of: dict[str, str], artifact: Artifact, workdir: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        try:
            for name in artifact.files.values():
                target = aside / FILES / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(workdir / name, target)
            files = {name: record(aside / FILES / name) for name in artifact.files.values()}
            entry = Entry(artifact=artifact, files=files, made_of=made_of, created=time.time())
            (aside / ENTRY).write_bytes(msgspec.json.encode(entry))
            with contextlib.suppress(OSError):  # Another process was faster.
                aside.rename(self.folder / key)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.trim()


def _read(path: Path) -> Entry:
    return msgspec.json.decode(path.read_bytes(), type=Entry)


def ingredients(backend: Backend, model: ir.Model, target: Target, options: BuildOptions) -> dict[str, str]:
    """All that a build's result depends on, by name; the time limit isn't of it."""
    where = msgspec.structs.replace(target, memory_gb=None, notes=()) if target.kind == "cpu" else target
    asked = {
        "precision": str(options.precision),
        "mode": options.mode,
        "threads": options.threads,
        "calls": options.calls,
        "memory_bytes": options.memory_bytes,
        "stateful": options.stateful,
        "settings": dict(sorted(options.settings.items())),
        "raw": options.raw,
    }
    return {
        "superlower": f"{superlower.__version__} {own_code()}",
        "backend": backend.name,
        "plug-in": _plugin_code(type(backend)),
        "graph": digest(clone(model)),
        "target": msgspec.json.encode(where, order="sorted").decode(),
        "options": msgspec.json.encode(asked).decode(),
        # Machine code, and choices of kernels, for what a build finds here.
        "processor": " ".join(sorted(cpu_flags())) if target.kind == "cpu" else "",
        **{f"version of {name}": version for name, version in sorted(backend.versions().items())},
        **{f"input {name}": value for name, value in sorted(build_inputs(backend, target, options).items())},
    }


@cache
def own_code() -> str:
    """Digest of superlower's own source and tables: between releases a version says nothing of them."""
    folder = Path(superlower.__file__).parent
    return _digest(p for p in sorted(folder.rglob("*")) if p.suffix in (".py", ".json", ".toml"))


@cache
def _plugin_code(kind: type) -> str:
    if kind.__module__.startswith(f"{superlower.__name__}."):
        return ""
    file = inspect.getsourcefile(kind)
    return f"{kind.__module__}:{kind.__qualname__} {_digest([Path(file)]) if file else ''}"


def _digest(files: Iterator[Path] | list[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
