"""The default pipeline on BasicVSR's own graphs, as torch exports them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

from superlower.frontends.base import ExportRequest
from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.ir import constant_value
from superlower.passes.convert_precision import ConvertPrecision
from superlower.passes.pipelines import apply, default_pipeline
from superlower.passes.validate import seeded_feeds

GONE = {
    "ScatterElements",
    "ScatterND",
    "Gather",
    "Unsqueeze",
    "Squeeze",
    "Slice",
    "Sub",
    "Div",
    "Split",
    "Cast",
}


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (64, 64),
        pytest.param(144, 176, marks=pytest.mark.slow),
        pytest.param(180, 320, marks=pytest.mark.slow),
    ],
)
def test_graphs_are_clean_and_mean_the_same(height: int, width: int) -> None:
    request = ExportRequest(Path("random:5"), height, width, {"blocks": "1"}, "random:5")
    for name, graph in BasicVsr().export(request).graphs.items():
        feeds = [seeded_feeds(graph, 1)]
        clean, reports = apply(graph, default_pipeline(), feeds)
        assert not [site for r in reports for site in r.applied.refused], name
        ops = Counter(n.op_type for n in clean.graph)
        assert not GONE & ops.keys(), name
        # SPyNet's coarsest of six warps is by a flow of zeros, and goes.
        warps = 5 if name == "flow" else 1
        assert ops["GridSample"] == ops["Transpose"] == warps
        for node in clean.graph:
            if node.op_type == "GridSample":
                chain = [node.inputs[1].producer()]  # type: ignore[union-attr]
                while chain[-1] is not None and chain[-1].op_type != "Transpose":
                    varying = [v for v in chain[-1].inputs if constant_value(v) is None]
                    chain.append(varying[0].producer())  # type: ignore[union-attr]
                assert [n.op_type for n in chain if n] == ["Add", "Mul", "Transpose"]
        _, again = apply(clean, default_pipeline())
        assert not any(r.applied.changed for r in again)
        half, (report,) = apply(clean, [ConvertPrecision()], feeds)
        assert not report.applied.refused
        assert report.deviation is not None
        assert 0 < report.deviation.relative <= report.budget.relative
        assert {n.outputs[0].dtype.name for n in half.graph if n.op_type == "Conv"} == {"FLOAT16"}  # type: ignore[union-attr]
