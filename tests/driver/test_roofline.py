"""Costs of graphs: operations and bytes by hand, and the bounds that follow on targets of round figures."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from superlower.driver.flops import Work
from superlower.driver.inspect_model import lone_cost, model_cost
from superlower.driver.roofline import Amount, calls_per_frame, figures, graph_cost, roofline
from superlower.targets.base import Figure, Precision, Target
from superlower.targets.catalog import target, targets
from support.models import bidirectional, recurrent

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def made(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    outputs: tuple[str, ...] = ("y",),
    constants: dict[str, np.ndarray] | None = None,
    types: dict[str, int] | None = None,
) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, (types or {}).get(n, FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def conv() -> ir.Model:
    """x (1, 4, 8, 9) -> Conv 3x3 to 5 channels with bias -> Relu -> y."""
    return made(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="c", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["y"], name="r"),
        ],
        {"x": (1, 4, 8, 9)},
        constants={"w": zeros(5, 4, 3, 3), "b": zeros(5)},
    )


X, Y, W = 4 * 8 * 9, 5 * 8 * 9, 5 * 4 * 9 + 5
"""Elements of its input, its output and its weights."""


def test_a_convolution_by_hand() -> None:
    cost = graph_cost(conv())
    assert cost.flops == {
        Work.CONV: 2 * Y * 4 * 9 + Y,
        Work.DEFORM_CONV: 0,
        Work.MATMUL: 0,
        Work.ELEMENTWISE: Y,
    }
    assert cost.weights == Amount(floats=W)
    assert (cost.inputs, cost.outputs) == (Amount(floats=X), Amount(floats=Y))
    # The convolution reads x and writes c; the Relu reads c and writes y.
    assert cost.moved == Amount(floats=X + 3 * Y)
    assert cost.least.nbytes() == 4 * (X + Y + W)
    assert cost.least.nbytes(Precision.FP16) == 2 * (X + Y + W)
    assert cost.intensity() == cost.total / (4 * (X + Y + W))


@pytest.mark.parametrize(
    ("node", "inputs", "constants", "kind", "flops"),
    [
        (("MatMul", "a", "b"), {"a": (2, 3, 4), "b": (4, 5)}, {}, Work.MATMUL, 2 * 2 * 3 * 5 * 4),
        (("Gemm", "a", "b"), {"a": (3, 4)}, {"b": zeros(4, 5)}, Work.MATMUL, 2 * 3 * 5 * 4),
        (("Gemm", "a", "b", "c"), {"a": (4, 3)}, {"b": zeros(4, 5), "c": zeros(5)}, Work.MATMUL, 2 * 60 + 15),
        (("Einsum", "a", "b"), {"a": (3, 4), "b": (4, 5)}, {}, Work.MATMUL, 2 * 3 * 4 * 5),
        (("Add", "a", "b"), {"a": (2, 3), "b": (3,)}, {}, Work.ELEMENTWISE, 6),
        (("GridSample", "a", "b"), {"a": (1, 3, 9, 9), "b": (1, 4, 5, 2)}, {}, Work.ELEMENTWISE, 60 * 7),
        (("AveragePool", "a"), {"a": (1, 3, 8, 8)}, {}, Work.ELEMENTWISE, 3 * 4 * 4 * 4),
        (("ReduceMean", "a"), {"a": (3, 8)}, {}, Work.ELEMENTWISE, 24),
        (("Transpose", "a"), {"a": (3, 8)}, {}, Work.ELEMENTWISE, 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and isinstance(value[0], str) else "",
)
def test_operations_by_hand(node, inputs, constants, kind, flops) -> None:
    attributes: dict[str, object] = {
        "Einsum": {"equation": "ij,jk->ik"},
        "AveragePool": {"kernel_shape": [2, 2], "strides": [2, 2]},
        "Gemm": {"transA": int(inputs["a"] == (4, 3))},
    }.get(node[0], {})
    operator, *reads = node
    model = made(
        [helper.make_node(operator, reads, ["y"], name="n", **attributes)], inputs, constants=constants
    )
    found = graph_cost(model)
    assert found.flops[kind] == found.total == flops


@pytest.mark.parametrize("masked", [False, True])
def test_a_deformable_convolution_by_hand(masked: bool) -> None:
    """Products as a convolution's; 4 x 9 samples for each place, of four pixels each, and the mask."""
    inputs = {"x": (1, 4, 8, 8), "o": (1, 2 * 2 * 9, 8, 8), "m": (1, 2 * 9, 8, 8)}
    reads = ["x", "w", "o", "", "m"] if masked else ["x", "w", "o"]
    node = helper.make_node("DeformConv", reads, ["y"], name="d", offset_group=2, pads=[1] * 4)
    given = {name: shape for name, shape in inputs.items() if name in reads}
    cost = graph_cost(made([node], given, constants={"w": zeros(6, 4, 3, 3)}))
    assert cost.flops[Work.DEFORM_CONV] == 2 * 6 * 64 * 4 * 9
    assert cost.flops[Work.ELEMENTWISE] == 4 * 9 * 64 * (8 if masked else 7)
    assert cost.flops[Work.CONV] == 0


def test_views_and_sizes_move_nothing_and_indices_keep_their_bytes() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], name="r"),
        helper.make_node("Gather", ["r", "i"], ["y"], name="g"),
    ]
    model = made(
        nodes,
        {"x": (4, 6), "i": (5,)},
        constants={"shape": np.array([3, 8], np.int64)},
        types={"i": INT64},
    )
    cost = graph_cost(model)
    assert [node.moved for node in cost.nodes] == [Amount(), Amount(floats=24 + 40, other=40)]
    assert cost.moved.nbytes(Precision.FP16) == 2 * 64 + 40
    assert cost.total == 0


def test_a_weight_read_twice_is_loaded_once() -> None:
    nodes = [helper.make_node("Mul", [x, "w"], [y], name=y) for x, y in (("x", "a"), ("a", "y"))]
    assert graph_cost(made(nodes, {"x": (5,)}, constants={"w": zeros(5)})).weights == Amount(floats=5)


def test_what_has_no_known_size_is_named() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"], name="where"),
        helper.make_node("Cast", ["i"], ["f"], name="cast", to=FLOAT),
        helper.make_node("Neg", ["f"], ["y"], name="negated"),
    ]
    cost = graph_cost(made(nodes, {"x": (4, 6)}))
    assert "negated" in cost.uncounted
    assert cost.total == 0


def card(**peaks: float) -> Target:
    """A target of round figures: 100 GB/s."""
    return Target(
        name="card",
        title="A card",
        kind="nvidia-gpu",
        architecture="Any",
        compute_capability=80,
        precisions=tuple(map(Precision, peaks)),
        backends={},
        tvm={"kind": "cuda"},
        bandwidth_gbs=Figure(value=100, source="made up"),
        peak_tops={name: Figure(value=value, source="made up") for name, value in peaks.items()},
    )


def test_the_bound_is_the_larger_of_two_times() -> None:
    cost = graph_cost(conv())
    fast, slow = roofline(cost, card(fp32=1), Precision.FP32), roofline(cost, card(fp32=1e-3), Precision.FP32)
    assert fast is not None
    assert slow is not None
    assert fast.memory_s == slow.memory_s == pytest.approx(cost.least.nbytes() / 100e9)
    assert fast.compute_s == pytest.approx(cost.total / 1e12)
    assert (fast.limit, fast.seconds) == ("memory", fast.memory_s)
    assert (slow.limit, slow.seconds) == ("compute", slow.compute_s)
    half = roofline(cost, card(fp32=1, fp16=2), Precision.FP16)
    assert half is not None
    assert half.seconds == pytest.approx(fast.seconds / 2)


def test_targets_without_figures_have_no_bound() -> None:
    assert roofline(graph_cost(conv()), target("intel-gpu"), Precision.FP32) is None
    assert roofline(graph_cost(conv()), card(fp32=1), Precision.FP16) is None
    assert figures(target("v100"), Precision.FP16) == (125e12, 900e9)


def test_calls_follow_the_schedule() -> None:
    program = bidirectional().program
    calls = calls_per_frame(program, 10)
    assert set(calls) == {equation.graph for equation in program.equations}
    assert all(0 < count <= len(program.equations) for count in calls.values())
    assert calls_per_frame(recurrent().program, 7) == {e.graph: 1.0 for e in recurrent().program.equations}


def test_a_frame_is_its_calls() -> None:
    model = bidirectional()
    cost = model_cost(model, 10)
    expected = sum(cost.calls[name] * graph_cost(graph).total for name, graph in model.graphs.items())
    assert cost.total == pytest.approx(expected)
    for bound in cost.bounds(targets()):
        alone = {n: roofline(c, target(bound.target), bound.precision) for n, c in cost.graphs.items()}
        assert bound.seconds == pytest.approx(sum(cost.calls[n] * b.seconds for n, b in alone.items() if b))
    found = {(bound.target, bound.precision) for bound in cost.bounds(targets())}
    assert ("v100", Precision.FP16) in found
    assert ("v100", Precision.FP8) not in found


def test_a_graph_alone_is_called_once() -> None:
    cost = lone_cost("g", conv())
    assert cost.total == graph_cost(conv()).total
    assert cost.least_bytes(Precision.FP16) == 2 * (X + Y + W)
    assert cost.moved_bytes() == 4 * (X + 3 * Y)
