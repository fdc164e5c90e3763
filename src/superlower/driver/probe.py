"""Runs probes through a backend: each operator is built as it stands, run where it can be, held to float64.

Many cases share one process, for an SDK takes seconds to import; one that crashes or hangs costs its own case
and a new process for the rest.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

import superlower
from superlower.backends import tables
from superlower.backends.base import Backend
from superlower.backends.process import build_in_subprocess
from superlower.backends.sdk import require, require_served
from superlower.driver import probe_child
from superlower.driver.probe_child import Entry
from superlower.driver.progress import Progress, Silent
from superlower.errors import BadInputError, BuildFailedError, MissingSdkError, SuperlowerError
from superlower.ir import save
from superlower.probes.case import Arrays, Case
from superlower.probes.tables import Result, Table, Verdict, write
from superlower.targets import catalog
from superlower.targets.base import Precision, Target

SEED = 20
"""Of the inputs: the same for every SDK, so that tables can be compared."""

LIMIT_S = 120.0
"""Seconds one case may take, a first import of its SDK included."""

OnCase = Callable[[str], None]

_POLL_S = 0.2


def run_probes(
    backend: Backend,
    target: Target,
    cases: Sequence[Case],
    on_case: OnCase | None = None,
    *,
    limit_s: float = LIMIT_S,
    legalize: bool = False,
) -> Table:
    """What a backend does with each case on a target, as a table.

    Operators are built exactly as given, without passes and without superlower's own refusals
    (`BuildOptions.raw`); they are run where the target's engines run on this machine.

    Args:
        backend: its class must be importable by name, for a process of its own.
        target: served in fp32.
        cases: of distinct names.
        on_case: called with a case's name when its answer is known, from another thread.
        limit_s: seconds one case may take.
        legalize: build as `compile` does instead: after the backend's own passes, with its own refusals.

    Raises:
        MissingSdkError: the SDK isn't here, or what it needs to build for the target.
        BadInputError: the backend doesn't serve the target.
        BuildFailedError: the process died without beginning a case.
    """
    require(backend)
    require_served(backend, target, Precision.FP32)
    runs = backend.runnable(target) is None
    with tempfile.TemporaryDirectory(prefix="superlower-probes-") as place:
        workdir = Path(place)
        feeds = {f"{i:04d}": _write(case, workdir / f"{i:04d}") for i, case in enumerate(cases)}
        by_folder = dict(zip(feeds, cases, strict=True))
        names = {folder: case.name for folder, case in by_folder.items()}
        with _told(workdir / probe_child.JOURNAL, names, on_case):
            request = probe_child.Request(
                backend=f"{type(backend).__module__}:{type(backend).__qualname__}",
                target=target,
                folders=tuple(feeds),
                limit_s=limit_s,
                run=runs,
                legalize=legalize,
            )
            entries = _answers(backend.name, request, workdir)
        results = [
            _result(case, feeds[folder], entries[folder], workdir / folder)
            for folder, case in by_folder.items()
        ]
    return Table(
        backend=backend.name,
        target=tables.architecture(target),
        sdk=dict(backend.versions()),
        source="probed",
        superlower=superlower.__version__,
        machine=target.title if runs else "",
        results=tuple(results),
    )


def _write(case: Case, folder: Path) -> Arrays:
    folder.mkdir()
    save(case.model(), folder / probe_child.MODEL)
    feeds = case.feeds(np.random.default_rng(SEED))
    probe_child.save_arrays(folder / probe_child.FEEDS, feeds)
    return feeds


@contextmanager
def _told(journal: Path, names: Mapping[str, str], on_case: OnCase | None) -> Iterator[None]:
    """Calls `on_case` for each answer as it reaches the journal."""
    done = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        for folder, entry in probe_child.read_journal(journal).items():
            if not entry.pending and folder not in seen:
                seen.add(folder)
                if on_case is not None:
                    on_case(names[folder])

    def watch() -> None:
        while not done.wait(_POLL_S):
            look()

    watcher = threading.Thread(target=watch, name="superlower-probes", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        look()


def _answers(title: str, request: probe_child.Request, workdir: Path) -> dict[str, Entry]:
    """The journal's entries; one is left pending for each case that killed its process."""
    while True:
        known = probe_child.read_journal(workdir / probe_child.JOURNAL)
        left = tuple(folder for folder in request.folders if folder not in known)
        if not left:
            return known
        rest = msgspec.structs.replace(request, folders=left)
        try:
            build_in_subprocess(
                f"{probe_child.__name__}:run",
                cast(dict[str, object], msgspec.to_builtins(rest)),
                workdir,
                backend=title,
                timeout_s=request.limit_s * (len(left) + 1),
            )
        except BuildFailedError:
            begun = probe_child.read_journal(workdir / probe_child.JOURNAL)
            if len(begun) == len(known):
                raise  # It died of something else than a case, and would again.


def _result(case: Case, feeds: Arrays, entry: Entry, folder: Path) -> Result:
    verdict, error, detail = _verdict(case, feeds, entry, folder)
    return Result(
        case=case.name,
        key=str(case.key()),
        verdict=verdict,
        error=error,
        tolerance=float(f"{case.tolerance.absolute:.3g}"),
        detail=detail,
        large=case.large,
        corner=case.corner,
    )


def _verdict(case: Case, feeds: Arrays, entry: Entry, folder: Path) -> tuple[Verdict, float | None, str]:
    if entry.pending:
        return Verdict.CRASHED, None, "the SDK crashes on it, or never ends"
    if entry.refused:
        return Verdict.REFUSED, None, entry.refused
    if entry.failed:
        return Verdict.FAILED, None, entry.failed
    if not entry.ran:
        return Verdict.BUILT, None, entry.unfed
    outputs = probe_child.load_arrays(folder / probe_child.OUTPUTS)
    error = case.error(feeds, outputs)
    if not isfinite(error):
        # JSON has no infinity, and the reason says more.
        return Verdict.WRONG, None, _unlike(case.expected(feeds), outputs)
    right = error <= case.tolerance.absolute
    return (Verdict.RIGHT if right else Verdict.WRONG), float(f"{error:.3g}"), ""


def _unlike(expected: Arrays, outputs: Arrays) -> str:
    for name, wanted in expected.items():
        if name not in outputs:
            return f"no output '{name}'"
        if outputs[name].shape != wanted.shape:
            return f"output '{name}' is {list(outputs[name].shape)}, not {list(wanted.shape)}"
    return "not finite where the reference is"


PROBED: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("cpu",),
    "openvino": ("cpu",),
    "tvm": ("cpu", "rtx3090"),
}
"""Backend -> targets worth a table of their own; of the others each architecture they build for.

ONNX Runtime and OpenVINO build nothing for a device that isn't there; TVM's importer and code generator for
CUDA take the same for every architecture.
"""


def probed_targets(backend: Backend) -> list[Target]:
    """The targets that a backend is probed for here, one of each architecture that it builds for in fp32."""
    known = catalog.targets()
    if backend.name in PROBED:
        known = [target for target in known if target.name in PROBED[backend.name]]
    found = {tables.architecture(t): t for t in reversed(known) if backend.serves(t, Precision.FP32) is None}
    return list(reversed(found.values()))


@dataclass(frozen=True)
class Refreshed:
    """What came of probing one backend for one target.

    Attributes:
        path: of the table that was written; None if none was.
        reason: why none was.
        verdicts: verdict -> number of cases.
    """

    backend: str
    target: str
    path: Path | None
    reason: str = ""
    verdicts: Mapping[str, int] = field(default_factory=dict)


def refresh(
    backends: Sequence[Backend],
    folder: Path,
    cases: Sequence[Case],
    progress: Progress | None = None,
) -> list[Refreshed]:
    """Probe backends for every architecture they build for here, and write a table of each.

    Args:
        backends: those whose SDK is absent are left out, and said to be.
        folder: where the tables go, made if it isn't there.
        cases: the probes.

    Raises:
        BadInputError: the folder can't be written.
    """
    progress = progress or Silent()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadInputError(
            f"can't write probe tables to {folder}: {error.strerror}; choose another folder with --tables"
        ) from error
    found = []
    for backend in backends:
        if (reason := backend.missing()) is not None:
            found.append(Refreshed(backend.name, "", None, reason))
            continue
        for target in probed_targets(backend):
            where = tables.architecture(target)
            progress.stage(f"probing {backend.name} for {where}", len(cases))
            try:
                table = run_probes(backend, target, cases, progress.advance)
            except SuperlowerError as error:
                found.append(Refreshed(backend.name, where, None, str(error)))
                continue
            path = folder / tables.file_name(backend.name, where)
            write(table, path)
            counts = Counter(str(result.verdict) for result in table.results)
            found.append(Refreshed(backend.name, where, path, "", counts))
    return found


def require_written(found: Sequence[Refreshed]) -> None:
    """Probing that wrote no table at all is an error.

    Raises:
        MissingSdkError: with each backend's reason.
    """
    if all(one.path is None for one in found):
        raise MissingSdkError(f"nothing could be probed: {'; '.join(dict.fromkeys(f.reason for f in found))}")
