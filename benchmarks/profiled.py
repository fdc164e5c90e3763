"""OpenVINO's own account of where the time of an engine goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superlower.backends import openvino_build
from superlower.backends.base import Artifact, Feeds, Outputs
from superlower.backends.openvino_deform import shared_core
from superlower.bundle.bundle import VARIANT_FOLDER, Bundle
from superlower.bundle.manifest import Variant
from superlower.driver.flops import convolutions
from superlower.errors import OutputsDifferError
from superlower.runtime.runner import Engine, Runner

CONVOLUTION = "Convolution"


class ProfiledSession:
    """An engine compiled from its IR with its own properties and PERF_COUNT, run one call at a time."""

    def __init__(self, artifact: Artifact, folder: Path) -> None:
        core = shared_core()
        settings = {**openvino_build.parsed(artifact.settings), "PERF_COUNT": True}
        model = core.read_model(folder / artifact.files["engine"])
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self._names = openvino_build.port_names(artifact.facts)
        self._calls = 0

    def run(self, feeds: Feeds) -> Outputs:
        """Run once and wait."""
        by_index = {index: feeds[name] for index, name in enumerate(self._names.inputs)}
        results = self._request.infer(by_index, share_inputs=True, share_outputs=False)
        self._calls += 1
        return {name: results[index] for index, name in enumerate(self._names.outputs)}

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Run once; the future is done."""
        done: Future[Outputs] = Future()
        done.set_result(self.run(feeds))
        return done

    def reset(self) -> None:
        """Nothing: states are the host's."""

    def close(self) -> None:
        """Nothing to release beyond the object."""

    def seconds(self) -> Counter[str]:
        """Type of node -> seconds of all its nodes in all calls so far.

        OpenVINO (2026.4) tells each node's mean over the calls, cut to a microsecond; so each node's total is
        short by up to a microsecond a call.
        """
        found: Counter[str] = Counter()
        for node in self._executed() if self._calls else ():
            found[node.node_type] += self._calls * node.real_time.total_seconds()
        return found

    def count(self, node_type: str) -> int:
        """Nodes of a type that were executed."""
        return sum(node.node_type == node_type for node in self._executed())

    def _executed(self) -> list:  # type: ignore[type-arg]
        return [n for n in self._request.profiling_info if str(n.status).endswith(".EXECUTED")]


@dataclass(frozen=True)
class ProfiledLap:
    """A run of a clip: seconds on the wall, and by type of node."""

    seconds: float
    by_type: Mapping[str, float]


class ProfiledClip:
    """A variant's engines, profiled, and a clip to run through them. Call it for a lap."""

    def __init__(self, bundle: Bundle, variant: Variant, frames: Sequence[NDArray[np.float32]]) -> None:
        place = bundle.folder / VARIANT_FOLDER / variant.name
        self._sessions = {
            graph: ProfiledSession(artifact, place / graph) for graph, artifact in variant.engines.items()
        }
        engines = {graph: Engine(session) for graph, session in self._sessions.items()}
        self._runner = Runner(bundle.program, engines)
        self._frames = frames

    def __call__(self) -> ProfiledLap:
        """Run the clip."""
        before = self._seconds()
        started = time.perf_counter()
        for _ in self._runner.run(self._frames, total=len(self._frames)):
            pass
        seconds = time.perf_counter() - started
        spent = {kind: total - before[kind] for kind, total in self._seconds().items()}
        return ProfiledLap(seconds, spent)

    def _seconds(self) -> Counter[str]:
        return sum((session.seconds() for session in self._sessions.values()), Counter())

    def hold_to(self, bundle: Bundle) -> None:
        """Every Conv node must run as one convolution, or operations and times would be of different nodes.

        Raises:
            OutputsDifferError: OpenVINO executed another number of them.
        """
        for graph, model in bundle.model().graphs.items():
            written, run = len(convolutions(model)), self._sessions[graph].count(CONVOLUTION)
            if written != run:
                raise OutputsDifferError(
                    f"graph {graph} has {written} Conv nodes, OpenVINO executed {run}: their throughput "
                    f"can't be told from the profile"
                )
