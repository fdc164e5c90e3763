"""Many models compiled alike, each in a process of its own; what was done before isn't done again.

OUTPUT/matrix.json    the report, written anew after each model
OUTPUT/MODEL/         a bundle each
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import msgspec

import superlower
from superlower import jsontext
from superlower.backends.base import BuildOptions, build_inputs
from superlower.backends.registry import backends
from superlower.bundle.bundle import Bundle
from superlower.driver.building import own_settings
from superlower.driver.engine_cache import own_code
from superlower.errors import BadInputError
from superlower.folders import replacing_file
from superlower.targets.base import Target
from superlower.targets.catalog import target
from superlower.targets.detect import cpu_flags

REPORT = "matrix.json"
FORMAT = 1
_POLL_S = 0.2
_GRACE_S = 30.0
"""Seconds that a process may take to clear up after it was asked to end."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of one model, or why there is none.

    Attributes:
        variant: its name.
        backend, target, precision: of the variant; empty where there is none.
        max_abs, tolerance: largest error over the golden clip, and what is accepted; None where it wasn't
            run or there is none.
        floor_db: least mean PSNR asked for in the place of `tolerance`.
        build_s: seconds that its engines took when they were built.
        bytes: of its files.
        failed: why there is none.
        note: why it wasn't run here.
    """

    variant: str
    backend: str = ""
    target: str = ""
    precision: str = ""
    max_abs: float | str | None = None
    tolerance: float | None = None
    floor_db: float | None = None
    build_s: float = 0.0
    bytes: int = 0
    failed: str = ""
    note: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        model: as it was given.
        key: digest of all that its bundle depends on.
        exit_code: of its compile; None if it was not run to its end.
        error: what it ended with, in a line.
        cells: its variants.
        checksum: its bundle's; empty if there is none.
        built, found: engines that were built, and taken from the cache.
        seconds: it took.
        kept: whether the bundle was there already, and was left as it was.
    """

    model: str
    key: str
    exit_code: int | None = None
    error: str = ""
    cells: tuple[Cell, ...] = ()
    checksum: str = ""
    built: int = 0
    found: int = 0
    seconds: float = 0.0
    kept: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """matrix.json: bundle's name -> its row, in the order asked for."""

    superlower: str
    machine: str
    rows: dict[str, Row]
    format: int = FORMAT

    @property
    def failures(self) -> dict[str, Row]:
        """Models whose compile failed."""
        return {name: row for name, row in self.rows.items() if row.exit_code}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a compile's process left: exit code, its JSON document, the last line of its messages."""

    code: int
    document: bytes
    message: str


def names(models: Sequence[Path]) -> dict[str, Path]:
    """Bundle's name -> model: the folder's or file's own name.

    Raises:
        BadInputError: two models of one name.
    """
    found: dict[str, Path] = {}
    for model in models:
        name = model.resolve().stem if model.is_file() else model.resolve().name
        if name in found:
            raise BadInputError(
                f"{found[name]} and {model} would both become {name} in the output: rename one of them"
            )
        found[name] = model
    return found


def key_of(
    model: Path, inputs: Iterable[Path], options: str, targets: Sequence[Target], settings: Mapping[str, str]
) -> str:
    """Digest of all that a model's bundle depends on.

    Args:
        model: program folder or ONNX file.
        inputs: further files and folders that are read.
        options: of the compile, in words.
        targets: to compile for.
        settings: of backends and passes (`--set`), which may name what is read besides.
    """
    sdks = {sdk.name: sdk for sdk in backends() if sdk.missing() is None}
    about = {
        "superlower": f"{superlower.__version__} {own_code()}",
        "options": options,
        "files": [[_digest(file) for file in _files(path)] for path in (model, *inputs)],
        "versions": {name: sdk.versions() for name, sdk in sdks.items()},
        "inputs": {
            f"{name} {where.name}": build_inputs(
                sdk, where, BuildOptions(settings=own_settings(sdk, settings))
            )
            for name, sdk in sdks.items()
            for where in targets
        },
        "machine": f"{target('cpu').title} {' '.join(sorted(cpu_flags()))}",
    }
    return hashlib.sha256(msgspec.json.encode(about, order="sorted")).hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        return f"{file} {error.strerror}"  # The compile will say so.


def read_report(folder: Path) -> Report | None:
    """The report of the last time; None if there is none that can be read."""
    try:
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None


def write_report(folder: Path, report: Report) -> None:
    """Write matrix.json, aside first."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_file(folder / REPORT) as aside:
        aside.write_bytes(msgspec.json.format(jsontext.encode(report), indent=2) + b"\n")


def standing(folder: Path, before: Row | None, key: str) -> Row | None:
    """The row of a bundle that is as this compile would make it, and whole; None if there is none."""
    if before is None or before.key != key or before.exit_code != 0:
        return None
    try:
        bundle = Bundle.open(folder)
    except BadInputError:
        return None
    if bundle.manifest.checksum != before.checksum:
        return None
    return msgspec.structs.replace(before, kept=True, built=0, found=0, seconds=0.0)


def run_all(
    commands: Mapping[str, Sequence[str]],
    at_once: int,
    *,
    keep_going: bool,
    on_done: Callable[[str, Outcome, float], None],
) -> None:
    """Run a process for each name, some at a time; a failure starts no further ones unless `keep_going`.

    Those that still run are asked to end then, and so they are if this thread is interrupted.

    Args:
        commands: name -> command line.
        on_done: told of each that came to its end by itself: name, outcome, seconds.
    """
    children: dict[str, subprocess.Popen[bytes]] = {}
    stopping: list[bool] = []

    def run(name: str, command: Sequence[str]) -> tuple[Outcome, float] | None:
        if stopping:
            return None
        began = time.monotonic()
        # A session of its own: a Ctrl-C of the terminal comes through this process, once.
        child = children[name] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        document, messages = child.communicate()
        if child.returncode and not keep_going:
            stopping.append(True)
        lines = messages.decode(errors="replace").strip().splitlines()
        return (
            Outcome(code=child.returncode, document=document, message=lines[-1] if lines else ""),
            time.monotonic() - began,
        )

    with ThreadPoolExecutor(at_once, thread_name_prefix="compile") as pool:
        futures: dict[Future[tuple[Outcome, float] | None], str] = {
            pool.submit(run, name, command): name for name, command in commands.items()
        }
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                for future in done:
                    if (ended := future.result()) is None:
                        continue
                    on_done(futures[future], *ended)
                    if ended[0].code and not keep_going:
                        return
        finally:
            stopping.append(True)
            pool.shutdown(wait=False, cancel_futures=True)
            _end(children.values())


def _end(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and kill those that don't."""
    running = [child for child in list(children) if child.poll() is None]
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
    deadline = time.monotonic() + _GRACE_S
    for child in running:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
