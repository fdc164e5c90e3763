"""Coverage by probing: asked with SDKs made up here, whose answers are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.backends.base import NodeSupport, Support
from superlower.backends.probe import coverage, native, probe_nodes, refusal, single_node_model
from superlower.ir import constant_value, infer_shapes, serialize
from superlower.passes.base import Applied, Pass, Site


def graph(body: str, inputs: str = "float[1,4,8,8] x", outputs: str = "float[1,4,8,8] y") -> ir.Model:
    opsets = '<ir_version: 10, opset_import: ["": 19, "my": 1]>'
    return infer_shapes(ir.from_onnx_text(f"{opsets} g ({inputs}) => ({outputs}) {{ {body} }}"))


class Sdk:
    """Takes every operator but some, and remembers what it was asked."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.asked: list[list[str]] = []

    def __call__(self, model: ir.Model) -> str | None:
        ops = [node.op_type for node in model.graph]
        self.asked.append(ops)
        bad = [op for op in ops if op in self.refused]
        return f"no rule for {bad[0]}" if bad else None


def supports(found: list[NodeSupport]) -> list[tuple[str, Support]]:
    return [(node.op, node.support) for node in found]


def test_a_graph_taken_whole_is_asked_about_once(warp_step_model: ir.Model) -> None:
    sdk = Sdk()
    found = coverage(warp_step_model, sdk)
    assert found == native(warp_step_model)
    assert [node.node for node in found] == [node.name for node in warp_step_model.graph]
    assert len(sdk.asked) == 1


def test_one_refused_node_hides_no_other(warp_step_model: ir.Model) -> None:
    found = coverage(warp_step_model, Sdk("GridSample", "DepthToSpace"))
    refused = [(node.node, node.detail) for node in found if node.support is Support.UNSUPPORTED]
    assert refused == [
        ("warp.sample", "no rule for GridSample"),
        ("up.0.shuffle", "no rule for DepthToSpace"),
        ("up.1.shuffle", "no rule for DepthToSpace"),
    ]
    assert len(found) == len(warp_step_model.graph)
    told = refusal(found)
    assert told == "GridSample at node 'warp.sample' (and 2 more): no rule for GridSample"


def test_like_nodes_are_asked_about_once(warp_step_model: ir.Model) -> None:
    sdk = Sdk()
    probe_nodes(warp_step_model, sdk)
    convs = [ops for ops in sdk.asked if ops == ["Conv"]]
    # Of 8 convolutions the four inside the trunk are alike, and the two before a shuffle differ in size.
    assert len(convs) == 5


def test_small_constants_tell_nodes_apart_and_weights_do_not() -> None:
    model = graph(
        """a0 = Constant<value = int64[1] {2}>()
           a1 = Constant<value = int64[1] {3}>()
           r0 = ReduceMax<keepdims=1>(x, a0)
           r1 = ReduceMax<keepdims=1>(x, a1)
           y = Add(r0, r1)"""
    )
    sdk = Sdk()
    probe_nodes(model, sdk)
    assert sum("ReduceMax" in ops for ops in sdk.asked) == 2


def test_a_node_alone_keeps_its_types_shapes_attributes_and_constants(warp_step_model: ir.Model) -> None:
    for node in warp_step_model.graph:
        alone = single_node_model(warp_step_model, node)
        again = ir.from_proto(ir.to_proto(alone))
        [copy] = again.graph
        assert (copy.op_type, copy.domain, copy.name) == (node.op_type, node.domain, node.name)
        assert copy.attributes.keys() == node.attributes.keys()
        assert again.opset_imports[""] == 19
        for mine, theirs in zip(copy.inputs, node.inputs, strict=True):
            if theirs is None:
                assert mine is None
                continue
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            if (value := constant_value(theirs)) is not None:
                np.testing.assert_array_equal(constant_value(mine), value)
        assert [v.shape for v in again.graph.outputs] == [v.shape for v in node.outputs]


@pytest.mark.parametrize(
    "body",
    [
        "y = Mul(x, x)",
        "s = Constant<value = float[1] {0.5}>() z = Constant<value = int8[1] {0}>() "
        "q = Constant<value = int8[1] {4}>() w = DequantizeLinear(q, s, z) y = Mul(x, w)",
        "c = Constant<value = bool {1}>() "
        "y = If(c) <then_branch = t () => (float[1,4,8,8] a) { a = Relu(x) }, "
        "else_branch = e () => (float[1,4,8,8] b) { b = Neg(x) }>",
    ],
    ids=["one input twice", "dequantised weight", "captured by a branch"],
)
def test_the_last_node_alone_is_a_valid_model_over_x(body: str) -> None:
    import onnx

    model = graph(body)
    alone = single_node_model(model, list(model.graph)[-1])
    assert [value.name for value in alone.graph.inputs] == ["x"]
    onnx.checker.check_model(onnx.load_from_string(serialize(alone)), full_check=True)


def test_nodes_without_a_name_go_by_their_output() -> None:
    found = coverage(graph("a = Relu(x) y = Neg(a)"), Sdk("Neg"))
    assert [node.node for node in found] == ["a", "y"]


def test_what_follows_an_unknown_operator_says_that_it_cannot_be_asked() -> None:
    found = coverage(graph("a = my.Frob(x) b = Relu(a) y = Neg(x)"), Sdk("Frob", "Relu"))
    assert supports(found) == [
        ("my::Frob", Support.UNSUPPORTED),
        ("Relu", Support.UNSUPPORTED),
        ("Neg", Support.NATIVE),
    ]
    assert found[1].detail.startswith("can't be asked: its input 'a' has no type")


class Rewrite(Pass):
    """Neg(x) -> the operator asked for."""

    name = "rewrite-neg"
    into = "Abs"

    def run(self, model: ir.Model) -> Applied:
        sites = []
        for node in model.graph:
            if node.op_type == "Neg":
                node.op_type = self.into
                sites.append(Site(node.name or str(node.outputs[0].name), f"Neg to {self.into}"))
        return Applied(rewritten=tuple(sites))


class RewriteBadly(Rewrite):
    name = "rewrite-neg-badly"
    into = "Exp"


def test_a_node_that_a_pass_makes_fit_is_rewritten() -> None:
    found = coverage(graph("a = Relu(x) y = Neg(a)"), Sdk("Neg"), [Rewrite()])
    assert supports(found) == [("Relu", Support.NATIVE), ("Neg", Support.REWRITTEN)]
    assert found[1].detail == "rewrite-neg"


def test_a_node_that_a_pass_leaves_unfit_is_not() -> None:
    found = coverage(graph("a = Relu(x) y = Neg(a)"), Sdk("Neg", "Exp"), [RewriteBadly()])
    assert supports(found)[1] == ("Neg", Support.UNSUPPORTED)
    assert found[1].detail == "after rewrite-neg-badly, Exp: no rule for Exp"


def test_coverage_leaves_the_model_as_it_was(warp_step_model: ir.Model) -> None:
    before = serialize(warp_step_model)
    coverage(warp_step_model, Sdk("GridSample"), [Rewrite()])
    assert serialize(warp_step_model) == before
