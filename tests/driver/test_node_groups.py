"""Roles of nodes in a recurrence, by structure alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.driver.node_groups import NodeGroup, node_groups, together
from superlower.program.model import TemporalModel
from support.basicvsr import basicvsr_program
from support.graphs import GraphBuilder
from support.models import bidirectional, recurrent, window

SIDE = 8


def conv(g: GraphBuilder, x: ir.Value, into: int, out: int) -> ir.Value:
    weight = g.const(np.ones((out, into, 3, 3)))
    return g.Conv(x, weight, g.const(np.zeros(out)), pads=[1] * 4)


def warp(g: GraphBuilder, hidden: ir.Value, flow: ir.Value) -> ir.Value:
    return g.GridSample(hidden, g.Transpose(flow, perm=[0, 2, 3, 1]), align_corners=1)


def named(model: ir.Model, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> ir.Model:
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name
    return model


def propagation(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> ir.Model:
    """A sweep of BasicVSR with one residual block; the forward one upscales by four, too."""
    g = GraphBuilder()
    x, hidden = g.input("x", 1, 3, SIDE, SIDE), g.input("hidden", 1, 64, SIDE, SIDE)
    flow = g.input("flow", 1, 2, SIDE, SIDE)
    state = g.Relu(conv(g, g.Concat(x, warp(g, hidden, flow), axis=1), 67, 64))
    state = g.Add(state, conv(g, g.Relu(conv(g, state, 64, 64)), 64, 64))
    if len(outputs) == 1:
        return named(g.model(state), inputs, outputs)
    back = g.input("back", 1, 64, SIDE, SIDE)
    fused = conv(g, g.Concat(back, state, axis=1), 128, 48)
    picture = conv(g, g.DepthToSpace(fused, blocksize=4, mode="CRD"), 3, 3)
    large = g.Resize(x, None, g.const([1, 1, 4, 4]), mode="linear")
    return named(g.model(state, g.Add(picture, large)), inputs, outputs)


def flow_estimator() -> ir.Model:
    """A coarse flow, what it warps, and a residual: a sum of a convolution's result that is a flow."""
    g = GraphBuilder()
    ref, sup = g.input("ref", 1, 3, SIDE, SIDE), g.input("sup", 1, 3, SIDE, SIDE)
    coarse = conv(g, g.Concat(ref, sup, axis=1), 6, 2)
    finer = conv(g, g.Concat(ref, warp(g, sup, coarse), coarse, axis=1), 8, 2)
    return named(g.model(g.Add(coarse, finer)), ("ref", "sup"), ("flow",))


def basicvsr() -> TemporalModel:
    read = ("x", "hidden", "flow")
    graphs = {
        "flow": flow_estimator(),
        "backward": propagation(read, ("hidden_out",)),
        "forward": propagation((*read, "back"), ("hidden_out", "output")),
    }
    return TemporalModel(basicvsr_program(SIDE, SIDE), graphs)


def roles(model: TemporalModel) -> dict[str, dict[str, int]]:
    return {
        group.name: {g: len(names) for g, names in group.nodes.items()} for group in node_groups(model, 8)
    }


def test_roles_of_a_bidirectional_network_with_flows() -> None:
    assert roles(basicvsr()) == {
        "flow": {"flow": 2},
        "entry": {"backward": 1, "forward": 1},
        "trunk": {"backward": 2, "forward": 2},
        "sums": {"backward": 1, "forward": 1},
        "reconstruction": {"forward": 1},
        "last": {"forward": 1},
    }


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (recurrent, {"entry": {"step": 1}, "trunk": {"step": 1}, "last": {"step": 1}}),
        (window, {"reconstruction": {"step": 2}, "last": {"step": 1}}),
        (
            bidirectional,
            {"entry": {"back": 1}, "reconstruction": {"forth": 2}, "last": {"forth": 1}},
        ),
    ],
)
def test_roles_of_small_models(model, expected: dict[str, dict[str, int]]) -> None:
    assert roles(model()) == expected


def test_shares_add_up_and_follow_the_work() -> None:
    groups = {group.name: group for group in node_groups(basicvsr(), 8)}
    assert sum(group.share for group in groups.values()) == pytest.approx(1)
    # 64 channels into 64 against 67: twice as many of them.
    assert groups["trunk"].share / groups["entry"].share == pytest.approx(2 * 64 / 67)
    # A sum's 64 elements of 4 bytes at 16 operations a byte, against 2 * 9 * 64 * 64 of a convolution.
    assert groups["sums"].share / groups["trunk"].share == pytest.approx(64 * 4 * 16 / (2 * 2 * 9 * 64 * 64))


def test_halves_and_unions() -> None:
    group = NodeGroup("trunk", {"a": ("1", "2", "3"), "b": ("4",)}, 0.5)
    first, second = group.halves()
    assert (first.nodes, second.nodes) == ({"a": ("1", "2"), "b": ("4",)}, {"a": ("3",)})
    assert (first.count, second.count, group.count) == (3, 1, 4)
    assert together([second, first]) == {"a": ("3", "1", "2"), "b": ("4",)}
