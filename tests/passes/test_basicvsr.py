"""The default pipeline on BasicVSR's own graphs, as torch exports them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import onnx_ir as ir
import onnxruntime
import pytest
from onnxscript import optimizer

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.frontends.base import ExportRequest
from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.ir import clone, constant_value, load, serialize
from superlower.passes.convert_precision import ConvertPrecision
from superlower.passes.pipelines import apply, default_pipeline
from superlower.passes.validate import seeded_feeds

Graphs = dict[str, ir.Model]

# With one block a trunk. SPyNet has six levels of five convolutions, and the coarsest of its six warps is by
# a flow of zeros, and goes. Each GridSample has the Transpose, Mul and Add of its grid; other Mul and Add are
# of the image's normalisation, the doubled flow, and residuals.
CLEAN = {
    "flow": {
        "AveragePool": 10,
        "Conv": 30,
        "Relu": 24,
        "Concat": 6,
        "Resize": 5,
        "Transpose": 5,
        "GridSample": 5,
        "Mul": 12,
        "Add": 12,
    },
    "backward": {
        "Transpose": 1,
        "Mul": 1,
        "Add": 2,
        "GridSample": 1,
        "Concat": 1,
        "Conv": 3,
        "LeakyRelu": 1,
        "Relu": 1,
    },
    "forward": {
        "Transpose": 1,
        "Mul": 1,
        "Add": 3,
        "GridSample": 1,
        "Concat": 2,
        "Conv": 8,
        "LeakyRelu": 5,
        "Relu": 1,
        "DepthToSpace": 2,
        "Resize": 1,
    },
}


# Where a side is no multiple of 32 SPyNet resizes both frames, and resizes and scales the flow.
RESIZED = Counter(Resize=3, Mul=1)


@cache
def _exported(height: int, width: int, optimize: bool) -> Graphs:
    export = torch.onnx.export
    request = ExportRequest(Path("random:5"), height, width, {"blocks": "1"}, "random:5")
    with mock.patch.object(torch.onnx, "export", lambda *a, **k: export(*a, **{**k, "optimize": optimize})):
        return dict(BasicVsr().export(request).graphs)


def _as_it_comes(height: int, width: int) -> Graphs:
    return _exported(height, width, True)


def _unoptimized(height: int, width: int) -> Graphs:
    """As torch.onnx.export(optimize=False) leaves them: constants, sizes and casts all computed by nodes."""
    return _exported(height, width, False)


def _onnxscript(height: int, width: int) -> Graphs:
    """Folded by onnxscript's optimizer, with limits that let it fold whole sampling grids."""
    graphs = {name: clone(graph) for name, graph in _unoptimized(height, width).items()}
    for graph in graphs.values():
        optimizer.optimize(graph, input_size_limit=1 << 22, output_size_limit=1 << 22)
    return graphs


def _onnxruntime(height: int, width: int) -> Graphs:
    """Folded by ONNX Runtime's basic optimisations, as it saves them."""
    return {name: _optimized(graph) for name, graph in _unoptimized(height, width).items()}


def _optimized(graph: ir.Model) -> ir.Model:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(serialize(graph), options, providers=["CPUExecutionProvider"])
        return load(Path(options.optimized_model_filepath))


@pytest.mark.parametrize(
    "exported",
    [pytest.param(_as_it_comes, marks=pytest.mark.slow), _unoptimized, _onnxscript, _onnxruntime],
)
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (64, 64),
        pytest.param(144, 176, marks=pytest.mark.slow),
        pytest.param(180, 320, marks=pytest.mark.slow),
    ],
)
def test_graphs_are_clean_and_mean_the_same(
    height: int, width: int, exported: Callable[[int, int], Graphs]
) -> None:
    """Whichever way the constants were folded before: the clean graphs have the same nodes."""
    for name, graph in exported(height, width).items():
        feeds = [seeded_feeds(graph, 1)]
        clean, reports = apply(graph, default_pipeline(), feeds)
        assert not [site for r in reports for site in r.applied.refused], name
        ops = Counter(n.op_type for n in clean.graph)
        resized = RESIZED if name == "flow" and (height | width) % 32 else Counter()
        assert ops == Counter(CLEAN[name]) + resized, name
        assert _warps(clean) == [["Add", "Mul", "Transpose"]] * ops["GridSample"]
        _, again = apply(clean, default_pipeline())
        assert not any(r.applied.changed for r in again)


def test_clean_graphs_convert_to_half() -> None:
    for graph in _unoptimized(64, 64).values():
        feeds = [seeded_feeds(graph, 1)]
        clean, _ = apply(graph, default_pipeline())
        half, (report,) = apply(clean, [ConvertPrecision()], feeds)
        assert not report.applied.refused
        assert report.deviation is not None
        assert 0 < report.deviation.relative <= report.budget.relative
        assert {n.outputs[0].dtype.name for n in half.graph if n.op_type == "Conv"} == {"FLOAT16"}  # type: ignore[union-attr]


def _warps(model: ir.Model) -> list[list[str]]:
    """Of each GridSample, what makes its grid: operators from the last up to a Transpose."""
    chains = []
    for sample in (n for n in model.graph if n.op_type == "GridSample"):
        node, chain = sample, []
        while node.op_type != "Transpose":
            (varying,) = [v for v in node.inputs[node is sample :] if constant_value(v) is None]
            node = varying.producer()  # type: ignore[union-attr, assignment]
            chain.append(node.op_type)
        chains.append(chain)
    return chains
