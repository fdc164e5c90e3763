"""Warps and deformable convolutions on every backend: the form chosen, that it builds, what it computes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from superlower.backends import registry
from superlower.backends.base import BuildOptions, Support
from superlower.backends.select_lowering import SelectLowering
from superlower.errors import OutputsDifferError
from superlower.ir import infer_shapes
from superlower.passes.pipelines import apply
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target
from support.deform import Deform
from support.graphs import GraphBuilder

Array = NDArray[Any]

SDKS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tvm": "tvm", "tensorrt-rtx": "tensorrt_rtx"}
AGREES = 1e-4
"""What engines must agree within, on outputs of a few units."""

DEFORMS = {
    "one-offset-group": Deform(channels=8, height=12, width=16, reach=2.0),
    "offset-groups": Deform(channels=8, height=12, width=16, group=2, offset_group=4, reach=2.0),
}


def installed(name: str) -> str:
    if find_spec(SDKS[name]) is None:
        pytest.skip(f"{SDKS[name]} isn't installed: pip install 'superlower[{name}]'")
    return name


def alignment(case: Deform) -> ir.Model:
    """The convolution between others, as models have it: flow-guided features in, features out."""
    model = case.model()
    (node,) = model.graph
    first = ir.node("LeakyRelu", [model.graph.inputs[0]], {"alpha": 0.1}, name="before")
    first.outputs[0].name = "before_out"
    node.replace_input_with(0, first.outputs[0])
    model.graph.insert_before(node, first)
    return infer_shapes(model)


@pytest.mark.parametrize("case", DEFORMS.values(), ids=DEFORMS)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tvm"])
def test_deform_conv_runs_everywhere(name: str, case: Deform, cpu_target: Target, tmp_path: Path) -> None:
    backend = registry.backend(installed(name))
    feeds = case.feeds()
    legal, reports = apply(alignment(case), backend.legalize(cpu_target, Precision.FP32), [feeds])
    assert any(report.applied.kept or report.applied.rewritten for report in reports)
    artifact = backend.compile(legal, cpu_target, BuildOptions(threads=1), tmp_path)
    session = backend.load(artifact, tmp_path)
    try:
        found = session.run(feeds)["out0"]
    finally:
        session.close()
    features = np.where(feeds["x"] < 0, np.float32(0.1) * feeds["x"], feeds["x"])
    assert np.abs(found - case.reference({**feeds, "x": features})).max() <= AGREES


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_deform_conv_builds_for_rtx(precision: Precision, tmp_path: Path) -> None:
    """Its parser refuses DeformConv, so this is what lowering is for; its product is typed with the rest."""
    backend, card = registry.backend(installed("tensorrt-rtx")), target("rtx3090")
    case = DEFORMS["offset-groups"]
    refused = [node.op for node in backend.coverage(alignment(case), card, precision) if node.detail]
    assert refused == ["DeformConv"]
    legal, reports = apply(alignment(case), backend.legalize(card, precision))
    (site,) = next(r for r in reports if r.name == SelectLowering.name).applied.rewritten
    assert site.detail == "DeformConv as grid-sample: by rule: its parser has no DeformConv"
    (conv,) = (node for node in legal.graph if node.op_type == "Conv")
    (sampler,) = (node for node in legal.graph if node.op_type == "GridSample")
    half = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}.get(precision, ir.DataType.FLOAT)
    assert {value.dtype for value in conv.inputs if value is not None} == {half}
    assert {value.dtype for value in sampler.inputs if value is not None} == {ir.DataType.FLOAT}
    artifact = backend.compile(legal, card, BuildOptions(precision=precision), tmp_path)
    assert (tmp_path / artifact.files["engine"]).stat().st_size > 0


@pytest.mark.parametrize("name", SDKS)
def test_coverage_says_how_deform_conv_is_served(name: str, cpu_target: Target) -> None:
    backend = registry.backend(installed(name))
    where = target("rtx3090") if name == "tensorrt-rtx" else cpu_target
    (node,) = backend.coverage(DEFORMS["offset-groups"].model(), where, Precision.FP32)
    native = name == "onnxruntime"
    assert node.support is (Support.NATIVE if native else Support.REWRITTEN)
    assert native or node.detail == "select-lowering"


AMPLIFIED = 100.0
"""Grid units that a sample's unit moves the next sampler by: half a rounding of 2^-24 a sampler of 64 pixels,
some 1e-5 px, comes out as 0.03 of white noise's range. Budget: 0.001."""


def chained(gain: float) -> tuple[ir.Model, dict[str, Array]]:
    """Two warps of white noise, the first sample being the second one's flow."""
    g = GraphBuilder()
    x, grid = g.input("x", 1, 1, 64, 64), g.input("grid", 1, 64, 64, 2)
    how = {"mode": "bilinear", "padding_mode": "border", "align_corners": 1}
    flow = g.Reshape(g.GridSample(x, grid, **how), g.ints(1, 64, 64, 1))
    moved = g.Sin(g.Mul(flow, g.const(gain)))
    warped = g.GridSample(x, g.Concat(moved, moved, axis=3), **how)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.random((1, 1, 64, 64)), "grid": rng.uniform(-1, 1, (1, 64, 64, 2))}
    return g.model(warped), {name: array.astype(np.float32) for name, array in feeds.items()}


def test_a_warp_whose_roundings_are_amplified_is_spared(cpu_target: Target) -> None:
    model, feeds = chained(AMPLIFIED)
    first, second = (node.name for node in model.graph if node.op_type == "GridSample")
    legal, (report,) = apply(model, [SelectLowering.of("onnxruntime", cpu_target)], [feeds])
    assert report.spared == (first,)
    assert [site.node for site in report.applied.rewritten] == [second]
    (site,) = report.applied.refused
    assert site.node == first
    assert re.fullmatch(
        r"not GridSample as .* native.*: all sites so moved output 'out0' by .*, over the budget of 0.001",
        site.detail,
    )
    assert report.deviation is not None
    assert 0 < report.deviation.relative <= report.budget.relative
    aligned = [n.attributes["align_corners"].value for n in legal.graph if n.op_type == "GridSample"]
    assert aligned == [1, 0], "the first as it was, the second in ONNX Runtime's fast form"


def test_no_warp_is_spared_without_need(cpu_target: Target) -> None:
    model, feeds = chained(0.01)
    _, (report,) = apply(model, [SelectLowering.of("onnxruntime", cpu_target)], [feeds])
    assert report.spared == ()
    assert not report.applied.refused
    assert len(report.applied.rewritten) == 2


def test_what_a_backend_needs_is_never_spared(cpu_target: Target) -> None:
    case = DEFORMS["offset-groups"]
    model = case.model()
    (node,) = model.graph
    steep = ir.node("Mul", [node.outputs[0], ir.Value(name="steepness")], name="steep")
    wave = ir.node("Sin", [steep.outputs[0]], name="wave")
    steepness = ir.Value(name="steepness", const_value=ir.tensor(np.float32(1e5), name="steepness"))
    steep.replace_input_with(1, steepness)
    model.graph.register_initializer(steepness)
    out = node.outputs[0]
    out.name, wave.outputs[0].name = "deformed", out.name
    wave.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs[0] = wave.outputs[0]
    model.graph.extend([steep, wave])
    with pytest.raises(OutputsDifferError, match=r"pass select-lowering .* over its budget of 0\.001"):
        apply(infer_shapes(model), [SelectLowering.of("tvm", cpu_target)], [case.feeds()])
    _, (report,) = apply(infer_shapes(model), [SelectLowering.of("onnxruntime", cpu_target)], [case.feeds()])
    assert not report.applied.rewritten


def test_no_backend_no_choice() -> None:
    model = DEFORMS["offset-groups"].model()
    assert not SelectLowering().run(model).changed
