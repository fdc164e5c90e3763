"""The comparisons of EGVSR: forms of an operation and networks, by time and cost, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import onnx_ir as ir

from superlower.backends.base import BuildOptions, Feeds
from superlower.backends.registry import backend
from superlower.bundle.golden import moving_texture
from superlower.driver.egvsr_cases import CASES, CLAIMS, NETWORKS, NETWORKS_GROUP, Case, Claim, Network
from superlower.driver.entrants import exhaust
from superlower.driver.export import frontend
from superlower.driver.flops import graph_macs, node_flops
from superlower.driver.plain import onnxruntime_call, openvino_call
from superlower.driver.progress import Progress
from superlower.driver.small_graphs import SmallGraph
from superlower.driver.speed import Contender, race
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.frontends.zoo.figures import a_frame
from superlower.ir import io_shapes, save
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program.model import TemporalModel
from superlower.runtime.runner import Engine, Runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target

CALLS = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}
"""SDKs that graphs are given to as they are."""

REPEATS = 5
"""Calls of a small graph that one turn times."""

SEEDED = "random:0"


@dataclass(frozen=True)
class Form:
    """One form or network on one SDK.

    Attributes:
        group, name: which.
        sdk: where.
        gflop: operations of a call, or of a frame of a network, 10^9: convolutions and matrix products.
        ms: median milliseconds of that.
        rounds_ms: of each round.
        ratio, ratios: how many times as fast as the first of its group, and that of each round.
        cpu_ratio: the same by the seconds of this process's threads, which others disturb least.
        claim: what was published of it.
    """

    group: str
    name: str
    sdk: str
    gflop: float
    ms: float
    rounds_ms: tuple[float, ...]
    ratio: float
    ratios: tuple[float, ...]
    cpu_ratio: float | None = None
    claim: Claim | None = None


def study(
    sdks: Sequence[str],
    groups: Sequence[str],
    *,
    size: tuple[int, int],
    frames: int,
    rounds: int,
    threads: int,
    progress: Progress,
) -> list[Form]:
    """Measure every form of the groups asked for on every SDK; those of one group in turns.

    Args:
        sdks: of `CALLS`.
        groups: by name.
        size: height and width of a low-resolution frame, and of the small graphs' input.
        frames: of the clip that networks run.
        rounds: timed, after one to warm up.
        threads: of each engine.
    """
    found: list[Form] = []
    models: dict[str, TemporalModel] = {}
    if NETWORKS_GROUP in groups:
        progress.stage("exporting networks", len(NETWORKS))
        for network in NETWORKS:
            models[network.name] = exported(network, size)
            progress.advance(network.name)
    for group in groups:
        for sdk in sdks:
            progress.stage(f"{sdk}: {group}")
            with tempfile.TemporaryDirectory(prefix="superlower-egvsr-") as folder, ExitStack() as stack:
                if group == NETWORKS_GROUP:
                    ready, gflop = _networks(models, sdk, frames, threads, Path(folder), stack)
                    count = frames
                else:
                    ready, gflop = _cases(group, sdk, size, threads, Path(folder))
                    count = REPEATS
                found += _forms(group, sdk, ready, gflop, count, rounds, progress)
    return found


def _forms(
    group: str,
    sdk: str,
    ready: Mapping[str, Callable[[], object]],
    gflop: Mapping[str, float],
    count: int,
    rounds: int,
    progress: Progress,
) -> list[Form]:
    rows = race(
        {name: Contender(call) for name, call in ready.items()}, count, rounds=rounds, progress=progress
    )
    claims = {claim.name: claim for claim in CLAIMS if claim.group == group}
    return [
        Form(
            group,
            row.name,
            sdk,
            gflop[row.name],
            row.ms,
            row.rounds_ms,
            row.ratio,
            row.ratios,
            row.cpu_ratio,
            claims.get(row.name),
        )
        for row in rows
    ]


def _cases(
    group: str, sdk: str, size: tuple[int, int], threads: int, folder: Path
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    ready: dict[str, Callable[[], object]] = {}
    gflop: dict[str, float] = {}
    for case in (case for case in CASES if case.group == group):
        model = graph_of(case, size)
        path = folder / f"{len(ready)}.onnx"
        save(model, path)
        rng = np.random.default_rng(1)
        feeds: Feeds = {
            name: rng.standard_normal(shape).astype(np.float32) for name, shape in io_shapes(model)[0].items()
        }
        ready[case.name] = partial(_repeated, CALLS[sdk](path, threads), feeds)
        gflop[case.name] = 1e-9 * sum(
            sum(node_flops(node).values())
            for node in model.graph.all_nodes()
            if node.op_type in ("Conv", "ConvTranspose", "MatMul")
        )
    return ready, gflop


def graph_of(case: Case, size: tuple[int, int]) -> ir.Model:
    """A case's graph over [1, 64, height, width]."""
    graph = SmallGraph(*size)
    return graph.model(case.build(graph))


def _repeated(call: Callable[[Feeds], object], feeds: Feeds) -> None:
    for _ in range(REPEATS):
        call(feeds)


def _networks(
    models: Mapping[str, TemporalModel],
    sdk: str,
    frames: int,
    threads: int,
    folder: Path,
    stack: ExitStack,
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    ready: dict[str, Callable[[], object]] = {}
    gflop: dict[str, float] = {}
    for title, model in models.items():
        clip = moving_texture(model.program.frame, frames, 0)
        engines = {}
        for name, graph in model.graphs.items():
            engines[name] = _engine(sdk, graph, threads, folder / title / name, stack)
        runner = Runner(model.program, engines)
        ready[title] = lambda r=runner, c=clip: exhaust(r.run(c, total=len(c)))  # type: ignore[misc]
        gflop[title] = 2e-9 * a_frame(model.program, graph_macs(model))
    return ready, gflop


def exported(network: Network, size: tuple[int, int]) -> TemporalModel:
    """A network with seeded weights, cleaned up as for every build."""
    architecture = frontend(network.model)
    fetched = fetch_weights(SEEDED, architecture)
    request = ExportRequest(
        weights=fetched.path,
        height=size[0],
        width=size[1],
        options=dict(network.options),
        source=fetched.source,
    )
    model = architecture.export(request)
    return model.with_graphs({n: apply(g, default_pipeline())[0] for n, g in model.graphs.items()})


def _engine(sdk: str, graph: ir.Model, threads: int, folder: Path, stack: ExitStack) -> Engine:
    compiler, cpu = backend(sdk), target("cpu")
    legal, _ = apply(graph, compiler.legalize(cpu, Precision.FP32))
    folder.mkdir(parents=True)
    with redirect_stdout(StringIO()):
        artifact = compiler.compile(legal, cpu, BuildOptions(threads=threads), folder)
    session = compiler.load(artifact, folder)
    stack.callback(session.close)
    return Engine(session)
