"""A graph over several frames gives each what the graph over one gives it, or is refused by its node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from superlower.errors import OutputsDifferError
from superlower.ir import digest, serialize, static_shape
from superlower.passes._evaluate import evaluate
from superlower.passes.batching import UnbatchableError, batched, stack, validate_batched
from superlower.passes.validate import seeded_feeds
from support.graphs import GraphBuilder

Build = Callable[[GraphBuilder, ir.Value], ir.Value]
H, W = 6, 8


def weight(g: GraphBuilder, *shape: int) -> ir.Value:
    return g.const(np.random.default_rng(sum(shape)).standard_normal(shape) * 0.3)


def grid(g: GraphBuilder) -> ir.Value:
    rows, columns = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    return g.const(np.stack([columns, rows], -1)[None])


def warp(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """By a flow made of the frame, as flow-warp does."""
    flow = g.Transpose(g.Conv(x, weight(g, 2, 4, 1, 1)), perm=[0, 2, 3, 1])
    where = g.Add(grid(g), g.Mul(flow, g.const([0.1, 0.2])))
    return g.GridSample(x, where, mode="bilinear", padding_mode="zeros", align_corners=1)


GOOD: dict[str, Build] = {
    "convolutions": lambda g, x: g.Add(g.Relu(g.Conv(x, weight(g, 4, 4, 3, 3), pads=[1] * 4)), x),
    "warp": warp,
    "fixed warp": lambda g, x: g.GridSample(x, grid(g), align_corners=1),
    "pixel shuffle": lambda g, x: g.DepthToSpace(x, blocksize=2, mode="CRD"),
    "transposed convolution": lambda g, x: g.ConvTranspose(x, weight(g, 4, 2, 2, 2), strides=[2, 2]),
    "pools": lambda g, x: g.AveragePool(x, kernel_shape=[2, 2], strides=[2, 2]),
    "resize by scales": lambda g, x: g.Resize(x, None, g.const([1, 1, 2, 2]), mode="linear"),
    "resize by sizes": lambda g, x: g.Resize(x, None, None, g.ints(1, 4, 9, 5), mode="linear"),
    "joined with a constant": lambda g, x: g.Concat(x, weight(g, 1, 2, H, W), axis=1),
    "a constant for each channel": lambda g, x: g.Mul(x, weight(g, 4, 1, 1)),
    "reshaped channels": lambda g, x: g.Reshape(
        g.Transpose(g.Reshape(x, g.ints(1, 2, 2, H, W)), perm=[0, 2, 1, 3, 4]), g.ints(1, 4, H, W)
    ),
    "reshaped by a minus one": lambda g, x: g.Reshape(x, g.ints(1, -1, W)),
    "sliced and joined": lambda g, x: g.Concat(
        g.Slice(x, g.ints(2), g.ints(4), g.ints(1)), g.Slice(x, g.ints(0), g.ints(2), g.ints(-3)), axis=-3
    ),
    "split": lambda g, x: g.Add(*g.Split(x, g.ints(2, 2), outputs=2, axis=1)),
    "attention over channels": lambda g, x: g.Mul(x, g.Softmax(g.GlobalAveragePool(x), axis=1)),
    "mean": lambda g, x: g.Sub(x, g.ReduceMean(x, g.ints(2, 3), keepdims=1)),
    "dropped axis": lambda g, x: g.ReduceMean(x, g.ints(1), keepdims=0),
    "product": lambda g, x: g.MatMul(x, weight(g, W, 5)),
    "padded": lambda g, x: g.Pad(x, g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"),
    "squeezed": lambda g, x: g.Squeeze(g.Unsqueeze(x, g.ints(1)), g.ints(1)),
    "expanded": lambda g, x: g.Expand(g.ReduceMean(x, g.ints(1), keepdims=1), g.ints(1, 4, H, W)),
    "deformed": lambda g, x: g.DeformConv(
        x,
        weight(g, 4, 4, 3, 3),
        g.Conv(x, weight(g, 18, 4, 3, 3), pads=[1] * 4),
        kernel_shape=[3, 3],
        pads=[1] * 4,
    ),
    "gathered": lambda g, x: g.Gather(x, g.ints(3, 1), axis=1),
    "looked up": lambda g, x: g.Gather(
        weight(g, 9, 2), g.Cast(g.Clip(x, g.const(-1), g.const(1)), to=ir.DataType.INT32.value), axis=0
    ),
    "quantized": lambda g, x: g.DequantizeLinear(
        g.QuantizeLinear(x, g.const(0.02), g.const(128, np.uint8)), g.const(0.02), g.const(128, np.uint8)
    ),
}

BAD: dict[str, tuple[Build, str]] = {
    "frames joined": (lambda g, x: g.ReduceMean(g.Concat(x, x, axis=0), g.ints(0)), "Concat"),
    "frames averaged": (lambda g, x: g.ReduceMean(x, g.ints(0), keepdims=1), "along the first axis"),
    "all averaged": (lambda g, x: g.Mul(x, g.ReduceMean(x, keepdims=1)), "reduces over all frames"),
    "first axis moved": (lambda g, x: g.Transpose(x, perm=[1, 0, 2, 3]), "holds no single frame"),
    "first axis folded": (lambda g, x: g.Reshape(x, g.ints(4, H, W)), "holds no single frame"),
    "first axis dropped": (lambda g, x: g.Unsqueeze(g.Squeeze(x, g.ints(0)), g.ints(0)), "Squeeze"),
    "softmax over frames": (lambda g, x: g.Softmax(x, axis=0), "along the first axis"),
    "fewer axes": (
        lambda g, x: g.Add(g.ReduceMean(x, g.ints(1), keepdims=0), weight(g, 1, 4, H, W)),
        "fewer axes",
    ),
    "weights of the frame": (
        lambda g, x: g.Conv(x, g.Slice(x, g.ints(0, 0), g.ints(1, 1), g.ints(2, 3))),
        "weights that depend",
    ),
    "looked up elsewhere": (
        lambda g, x: g.Gather(weight(g, 1, 9), g.Cast(x, to=ir.DataType.INT32.value), axis=1),
        "another axis than the table's first",
    ),
    "unknown": (lambda g, x: g.CumSum(x, g.const(2, np.int64)), "isn't known to keep frames apart"),
    "constant": (lambda g, x: g.Relu(weight(g, 1, 4, H, W)), "doesn't depend on any input"),
}


def graph(build: Build, constants_as_nodes: bool = False) -> ir.Model:
    g = GraphBuilder(constants_as_nodes)
    x = g.input("x", 1, 4, H, W)
    return g.model(build(g, x))


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize("name", GOOD)
def test_each_frame_gets_its_own(name: str, as_nodes: bool) -> None:
    model = graph(GOOD[name], as_nodes)
    before = digest(model.clone())
    rebuilt = batched(model, 3)
    assert digest(model.clone()) == before
    onnx.checker.check_model(serialize(rebuilt.clone()), full_check=True)
    assert all((static_shape(v) or (0,))[0] == 3 for v in (*rebuilt.graph.inputs, *rebuilt.graph.outputs))
    feeds = [seeded_feeds(model, seed) for seed in range(3)]
    together = evaluate(rebuilt, stack(feeds))
    for k, feed in enumerate(feeds):
        for output, expected in evaluate(model, feed).items():
            # A convolution's sum of up to 36 products may be taken in another order: 36 roundings of 2^-24.
            np.testing.assert_allclose(together[output][k : k + 1], expected, rtol=3e-6, atol=3e-6)
    validate_batched(model, rebuilt, 3, feeds[:1])


@pytest.mark.parametrize("name", BAD)
def test_what_mixes_frames_is_refused(name: str) -> None:
    build, reason = BAD[name]
    with pytest.raises(UnbatchableError, match=reason):
        batched(graph(build), 2)


def test_sizes_that_arent_static_are_refused() -> None:
    g = GraphBuilder()
    x = ir.Value(name="x", shape=ir.Shape([1, 4, "H", 8]), type=ir.TensorType(ir.DataType.FLOAT))
    g.inputs.append(x)
    with pytest.raises(UnbatchableError, match="isn't one frame"):
        batched(g.model(g.Relu(x)), 2)


def test_validation_sees_frames_that_are_mixed() -> None:
    model = graph(GOOD["convolutions"])
    g = GraphBuilder()
    x = g.input("x", 2, 4, H, W)
    first = g.Slice(x, g.ints(0), g.ints(1), g.ints(0))
    wrong = g.model(g.Add(g.Relu(g.Conv(x, weight(g, 4, 4, 3, 3), pads=[1] * 4)), first))
    with pytest.raises(OutputsDifferError, match="pass batch on graph"):
        validate_batched(model, wrong, 2, [])
