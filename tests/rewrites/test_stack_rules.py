"""Operators over stacks of frames: taken apart where that is the same, and only there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from superlower.ir import serialize
from superlower.program.model import TemporalModel
from superlower.rewrites.hoist_frames import HoistFrames
from support.windows import SIDE, WindowBuilder, clip, run, window

OFFSETS = (-1, 0, 1)
Op = Callable[[WindowBuilder, ir.Value], ir.Value]


def weight(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * 0.3


def per_channel(channels: int = 4) -> list[np.ndarray]:
    return [np.linspace(0.5, 1.5, channels) + i for i in range(4)]


def grid(g: WindowBuilder, x: ir.Value) -> ir.Value:
    """Sampling positions that are computed from the stack too."""
    flow = g.Tanh(g.Conv(x, g.const(weight(2, 4, 1, 1))))
    return g.Transpose(flow, perm=[0, 2, 3, 1])


def deform(g: WindowBuilder, x: ir.Value) -> ir.Value:
    offset = g.Conv(x, g.const(weight(18, 4, 1, 1)))
    mask = g.Sigmoid(g.Conv(x, g.const(weight(9, 4, 1, 1))))
    return g.DeformConv(x, g.const(weight(2, 4, 3, 3)), offset, g.const([0.1, 0.2]), mask, pads=[1] * 4)


def split(g: WindowBuilder, x: ir.Value) -> ir.Value:
    a, b = g.Split(x, g.ints(1, 3), axis=1, outputs=2)
    return g.Mul(a, b)


TAKEN_APART: dict[str, Op] = {
    "Relu": lambda g, x: g.Relu(x),
    "Clip": lambda g, x: g.Clip(x, g.const(-0.1), g.const(0.1)),
    "Add": lambda g, x: g.Add(x, g.const(per_channel()[0].reshape(4, 1, 1))),
    "Sub": lambda g, x: g.Sub(g.const(np.ones((3, 1, 1, 1))), x),
    "Mul": lambda g, x: g.Mul(x, x),
    "PRelu": lambda g, x: g.PRelu(x, g.const(per_channel()[0].reshape(4, 1, 1))),
    "Where": lambda g, x: g.Where(g.Greater(x, g.const(0)), x, g.const(2)),
    "Conv": lambda g, x: g.Conv(x, g.const(weight(4, 2, 3, 3)), group=2, pads=[1] * 4),
    "ConvTranspose": lambda g, x: g.ConvTranspose(x, g.const(weight(4, 3, 3, 3)), strides=[2, 2]),
    "MaxPool": lambda g, x: g.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool": lambda g, x: g.AveragePool(x, kernel_shape=[3, 3]),
    "GlobalAveragePool": lambda g, x: g.Mul(x, g.GlobalAveragePool(x)),
    "DepthToSpace": lambda g, x: g.DepthToSpace(x, blocksize=2),
    "SpaceToDepth": lambda g, x: g.SpaceToDepth(x, blocksize=2),
    "InstanceNormalization": lambda g, x: g.InstanceNormalization(x, *map(g.const, per_channel()[:2])),
    "BatchNormalization": lambda g, x: g.BatchNormalization(x, *map(g.const, per_channel())),
    "LayerNormalization": lambda g, x: g.LayerNormalization(x, g.const(weight(SIDE)), axis=-1),
    "Softmax": lambda g, x: g.Softmax(x, axis=1),
    "GridSample": lambda g, x: g.GridSample(x, grid(g, x)),
    "DeformConv": deform,
    "Resize": lambda g, x: g.Resize(x, None, g.const([1, 1, 2, 2]), mode="linear"),
    "Resize sizes": lambda g, x: g.Resize(x, None, None, g.ints(3, 4, 5, 6), mode="nearest"),
    "Resize axes": lambda g, x: g.Resize(x, None, None, g.ints(5, 6), axes=[2, 3]),
    "Pad": lambda g, x: g.Pad(x, g.ints(0, 0, 1, 2, 0, 0, 3, 4)),
    "Pad axes": lambda g, x: g.Pad(x, g.ints(1, 2), g.const(0.5), g.ints(-1)),
    "Split": split,
    "MatMul": lambda g, x: g.MatMul(x, g.const(weight(SIDE, 3))),
    "ReduceMean": lambda g, x: g.ReduceMean(x, g.ints(1), keepdims=1),
    "ReduceMax": lambda g, x: g.Unsqueeze(g.ReduceMax(x, g.ints(-1), keepdims=0), g.ints(3)),
    "Concat": lambda g, x: g.Relu(g.Concat(x, g.Neg(x), axis=1)),
    "Transpose": lambda g, x: g.Transpose(
        g.Sqrt(g.Abs(g.Transpose(x, perm=[2, 0, 3, 1]))), perm=[1, 3, 0, 2]
    ),
    "Sigmoid": lambda g, x: g.Reshape(
        g.Sigmoid(g.Reshape(x, g.ints(1, 3, -1, SIDE))), g.ints(-1, 4, SIDE, SIDE)
    ),
    "Slice": lambda g, x: g.Exp(g.Slice(x, g.ints(0, -1), g.ints(99, -99), g.ints(2, 3), g.ints(2, -2))),
    "Gather": lambda g, x: g.Exp(g.Gather(x, g.const([2, 0, 2], np.int64), axis=1)),
}

KEPT: dict[str, Op] = {
    "Softmax": lambda g, x: g.Softmax(x, axis=0),
    "ReduceMean": lambda g, x: g.Sub(x, g.ReduceMean(x, g.ints(0))),
    "Add": lambda g, x: g.Add(x, g.const(np.arange(3).reshape(3, 1, 1, 1))),
    "LayerNormalization": lambda g, x: g.LayerNormalization(x, g.const(weight(3, 4, 8, 8)), axis=0),
    "Pad": lambda g, x: g.Pad(x, g.ints(1, 0, 0, 0, 0, 0, 0, 0)),
    "MatMul": lambda g, x: g.MatMul(g.const(weight(3, 3)), g.Reshape(x, g.ints(3, -1))),
    "CumSum": lambda g, x: g.CumSum(x, g.const(0, np.int64)),
    "Resize": lambda g, x: g.Resize(x, None, g.const([2, 1, 1, 1]), mode="nearest"),
}


def batched(op: Op, *, axis: int = 0) -> TemporalModel:
    """A convolution over the stacked frames, the operator, and a picture made of each entry's mean."""
    g = WindowBuilder()
    xs = g.frames(*OFFSETS)
    if axis == 0:
        stack = g.Concat(*xs, axis=0)
    else:
        stack = g.Reshape(
            g.Concat(*(g.Unsqueeze(x, g.ints(1)) for x in xs), axis=1), g.ints(-1, 3, SIDE, SIDE)
        )
    y = op(g, g.conv(stack, 3, 4, 1))
    out = xs[1]
    for i in range(3):
        # By scalar, by list and by slice: as exporters take a frame out.
        entry = [
            lambda i=i: g.Unsqueeze(g.Gather(y, g.const(i, np.int64), axis=0), g.ints(0)),
            lambda i=i: g.Gather(y, g.ints(i), axis=0),
            lambda i=i: g.Slice(y, g.ints(i), g.ints(i + 1), g.ints(0)),
        ][i]()
        mean = g.ReduceMean(g.Tanh(entry), keepdims=0)
        out = g.Add(out, g.Mul(g.Reshape(mean, g.ints(1, 1, 1, 1)), g.const(weight(1, 3, 8, 8, seed=i))))
    return window(g, out, OFFSETS)


def all_ops(model: TemporalModel, graph: str) -> set[str]:
    return {node.op_type for node in model.graphs[graph].graph}


def same(before: TemporalModel, after: TemporalModel) -> None:
    for graph in after.graphs.values():
        onnx.checker.check_model(serialize(graph.clone()), full_check=True)
    for old, new in zip(run(before, clip(4))[0], run(after, clip(4))[0], strict=True):
        # 3 means of tanh, each within 10 roundings of 2^-24 in either batch, times weights below 2.
        np.testing.assert_allclose(new, old, rtol=0, atol=3 * 2 * 2 * 10 * 2.0**-24)


@pytest.mark.parametrize(
    ("name", "axis"),
    [*((name, 0) for name in TAKEN_APART), *((name, 1) for name in ("Conv", "Resize sizes", "Split"))],
)
def test_taken_apart(name: str, axis: int) -> None:
    model = batched(TAKEN_APART[name], axis=axis)
    after = HoistFrames().run(model).model
    assert set(after.graphs) == {"of_frame", "step"}
    assert name.split(maxsplit=1)[0] in all_ops(after, "of_frame")
    assert "Concat" not in all_ops(after, "step")
    assert "Tanh" not in all_ops(after, "step"), "not even the entries were found"
    same(model, after)


@pytest.mark.parametrize("name", KEPT)
def test_kept_whole(name: str) -> None:
    """The convolution is hoisted; what mixes the stack's entries gets them joined again."""
    model = batched(KEPT[name])
    after = HoistFrames().run(model).model
    assert "Conv" in all_ops(after, "of_frame")
    assert name not in all_ops(after, "of_frame")
    assert name in all_ops(after, "step")
    assert "Concat" in all_ops(after, "step") or name == "Add"
    same(model, after)


def test_a_reshape_that_mixes_frames() -> None:
    model = batched(
        lambda g, x: g.Reshape(g.Relu(g.Reshape(x, g.ints(4, 3, SIDE, SIDE))), g.ints(3, 4, SIDE, SIDE))
    )
    after = HoistFrames().run(model).model
    assert "Relu" in all_ops(after, "step")
    same(model, after)


def test_indices_of_a_pool_count_through_the_batch() -> None:
    def pool(g: WindowBuilder, x: ir.Value) -> ir.Value:
        largest, indices = g.MaxPool(x, kernel_shape=[2, 2], outputs=2)
        return g.Add(largest, g.Cast(indices, to=ir.DataType.FLOAT))

    model = batched(pool)
    after = HoistFrames().run(model).model
    assert "MaxPool" in all_ops(after, "step")
    same(model, after)


def test_runs_of_the_stack() -> None:
    """BasicVSR's spelling of neighbours: x[:-1] and x[1:], one flow network over all pairs."""
    g = WindowBuilder()
    x = g.Concat(*g.frames(*OFFSETS), axis=0)
    first, second = g.Slice(x, g.ints(0), g.ints(-1), g.ints(0)), g.Slice(x, g.ints(1), g.ints(3), g.ints(0))
    flows = g.net(g.Concat(first, second, axis=1), 1, 6)
    halves = [g.Gather(flows, g.ints(i), axis=0) for i in (1, 0)]
    model = window(g, g.conv(g.Concat(*halves, axis=1), 8, 3, 9), OFFSETS)
    after = HoistFrames().run(model).model
    reads = {e.name: sorted(e.inputs.values()) for e in after.program.equations}
    assert reads["of_frame_0_1"] == ["frame[t+1]", "frame[t]"]
    assert reads["step"] == ["of_frame_0_1[t-1]", "of_frame_0_1[t]"]
    same(model, after)


def test_steps_and_parts_of_parts() -> None:
    """Stacks of pairs: a slice that takes one channel of each, and one that starts within a part."""
    g = WindowBuilder()
    x = g.Concat(*g.frames(*OFFSETS), axis=1)
    every = g.Slice(x, g.ints(0), g.ints(9), g.ints(1), g.ints(3))
    inside = g.Slice(g.Relu(x), g.ints(2), g.ints(7), g.ints(1))
    model = window(g, g.conv(g.Concat(every, inside, axis=1), 8, 3, 9), OFFSETS)
    same(model, HoistFrames().run(model).model)
