"""The child side of probing: many models built and run in one process, every answer on disk at once."""

from __future__ import annotations

import faulthandler
import importlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.backends.base import Backend, BuildOptions
from superlower.backends.process import building_here
from superlower.errors import MissingSdkError, SuperlowerError
from superlower.ir import infer_shapes, load
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

JOURNAL = "journal.jsonl"
MODEL, FEEDS, OUTPUTS, WORK = "model.onnx", "feeds.npz", "outputs.npz", "work"

Array = NDArray[np.generic]

_FED = frozenset(
    ir.DataType[name] for name in ("FLOAT", "FLOAT16", "DOUBLE", "UINT8", "INT8", "INT32", "INT64", "BOOL")
)
"""Types that every session takes and gives as numpy's own."""

_ABOUT = re.compile(r"^.*? at node '[^']*'(?: \(and \d+ more\))?: ")
_LISTED = re.compile(r"^.* refuses 1 node\(s\): \S+(?: at node \S+)? \((.*)\); rewrite them, or see .*$")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to probe.

    Attributes:
        backend: "module:Class".
        folders: one a case, with its model and feeds.
        limit_s: seconds one case may take; the process ends itself when one takes longer.
        run: whether engines for the target run on this machine.
        legalize: build what the backend's own passes make of each model, with the backend's own refusals.
    """

    backend: str
    target: Target
    folders: tuple[str, ...]
    limit_s: float
    run: bool
    legalize: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the journal: a case is begun (`pending`), or what came of it.

    Attributes:
        folder: of the case.
        refused: the SDK's reason; "" if it built.
        failed: the reason of an error when it was run.
        unfed: why it was built and couldn't be fed or read, where engines do run here.
        ran: whether `OUTPUTS` holds what it computed.
    """

    folder: str
    pending: bool = False
    refused: str = ""
    failed: str = ""
    unfed: str = ""
    ran: bool = False


def read_journal(path: Path) -> dict[str, Entry]:
    """The last line of each case, by folder; a case left pending is the one its process died of."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    whole = (line for line in lines if line.endswith(b"\n"))
    return {entry.folder: entry for entry in (msgspec.json.decode(line, type=Entry) for line in whole)}


def run(fields: dict[str, object], workdir: Path) -> dict[str, object]:
    """Probe case by case; a process that dies leaves all answers but one.

    Raises:
        MissingSdkError: there is nothing to probe here.
    """
    request = msgspec.convert(fields, Request)
    module, _, name = request.backend.partition(":")
    backend = cast(Backend, getattr(importlib.import_module(module), name)())
    with (workdir / JOURNAL).open("ab", buffering=0) as journal, building_here():
        for folder in request.folders:
            journal.write(msgspec.json.encode(Entry(folder=folder, pending=True)) + b"\n")
            faulthandler.dump_traceback_later(request.limit_s, exit=True)
            try:
                entry = _probe(backend, request, folder, workdir / folder)
            finally:
                faulthandler.cancel_dump_traceback_later()
            journal.write(msgspec.json.encode(entry) + b"\n")
    return {}


def _probe(backend: Backend, request: Request, name: str, folder: Path) -> Entry:
    work = folder / WORK
    work.mkdir()
    model = load(folder / MODEL)
    try:
        # fp32 whatever the types: a precision is what graphs are converted to, and these stay as they are.
        options = BuildOptions(precision=Precision.FP32, threads=1, raw=not request.legalize)
        if request.legalize:
            model = _legalized(model, backend.legalize(request.target, options.precision))
        artifact = backend.compile(model, request.target, options, work)
        if not request.run:
            return Entry(folder=name)
        try:
            session = backend.load(artifact, work)
            try:
                outputs = session.run(load_arrays(folder / FEEDS))
            finally:
                session.close()
        except MissingSdkError:
            raise
        except Exception as error:
            if strange := _strange(model):
                return Entry(folder=name, unfed=f"superlower feeds and reads no {strange}")
            return Entry(folder=name, failed=_reason(error))
        if (misread := _misread(model, outputs)) is not None:
            return Entry(folder=name, unfed=misread)
        save_arrays(folder / OUTPUTS, outputs)
        return Entry(folder=name, ran=True)
    except MissingSdkError:
        raise
    except SuperlowerError as error:
        return Entry(folder=name, refused=_reason(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _legalized(model: ir.Model, passes: Sequence[Pass]) -> ir.Model:
    for each in passes:
        each.run(model)
        model = infer_shapes(model)
    return model


def _strange(model: ir.Model) -> str:
    """A type of the graph's inputs and outputs that sessions aren't made for; "" if there is none."""
    types = {value.dtype for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype is not None}
    return next((kind.name.lower() for kind in sorted(types - _FED)), "")


def _misread(model: ir.Model, outputs: Mapping[str, Array]) -> str | None:
    """An output that comes in another type than the model's, whose bits mean something else."""
    for value in model.graph.outputs:
        found = outputs.get(value.name or "")
        if found is not None and value.dtype is not None and found.dtype != value.dtype.numpy():
            return f"output '{value.name}' comes as {found.dtype}, not {value.dtype.numpy()}"
    return None


def _reason(error: BaseException) -> str:
    """The SDK's own words: a probe has one node, whose name tells nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = _ABOUT.sub("", (lines or [type(error).__name__])[0])
    told = _LISTED.match(line)
    return (told[1] if told else line)[:300]


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays of any type, bf16 too, which numpy's own files know as bytes only."""
    packed: dict[str, Array] = {}
    for index, (name, array) in enumerate(arrays.items()):
        kind = ir.DataType.from_numpy(array.dtype).name
        packed[str(index)] = np.frombuffer(array.tobytes(), np.uint8)
        packed[f"{index}.is"] = np.array([name, kind, *map(str, array.shape)])
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **packed)


def load_arrays(path: Path) -> dict[str, Array]:
    """Read what `save_arrays` wrote."""
    found: dict[str, Array] = {}
    with np.load(path) as packed:
        for index in range(len(packed.files) // 2):
            name, kind, *shape = (str(text) for text in packed[f"{index}.is"])
            flat = np.frombuffer(packed[str(index)].tobytes(), ir.DataType[kind].numpy())
            # A copy, for OpenVINO takes no scalar that can't be written.
            found[name] = flat.reshape([int(size) for size in shape]).copy()
    return found
