"""Graphs of several types: who gets which, what follows, where casts stand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from superlower.errors import BadInputError
from superlower.ir import infer_shapes, serialize
from superlower.passes._evaluate import evaluate
from superlower.passes.assign_precision import AssignPrecision
from superlower.passes.convert_opset import ConvertOpset
from superlower.passes.emulate_precision import EmulatePrecision
from superlower.passes.pipelines import apply
from superlower.passes.quantize import Quantize
from support.graphs import GraphBuilder, feeds_of

RNG = np.random.default_rng(0)
CHANNELS = 6


def conv(g: GraphBuilder, x: ir.Value, scale: float = 1.0) -> ir.Value:
    weight = scale * RNG.standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(CHANNELS * 9)
    return g.Conv(x, g.const(weight), pads=[1] * 4)


def block() -> ir.Model:
    """x + conv(relu(conv(x))), then a convolution of a shuffled one."""
    g = GraphBuilder()
    x = g.input("x", 1, CHANNELS, 8, 8)
    total = g.Add(x, conv(g, g.Relu(conv(g, x))))
    return infer_shapes(g.model(conv(g, total), total))


def names(model: ir.Model) -> list[str]:
    return [str(node.name) for node in model.graph if node.op_type == "Conv"]


def typed(model: ir.Model, types: dict[str, str], *before: object) -> ir.Model:
    opset = [ConvertOpset(22)] if "bf16" in types.values() else []
    made, _ = apply(model, [*opset, *before, AssignPrecision(types=types)])  # type: ignore[list-item]
    return infer_shapes(made)


def dtypes(model: ir.Model) -> dict[str, str]:
    return {str(n.name): n.outputs[0].dtype.name for n in model.graph if n.op_type in ("Conv", "Relu", "Add")}


def doubled_casts(model: ir.Model) -> int:
    makers = [n.inputs[0].producer() for n in model.graph if n.op_type == "Cast"]
    return sum(maker is not None and maker.op_type == "Cast" for maker in makers)


def test_what_rectifies_follows_and_what_is_not_named_stays() -> None:
    model = block()
    first, second, last = names(model)
    found = dtypes(typed(model, {first: "bf16"}))
    assert Counter(found.values()) == {"BFLOAT16": 2, "FLOAT": 3}
    assert (found[first], found[second], found[last]) == ("BFLOAT16", "FLOAT", "FLOAT")


def test_two_half_types_meet_in_one_cast() -> None:
    model = block()
    first, second, _ = names(model)
    made = typed(model, {first: "fp16", second: "bf16"})
    assert doubled_casts(made) == 0
    relu = next(node for node in made.graph if node.op_type == "Relu")
    (cast,) = [reader for reader, _ in relu.outputs[0].uses()]
    assert (cast.op_type, cast.outputs[0].dtype) == ("Cast", ir.DataType.BFLOAT16)


def test_a_sum_is_of_a_type_only_if_told() -> None:
    model = block()
    convs = dict.fromkeys(names(model), "bf16")
    assert Counter(dtypes(typed(model, convs)).values()) == {"BFLOAT16": 4, "FLOAT": 1}
    (add,) = [str(node.name) for node in model.graph if node.op_type == "Add"]
    whole = typed(model, {**convs, add: "bf16"})
    assert Counter(dtypes(whole).values()) == {"BFLOAT16": 5}
    assert all(v.dtype == ir.DataType.FLOAT for v in (*whole.graph.inputs, *whole.graph.outputs))


def test_quantized_convolutions_keep_fp32_between_their_levels() -> None:
    model = block()
    first, second, last = names(model)
    values = [v.name for v in (*model.graph.inputs, *(v for n in model.graph for v in n.outputs))]
    quantize = Quantize(ranges=dict.fromkeys(values, (-4.0, 4.0)), nodes=(first, second))
    made = typed(model, {last: "bf16"}, quantize)
    found = dtypes(made)
    assert (found[first], found[second], found[last]) == ("FLOAT", "FLOAT", "BFLOAT16")
    assert Counter(n.op_type for n in made.graph)["QuantizeLinear"] == 2


def test_a_type_that_the_opset_lacks_is_refused() -> None:
    model = block()
    first = names(model)[0]
    applied = AssignPrecision(types={first: "bf16"}).run(model.clone())
    assert [site.node for site in applied.refused] == [first]
    assert "no bfloat16 at opset 19" in applied.refused[0].detail
    with pytest.raises(BadInputError, match="none of fp16, bf16"):
        AssignPrecision(types={first: "int4"})


def test_what_computes_coordinates_is_refused() -> None:
    g = GraphBuilder()
    x, grid = g.input("x", 1, CHANNELS, 8, 8), g.input("grid", 1, 8, 8, 2)
    moved = g.Add(grid, grid)
    model = infer_shapes(g.model(g.GridSample(x, moved, align_corners=1)))
    (add,) = [str(n.name) for n in model.graph if n.op_type == "Add"]
    applied = AssignPrecision(types={add: "fp16"}).run(model)
    assert "coordinates" in applied.refused[0].detail
    assert not applied.changed


@pytest.mark.parametrize(("half", "bits"), [("fp16", 11), ("bf16", 8)])
def test_emulated_it_rounds_as_the_type_does(half: str, bits: int) -> None:
    model = block()
    told = {str(node.name): half for node in model.graph if node.op_type in ("Conv", "Add")}
    made, _ = apply(typed(model, told), [EmulatePrecision()])
    assert all(node.outputs[0].dtype == ir.DataType.FLOAT for node in made.graph if node.op_type == "Conv")
    feeds = feeds_of(model, 0, 1.0)
    exact, rounded = evaluate(model, feeds), evaluate(made, feeds)
    for name, wanted in exact.items():
        error = np.abs(rounded[name] - wanted).max() / max(1.0, np.abs(wanted).max())
        # Five nodes that round, each by half a step at the most, and what they read: not nothing, not more.
        assert 2.0**-bits / 16 < error < 12 * 2.0**-bits
    assert len(serialize(made)) > 0


def test_emulation_leaves_other_graphs_alone() -> None:
    assert not EmulatePrecision().run(block()).changed
