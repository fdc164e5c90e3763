"""What can be timed, as data: opened in this process to run in turns, or in one of its own to be measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Session
from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import Variant
from superlower.driver.export import frontend
from superlower.driver.speed import Contender, engine_threads, physical_cores, pytorch_threads
from superlower.errors import BadInputError
from superlower.frontends.base import ClipReference, ExportRequest, ZooFrontend
from superlower.frontends.weights import fetch_weights
from superlower.runtime.load import open_runners
from superlower.runtime.runner import Engine, Runner

log = logging.getLogger(__name__)

Clip = Sequence[NDArray[np.float32]]


class Kind(StrEnum):
    """Who computes."""

    VARIANT = "variant"
    EAGER = "eager"
    COMPILE = "compile"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A network of the zoo: its weights' location and its options."""

    weights: str
    options: dict[str, str] = {}


class Entrant(msgspec.Struct, frozen=True, kw_only=True):
    """A contender, before it is opened.

    Attributes:
        name: in tables.
        kind: who computes.
        bundle: folder whose program, and whose golden clip, it runs.
        variant: of the bundle, where the kind is one.
        checkpoint: what PyTorch runs.
        exported: program folder as exported, which an SDK runs as it comes.
        threads: CPU threads; of a variant those it was compiled with.
        clips: run side by side.
        in_flight: calls of a clip that may run at the same time.
        settings: of a variant's backend, over those its engines were compiled with.
    """

    name: str
    kind: Kind
    bundle: str
    variant: str = ""
    checkpoint: Checkpoint | None = None
    exported: str = ""
    threads: int = 0
    clips: int = 1
    in_flight: int = 1
    settings: dict[str, str] = {}


@dataclass(frozen=True)
class Opened:
    """A contender, ready to run.

    Attributes:
        upscale: a clip's outputs as they come.
        threads, seconds, chosen: as of `Contender`.
    """

    upscale: Callable[[Clip], Iterator[object]]
    threads: int | None = None
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def contender(self, frames: Clip, clips: int = 1) -> Contender:
        """To be timed over a clip, or over some side by side."""
        side_by_side = clips > 1
        return Contender(
            lambda: exhaust(self.upscale(frames)),
            self.threads,
            {} if side_by_side else self.seconds,
            {} if side_by_side else self.chosen,
        )


@contextmanager
def opened(entrant: Entrant, bundle: Bundle | None = None) -> Iterator[Opened]:
    """Load an entrant for the length of a block.

    Args:
        bundle: found whole already; read anew if None.

    Raises:
        MissingSdkError, BadInputError, BuildFailedError: it can't be had here; why.
    """
    bundle = bundle or Bundle.open(Path(entrant.bundle))
    threads = entrant.threads or physical_cores()
    with ExitStack() as stack:
        if entrant.kind is Kind.VARIANT:
            variant = _with_settings(bundle.variant(entrant.variant), entrant.settings)
            runners = stack.enter_context(
                open_runners(bundle, variant, entrant.clips, in_flight=entrant.in_flight)
            )
            yield _of_runners(runners, engine_threads(variant))
            return
        if entrant.kind is Kind.EAGER:
            assert entrant.checkpoint is not None
            stack.enter_context(pytorch_threads(threads))
            run = reference(bundle, entrant.checkpoint)
            yield Opened(lambda frames: iter(run(frames)), threads)
            return
        sessions = _sessions(entrant, bundle, threads, stack)
        for session in sessions.values():
            stack.callback(session.close)
        engines = {graph: Engine(session) for graph, session in sessions.items()}
        yield _of_runners([Runner(bundle.program, engines)], threads)


def _with_settings(variant: Variant, settings: Mapping[str, str]) -> Variant:
    """The variant with its engines loaded otherwise; what was compiled for its own settings isn't taken."""
    if not settings:
        return variant
    engines = {
        graph: msgspec.structs.replace(
            artifact,
            settings={**artifact.settings, **settings},
            files={role: file for role, file in artifact.files.items() if role != "blob"},
        )
        for graph, artifact in variant.engines.items()
    }
    return msgspec.structs.replace(variant, engines=engines)


def _sessions(entrant: Entrant, bundle: Bundle, threads: int, stack: ExitStack) -> Mapping[str, Session]:
    from superlower.driver import plain

    if entrant.kind is Kind.COMPILE:
        assert entrant.checkpoint is not None
        architecture, request = asked(bundle, entrant.checkpoint)
        stack.enter_context(pytorch_threads(threads))
        return plain.compiled_sessions(architecture, request, bundle.program)
    load = plain.onnxruntime_sessions if entrant.kind is Kind.ONNXRUNTIME else plain.openvino_sessions
    return load(Path(entrant.exported), bundle.program, threads)


def _of_runners(runners: Sequence[Runner], threads: int | None) -> Opened:
    first, *others = runners

    def upscale(frames: Clip) -> Iterator[object]:
        if not others:
            yield from first.run(frames, total=len(frames))
            return
        with ThreadPoolExecutor(len(others)) as pool:
            beside = [pool.submit(exhaust, other.run(frames, total=len(frames))) for other in others]
            yield from first.run(frames, total=len(frames))
            for one in beside:
                one.result()

    return Opened(upscale, threads, first.seconds, first.chosen)


def asked(bundle: Bundle, checkpoint: Checkpoint) -> tuple[ZooFrontend, ExportRequest]:
    """A bundle's architecture, and the request that makes its network of a checkpoint.

    Raises:
        BadInputError: the bundle is of no architecture of the zoo, or of another checkpoint.
    """
    architecture = frontend(bundle.manifest.model)
    fetched = fetch_weights(checkpoint.weights, architecture)
    frame = bundle.program.frame
    known = bundle.program.provenance.get("weights_sha256")
    if known and fetched.sha256 and known != fetched.sha256:
        raise BadInputError(
            f"--pytorch {checkpoint.weights} isn't the checkpoint the bundle was exported from "
            f"(sha256 differs)"
        )
    return architecture, ExportRequest(
        weights=fetched.path,
        height=frame.height,
        width=frame.width,
        options=checkpoint.options,
        source=fetched.source,
    )


def reference(bundle: Bundle, checkpoint: Checkpoint) -> ClipReference:
    """A bundle's original network in PyTorch eager. Raises as `asked` does."""
    architecture, request = asked(bundle, checkpoint)
    return architecture.reference(request)


def exhaust(outputs: Iterator[object]) -> int:
    """Run to the end; how many there were."""
    return sum(1 for _ in outputs)
