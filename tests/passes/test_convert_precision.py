"""fp16 graphs: valid, few casts, coordinates in fp32, within the budget."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.errors import BadInputError
from superlower.passes._evaluate import evaluate
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.convert_precision import ConvertPrecision
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.pipelines import apply
from superlower.passes.validate import seeded_feeds
from support.graphs import GraphBuilder, outcome

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def flow_network() -> ir.Model:
    """Two levels of a flow pyramid and a warp of features by the flow, which is an output too."""
    rng = np.random.default_rng(3)
    g = GraphBuilder()
    x, hidden = g.input("x", 1, 3, 16, 24), g.input("hidden", 1, 4, 16, 24)

    def conv(value: ir.Value, into: int, out: int) -> ir.Value:
        weight = g.const(rng.standard_normal((out, into, 3, 3)) / np.sqrt(9 * into))
        return g.Conv(value, weight, g.const(rng.standard_normal(out) * 0.1), pads=[1, 1, 1, 1])

    small = g.AveragePool(x, kernel_shape=[2, 2], strides=[2, 2])
    coarse = conv(g.Relu(conv(small, 3, 8)), 8, 2)
    up = g.Resize(coarse, None, g.const([1, 1, 2, 2]), mode="linear")
    up = g.Mul(up, g.const(2))
    flow = g.Add(conv(g.Concat(x, up, axis=1), 5, 2), up)
    rows, columns = np.mgrid[0:16, 0:24]
    moved = g.Add(g.Transpose(flow, perm=[0, 2, 3, 1]), g.const(np.stack([columns, rows], -1)[None]))
    grid = g.Sub(g.Mul(moved, g.const([2 / 23, 2 / 15])), g.const(1))
    warped = g.GridSample(hidden, grid, align_corners=1)
    out = g.Relu(conv(g.Concat(x, warped, axis=1), 7, 4))
    return g.model(out, flow)


PREPARE = (FoldConstants(), CollapseFlowWarp())


def types(model: ir.Model) -> dict[str, set[ir.DataType | None]]:
    found: dict[str, set[ir.DataType | None]] = {}
    for node in model.graph:
        found.setdefault(node.op_type, set()).add(node.outputs[0].dtype)
    return found


def test_arithmetic_is_half_and_coordinates_are_not() -> None:
    result = outcome(flow_network(), *PREPARE, ConvertPrecision(), spread=0.5)
    found = types(result.model)
    assert found["Conv"] == {HALF}
    assert found["Relu"] == {HALF}
    assert found["Concat"] == {HALF}
    for op in ("GridSample", "Mul", "Add", "Transpose", "Resize"):
        assert found[op] == {FLOAT}, op
    # In: x. Around the warp: its result (hidden is an fp32 input). Flows: two convolutions into fp32, the
    # upsampled one into the concatenation. Out: one (the flow is fp32 already).
    assert result.ops["Cast"] == 6
    assert {v.dtype for v in (*result.model.graph.inputs, *result.model.graph.outputs)} == {FLOAT}
    weights = [v for v in result.model.graph.initializers.values() if v.shape and len(v.shape) == 4]
    assert {v.dtype for v in weights if v.shape and v.shape[-1] == 3} == {HALF}
    relative = result.moved() / max(1.0, *(float(np.abs(a).max()) for a in result.before.values()))
    assert 0 < relative <= ConvertPrecision().budget.relative


def test_converted_inputs_and_outputs() -> None:
    model = flow_network()
    for one in PREPARE:
        one.run(model)
    ConvertPrecision(io="convert").run(model)
    assert {v.name: v.dtype for v in model.graph.inputs} == {"x": HALF, "hidden": FLOAT}
    assert {v.name: v.dtype for v in model.graph.outputs} == {"out0": HALF, "out1": FLOAT}


def test_without_coordinates_nothing_stays_but_the_ends() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    weight = g.const(np.random.default_rng(0).standard_normal((3, 3, 1, 1)) * 0.5)
    once = g.Conv(x, weight)
    up = g.Resize(g.Relu(g.Conv(g.Add(once, x), weight)), None, g.const([1, 1, 2, 2]), mode="linear")
    result = outcome(g.model(up), ConvertPrecision(), spread=1.0)
    assert result.ops["Cast"] == 2
    scales = next(n.inputs[2] for n in result.model.graph if n.op_type == "Resize")
    assert scales is not None
    assert scales.dtype == FLOAT


def test_a_clone_keeps_its_types() -> None:
    """onnx-ir clones share type objects: writing a dtype into one would change the other."""
    model = flow_network()
    copy = model.clone()
    ConvertPrecision().run(copy)
    assert {v.dtype for n in model.graph for v in n.outputs} == {FLOAT}


def test_bf16_needs_opset_22() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    out = g.Conv(x, g.const(np.ones((3, 3, 1, 1))))
    old = g.model(out, opset=19)
    applied = ConvertPrecision(to="bf16").run(old)
    assert [s.detail for s in applied.refused] == ["Conv has no bfloat16 at opset 19"]
    assert not applied.changed


def test_bf16_from_opset_22_on() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    model = g.model(g.Conv(x, g.const(np.ones((3, 3, 1, 1)))), opset=22)
    assert ConvertPrecision(to="bf16").run(model).changed
    assert types(model)["Conv"] == {ir.DataType.BFLOAT16}


def test_bf16_is_validated_by_rounding_results() -> None:
    model = flow_network()
    prepared, _ = apply(model, (ConvertOpset(22), *PREPARE))
    feeds = [seeded_feeds(prepared, 0)]
    half, (report,) = apply(prepared, [ConvertPrecision(to="bf16")], feeds)
    assert types(half)["Conv"] == {ir.DataType.BFLOAT16}
    assert types(half)["GridSample"] == {FLOAT}
    assert report.deviation is not None
    # Rounded to 8 bits and not to 11: coarser than fp16, finer than 70 such layers.
    assert 2.0**-11 < report.deviation.relative <= report.budget.relative == 70 * 2.0**-8


def test_bf16_inputs_and_outputs_are_emulated() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 1, 2, 2)
    model = g.model(g.Add(x, g.const(np.full((1, 1, 1, 1), 2.0**-7))), opset=22)
    ConvertPrecision(to="bf16", io="convert").run(model)
    assert model.graph.inputs[0].dtype == ir.DataType.BFLOAT16
    feeds = {"x": np.full((1, 1, 2, 2), 1.0, np.float32)}
    assert evaluate(model, feeds)["out0"].reshape(-1)[0] == 1 + 2.0**-7
    feeds = {"x": np.full((1, 1, 2, 2), 4.0, np.float32)}
    assert evaluate(model, feeds)["out0"].reshape(-1)[0] == 4.0, "bf16 has steps of 2^-5 at 4"


def test_constants_beyond_fp16_are_refused() -> None:
    g = GraphBuilder()
    model = g.model(g.Mul(g.input("x", 4), g.const(1e6)))
    (site,) = ConvertPrecision().run(model).refused
    assert site.detail == "constant 'c0' of Mul is over 65504"


@pytest.mark.parametrize("options", [{"to": "fp8"}, {"io": "both"}])
def test_unknown_options_are_named(options: dict[str, str]) -> None:
    with pytest.raises(BadInputError, match="to is fp16 or bf16, io is keep or convert"):
        ConvertPrecision(**options)
