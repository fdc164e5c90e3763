"""What every backend asks before it touches its SDK: is it here, which version, does it serve the target."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from superlower.backends.base import Artifact, Backend
from superlower.doctor import examine
from superlower.doctor.rules import rules
from superlower.errors import BadInputError, MissingSdkError
from superlower.ir import io_shapes
from superlower.targets.base import Precision, Target


def absent(module: str, install: str, index: str = "") -> str | None:
    """Why `module` can't be imported, with the command to install it; None if it is found. Imports nothing.

    Args:
        module: top-level module name.
        install: what pip takes ("openvino", "superlower[tvm]").
        index: package index that has it, besides pip's own.
    """
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    extra = f" --extra-index-url {index}" if index else ""
    return None if found else f"{module} isn't installed: pip install '{install}'{extra}"


def version(*distributions: str) -> str:
    """Version of the first of these distributions that is installed; "" if none is."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def wrong_version(backend: Backend, target: Target, package: str, install: str) -> str | None:
    """Why the installed version of a backend's SDK can't serve a target; None if it can, or none is here.

    Args:
        package: as in `Backend.versions`.
        install: command that installs a right one; "{range}" stands for the versions.
    """
    here, allowed = backend.versions().get(package, ""), target.backends.get(backend.name, "")
    if not here or Version(here) in SpecifierSet(allowed, prereleases=True):
        return None
    command = install.format(range=allowed)
    return f"{backend.title} {here} is here, and {target.title} needs {allowed}: {command}"


def unserved(
    backend: str,
    target: Target,
    precision: Precision,
    *,
    kinds: Mapping[str, str],
    precisions: Mapping[Precision, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> str | None:
    """Why a backend can't build for a target at a precision; None if it can and no known-bugs rule forbids.

    Args:
        backend: its name in the target's tables.
        kinds: kind of target -> "" if served, else why not. A kind left out isn't served either.
        precisions: precision -> "" if served, else why not; None: all are.
        versions: of the SDK, if that matters to rules; None: any will do.
    """
    if backend in target.unserved:
        return target.unserved[backend]
    reason = kinds.get(target.kind, f"{backend} doesn't compile for targets of kind {target.kind}")
    if not reason and backend not in target.backends:
        reason = f"target {target.name} doesn't list {backend} among its backends"
    if not reason and precisions is not None:
        reason = precisions.get(precision, f"{backend} doesn't compile for {precision}")
    return reason or examine.unserved(rules(), examine.Context(backend, versions or {}, target, precision))


def require(backend: Backend) -> None:
    """Raise MissingSdkError unless the backend's SDK is here."""
    if (reason := backend.missing()) is not None:
        raise MissingSdkError(reason)


def require_served(backend: Backend, target: Target, precision: Precision) -> None:
    """Raise BadInputError unless the backend serves the target at that precision."""
    if (reason := backend.serves(target, precision)) is not None:
        raise BadInputError(f"{backend.name} can't build for {target.name} at {precision}: {reason}")


def require_own(backend: Backend, artifact: Artifact) -> None:
    """Raise BadInputError if another backend built the engine."""
    if artifact.backend != backend.name:
        raise BadInputError(f"the engine was built by {artifact.backend}, not by {backend.name}")


def require_states(model: ir.Model, pairs: Sequence[tuple[str, str]]) -> None:
    """Raise BadInputError unless pairs of (output, input) that an engine is to keep inside fit the graph."""
    inputs, outputs = io_shapes(model)
    for output, given in pairs:
        if output not in outputs or given not in inputs:
            raise BadInputError(
                f"state pair ({output}, {given}) must name an output and an input of the graph, "
                f"of ({', '.join(outputs)}) and ({', '.join(inputs)})"
            )
        if outputs[output] != inputs[given]:
            raise BadInputError(
                f"state pair ({output}, {given}): shapes {list(outputs[output])} and "
                f"{list(inputs[given])} differ"
            )


def first_line(error: BaseException) -> str:
    """The line of an SDK's exception that says what was wrong, without the native code's frames."""
    noise = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(noise)]
    return (telling or lines or [type(error).__name__])[0][:300]
