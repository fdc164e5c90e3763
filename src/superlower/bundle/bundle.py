"""Bundles on disk: written whole or not at all, read only if every file is as it was written."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import superlower
from superlower import folders
from superlower.backends.base import Artifact, Session
from superlower.backends.registry import backend
from superlower.bundle.golden import GOLDEN_FILE, GoldenClip
from superlower.bundle.manifest import (
    MANIFEST_FILE,
    MIXED,
    Golden,
    Manifest,
    PassRecord,
    Variant,
    decode,
    encode,
    record,
)
from superlower.errors import BadInputError, MissingSdkError, unknown_name
from superlower.program import files
from superlower.program.model import Program, TemporalModel
from superlower.program.plan import ExecutionPlan
from superlower.targets.catalog import target
from superlower.targets.detect import cpu_flags

PROGRAM_FOLDER = "program"
VARIANT_FOLDER = "variants"
PLAN_FOLDER = "plan"
"""Of a variant: what its plan takes beside its own engines."""
_PACKAGES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "openvino", "apache-tvm", "torch")


@dataclass(frozen=True)
class Bundle:
    """A bundle that has been found whole.

    Attributes:
        folder: where it is.
        manifest: bundle.json.
    """

    folder: Path
    manifest: Manifest

    @staticmethod
    def open(folder: Path) -> Bundle:
        """Read a bundle and check every file against the manifest.

        Raises:
            BadInputError: no bundle, a newer format, a file missing, truncated, altered or not of the bundle.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise BadInputError(
                f"no {MANIFEST_FILE} in {folder}: not a bundle; `superlower compile` makes one"
            )
        manifest = decode(path.read_bytes(), str(path))
        present = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        present.pop(MANIFEST_FILE)
        for name, expected in manifest.files.items():
            file = present.pop(name, None)
            if file is None:
                raise BadInputError(f"bundle {folder}: {name} is missing: compile it again")
            found = record(file)
            if found.bytes != expected.bytes:
                raise BadInputError(
                    f"bundle {folder}: {name} has {found.bytes} bytes instead of {expected.bytes}: it was "
                    f"truncated or altered, compile the bundle again"
                )
            if found.sha256 != expected.sha256:
                raise BadInputError(f"bundle {folder}: {name} was altered (sha256 differs): compile it again")
        if present:
            raise BadInputError(f"bundle {folder}: {min(present)} is not in its manifest: remove it")
        return Bundle(folder, manifest)

    @cached_property
    def program(self) -> Program:
        """The program all variants share."""
        return files.load_program(self.folder / PROGRAM_FOLDER)

    def planned_program(self, variant: Variant) -> Program:
        """The program that a variant's plan runs."""
        if variant.planned is None or not variant.planned.program:
            return self.program
        file = self.folder / variant.planned.program
        return files.decode(file.read_bytes(), str(file))

    def model(self) -> TemporalModel:
        """The program and its graphs as the default passes left them."""
        return files.load_model(self.folder / PROGRAM_FOLDER)

    def golden(self) -> GoldenClip:
        """The golden clip."""
        return GoldenClip.load(self.folder / GOLDEN_FILE)

    def variant(self, name: str) -> Variant:
        """A variant by name."""
        variants = {v.name: v for v in self.manifest.variants}
        if name not in variants:
            raise unknown_name("variant", name, variants)
        return variants[name]

    def why_not(self, variant: Variant) -> str | None:
        """Why a variant can't run on this machine; None if it can."""
        try:
            sdks, where = [backend(name) for name in variant.backends], target(variant.target)
        except (
            BadInputError
        ) as error:  # Of a plug-in that isn't installed here: other variants may still run.
            return str(error)
        reason = next((why for sdk in sdks if (why := sdk.missing() or sdk.runnable(where))), None)
        if reason is None and variant.machine:
            absent = set(variant.machine.get("flags", "").split()) - cpu_flags()
            if absent:
                built_on = variant.machine.get("processor", "another processor")
                reason = f"built on {built_on}, it uses {' '.join(sorted(absent))}, absent on this one"
        return reason

    def pick(self, name: str | None = None, backend_name: str | None = None) -> Variant:
        """The variant asked for, or the first that fits this machine.

        Raises:
            MissingSdkError: none fits; the reason of each is given.
            BadInputError: no such variant or backend in the bundle.
        """
        variants = self.manifest.variants
        if name is not None:
            variants = (self.variant(name),)
        elif backend_name is not None:
            variants = tuple(v for v in variants if v.backend == backend_name)
            if not variants:
                raise unknown_name(
                    "backend in this bundle", backend_name, {v.backend for v in self.manifest.variants}
                )
        reasons = []
        for variant in variants:
            reason = self.why_not(variant)
            if reason is None:
                return variant
            reasons.append(f"{variant.name}: {reason}")
        raise MissingSdkError(f"no variant of {self.folder} runs on this machine: {'; '.join(reasons)}")

    def load(self, variant: Variant) -> dict[str, Session]:
        """A session for each graph of a variant.

        Raises:
            SuperlowerError: the backend refuses an engine; those loaded before it are closed.
        """
        place = self.folder / VARIANT_FOLDER / variant.name
        return load_engines(variant, {g: (artifact, place / g) for g, artifact in variant.engines.items()})

    @contextmanager
    def opened_plan(self, variant: Variant) -> Iterator[OpenedPlan]:
        """What a variant's plan runs, for the length of a block.

        Raises:
            SuperlowerError: as of `load`.
        """
        planned = variant.planned
        if planned is None:
            with self.opened(variant) as sessions:
                yield OpenedPlan(ExecutionPlan(), self.program, dict(variant.engines), sessions, {})
            return
        own = self.folder / VARIANT_FOLDER / variant.name
        place = own / PLAN_FOLDER
        engines = planned.engines or variant.engines
        wanted = {g: (a, (place if planned.engines else own) / g) for g, a in engines.items()}
        many = {g: (a, place / f"{g}.batch") for g, a in planned.batched.items()}
        with ExitStack() as stack:
            loaded = []
            for some in (wanted, many):
                sessions = load_engines(variant, some)
                for session in sessions.values():
                    stack.callback(session.close)
                loaded.append(sessions)
            yield OpenedPlan(planned.plan, self.planned_program(variant), dict(engines), *loaded)

    @contextmanager
    def opened(self, variant: Variant) -> Iterator[dict[str, Session]]:
        """What `load` gives, for the length of a block: at its end every session is closed."""
        with ExitStack() as stack:
            sessions = self.load(variant)
            for session in sessions.values():
                stack.callback(session.close)
            yield sessions


@dataclass(frozen=True)
class OpenedPlan:
    """Loaded engines, and how to run them.

    Attributes:
        plan: how.
        program: what they are of.
        engines: graph -> what its build left.
        sessions: graph -> its engine.
        batched: graph -> its engine for several calls.
    """

    plan: ExecutionPlan
    program: Program
    engines: Mapping[str, Artifact]
    sessions: Mapping[str, Session]
    batched: Mapping[str, Session]


def load_engines(variant: Variant, engines: Mapping[str, tuple[Artifact, Path]]) -> dict[str, Session]:
    """A session for each engine of a variant, in the folder that it lies in.

    Raises:
        SuperlowerError: the backend refuses an engine; those loaded before it are closed.
    """
    sessions: dict[str, Session] = {}
    with ExitStack() as unless_all_load:
        for graph, (artifact, folder) in engines.items():
            own = variant.backend in (artifact.backend, MIXED)
            if not own or artifact.target != variant.target:
                raise BadInputError(
                    f"foreign engine: {graph} of variant {variant.name} was built by {artifact.backend} "
                    f"for {artifact.target}"
                )
            sessions[graph] = backend(artifact.backend).load(artifact, folder)
            unless_all_load.callback(sessions[graph].close)
        unless_all_load.pop_all()
    return sessions


def writing(folder: Path) -> AbstractContextManager[Path]:
    """A folder to make a bundle in: see `superlower.folders.replacing`.

    Raises:
        BadInputError: the final name is taken by something else than a bundle, or by one that holds files
            which aren't in its manifest.
    """
    return folders.replacing(folder, "bundle", _written)


def seal(
    folder: Path,
    program: Program,
    golden: GoldenClip,
    variants: tuple[Variant, ...],
    passes: tuple[PassRecord, ...],
) -> Manifest:
    """Write bundle.json over what lies in the folder."""
    manifest = Manifest(
        superlower=superlower.__version__,
        model=program.name,
        golden=Golden(frames=len(golden.frames), source=golden.source, reference=golden.reference),
        variants=variants,
        passes=passes,
        files={
            path.relative_to(folder).as_posix(): record(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST_FILE
        },
        versions={name: version for name in _PACKAGES if (version := _version(name))},
    ).sealed()
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    return manifest


def _written(folder: Path) -> set[str] | None:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        return {MANIFEST_FILE, *decode(path.read_bytes(), str(path)).files}
    except BadInputError as error:
        raise BadInputError(
            f"can't tell what in {folder} may be replaced ({error}): remove it first"
        ) from None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
