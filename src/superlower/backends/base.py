"""The one protocol between superlower and a compiler SDK. Nobody subclasses a backend.

Importing a backend's module must not import its SDK: listing works with none installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.passes.base import Pass
from superlower.targets.base import TYPES, Precision, Target

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]
Outputs = dict[str, Array]


class Support(StrEnum):
    """How a backend serves a node on a target."""

    NATIVE = "native"
    REWRITTEN = "rewritten"
    FALLBACK = "fallback"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class NodeSupport:
    """One node's coverage.

    Attributes:
        node: the node's name in the graph.
        op: operator as "GridSample" or "domain::Op".
        support: how it is served.
        detail: for REWRITTEN the pass's name, for FALLBACK and UNSUPPORTED the reason.
        source: who says so where it isn't the SDK: "table: TITLE", and what was probed if not just this.
    """

    node: str
    op: str
    support: Support
    detail: str = ""
    source: str = ""


@dataclass(frozen=True)
class BuildOptions:
    """What the user asked of a build.

    Attributes:
        precision: element type of the engine's arithmetic.
        mode: "latency" (one call at a time) or "throughput" (several in flight).
        threads: CPU threads that a call may use; 0 for the machine's cores.
        calls: of one engine that a plan may have in flight, each with its threads.
        timeout_s: seconds until the build is stopped.
        memory_bytes: workspace limit where the SDK has one; 0 for none.
        stateful: keep hidden states inside the engine, where the backend can (see `keeps_states`); pairs of
            graph (output name, input name), empty for host states.
        settings: further SDK settings by their own names (`--set openvino.KEY=VALUE`).
        raw: build whatever the SDK takes, without superlower's own refusals of what the SDK is known to get
            wrong. For probes, which find that out.
    """

    precision: Precision = Precision.FP32
    mode: str = "latency"
    threads: int = 0
    calls: int = 1
    timeout_s: float = 1800.0
    memory_bytes: int = 0
    stateful: tuple[tuple[str, str], ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    raw: bool = False


class Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a build leaves: files in a folder and what is known of them. Stored in the bundle's manifest.

    Attributes:
        backend, target: names.
        precision: of the engine's arithmetic.
        files: role -> path relative to the folder ("engine", "layers", "log", ...).
        sdk: SDK package -> version the engine was built with.
        threads, mode: as in BuildOptions.
        stateful: state pairs kept inside the engine (graph output name, graph input name).
        build_s: seconds the build took.
        facts: whatever else the SDK told (activation memory, compute capability, layer count).
        settings: SDK settings that `load` must repeat.
    """

    backend: str
    target: str
    precision: Precision
    files: dict[str, str]
    sdk: dict[str, str]
    threads: int = 0
    mode: str = "latency"
    stateful: tuple[tuple[str, str], ...] = ()
    build_s: float = 0.0
    facts: dict[str, str | int | float] = {}
    settings: dict[str, str] = {}


class Session(Protocol):
    """A loaded engine. Feeds and outputs are host arrays, contiguous, of the graph's names, shapes and types.

    An output array belongs to the caller: the session never writes it again.
    """

    def run(self, feeds: Feeds) -> Outputs:
        """Run once and wait."""
        ...

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start a run; several may be in flight when the engine was built for throughput."""
        ...

    def reset(self) -> None:
        """Forget states kept inside the engine; does nothing for host states."""
        ...

    def close(self) -> None:
        """Release the engine."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A compiler SDK, and what superlower needs of it."""

    name: ClassVar[str]
    title: ClassVar[str]

    def missing(self) -> str | None:
        """Why it can't build here, with the install command; None if it can. Imports nothing heavy."""
        ...

    def versions(self) -> dict[str, str]:
        """Package -> version of the SDK found here; empty if missing."""
        ...

    def serves(self, target: Target, precision: Precision) -> str | None:
        """Why it can't build for the target at that precision; None if it can. Needs no SDK."""
        ...

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """How each node is served, in graph order. Asks the real parser or compiler where it is installed."""
        ...

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        """Passes that make a graph fit for `compile`, in order."""
        ...

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        """Build an engine from a legalized graph into `workdir`, in a subprocess.

        Raises:
            MissingSdkError: the SDK isn't here.
            UnsupportedOperatorError: an operator isn't covered.
            BuildFailedError: the SDK failed, crashed or ran past `options.timeout_s`; the log is named.
        """
        ...

    def runnable(self, target: Target) -> str | None:
        """Why engines for the target can't be run on this machine; None if they can."""
        ...

    def load(self, artifact: Artifact, folder: Path) -> Session:
        """Load an engine that `compile` left in `folder`.

        Raises:
            MissingSdkError: the SDK or the device isn't here.
            BadInputError: the engine isn't one this SDK version can read.
        """
        ...


def keeps_states(backend: Backend) -> bool:
    """Whether a backend's engines can keep hidden states inside (`BuildOptions.stateful`).

    One whose engines can says so by a class attribute `keeps_states = True`; the protocol doesn't ask for it.
    """
    return bool(getattr(backend, "keeps_states", False))


def native_precisions(backend: Backend, target: Target) -> dict[Precision, str]:
    """Every element type, and why a backend's kernels don't compute in it on a target; "" where they do.

    What a target runs no faster than fp32 isn't among them, nor what a backend only emulates: it says so by
    an attribute `emulated(target)` that gives precisions with reasons.
    """
    emulated = getattr(backend, "emulated", None)
    slow: Mapping[Precision, str] = emulated(target) if emulated is not None else {}
    return {
        precision: backend.serves(target, precision)
        or slow.get(precision, "")
        or ("" if precision in target.precisions else f"{target.title} runs it no faster than fp32")
        for precision in TYPES
    }


def quantizes_results(backend: Backend) -> bool:
    """Whether a backend's integer convolutions give 8 bits, so that quantized graphs must say which levels.

    One whose convolutions do says so by a class attribute `quantizes_results = True`. Others would be slower
    for it, and further off: they go on in float from what their accumulators hold.
    """
    return bool(getattr(backend, "quantizes_results", False))


def build_inputs(backend: Backend, target: Target, options: BuildOptions) -> dict[str, str]:
    """What a backend's engines for a target depend on besides the graph, the options and `versions`.

    One that reads anything else (a compiler it finds, a database of schedules) says so by a method
    `build_inputs(target, options)`, which gives its name -> version or digest: a cached engine is taken only
    where all of it is the same.
    """
    told = getattr(backend, "build_inputs", None)
    return {} if told is None else dict(told(target, options))
