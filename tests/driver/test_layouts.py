from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from superlower.driver.allocation import alive
from superlower.driver.layouts import Lowering, OnnxRuntimeLowering, OpenVinoLowering, weight_bytes
from superlower.errors import BadInputError
from support.graphs import GraphBuilder

PLANE = 4 * 8 * 8
"""Bytes of one float32 channel of 8x8."""

BOTH = pytest.mark.parametrize("lowering", [OnnxRuntimeLowering, OpenVinoLowering])


def conv(g: GraphBuilder, x, into: int, out: int, size: int = 3):
    weights = g.const(np.full((out, into, size, size), 0.1))
    return g.Conv(x, weights, kernel_shape=[size, size], pads=[size // 2] * 4)


def planes(trace_of: Lowering) -> list[tuple[list[int], list[int]]]:
    """By step, planes of what it reads and makes."""
    return [
        ([t.nbytes // PLANE for t in step.reads], [t.nbytes // PLANE for t in step.makes])
        for step in trace_of.trace.steps
    ]


def test_onnx_runtime_copies_into_blocks_and_out_of_them() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    y = conv(g, g.Relu(conv(g, conv(g, x, 3, 32), 32, 20)), 20, 3)
    found = planes(OnnxRuntimeLowering(g.model(y)))
    # Three channels are read as they are; 20 are held in two blocks of 16, and 3 in one until copied out.
    assert found == [([3], [32]), ([32], [32]), ([32], [16]), ([16], [3])]


def test_onnx_runtime_runs_channels_that_arent_fours_on_planes() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 67, 8, 8)
    found = planes(OnnxRuntimeLowering(g.model(conv(g, conv(g, x, 67, 64), 64, 64))))
    assert found == [([67], [64]), ([64], [64]), ([64], [64]), ([64], [64])]


def test_openvino_runs_convolutions_with_channels_last() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    found = planes(OpenVinoLowering(g.model(conv(g, conv(g, x, 3, 20), 20, 3))))
    assert found == [([3], [3]), ([3], [20]), ([20], [3]), ([3], [3])]


@BOTH
def test_a_residual_sum_is_the_convolutions_and_writes_over_what_dies(lowering: type[Lowering]) -> None:
    g = GraphBuilder()
    x = conv(g, g.input("x", 1, 16, 8, 8), 16, 16)
    y = g.Add(x, conv(g, g.Relu(conv(g, x, 16, 16)), 16, 16))
    trace = lowering(g.model(conv(g, y, 16, 3))).trace
    # x, and what is between the block's two convolutions.
    assert alive(trace) == 2 * 16 * PLANE


@BOTH
def test_a_sampler_reads_planes(lowering: type[Lowering]) -> None:
    g = GraphBuilder()
    x = conv(g, g.input("x", 1, 16, 8, 8), 16, 16)
    y = g.GridSample(x, g.input("grid", 1, 8, 8, 2), mode="bilinear")
    found = planes(lowering(g.model(conv(g, y, 16, 16))))
    assert ([16], [16]) in found[1:]  # The copy out.
    assert ([16, 2], [16]) in found


@BOTH
def test_views_take_nothing_and_constants_arent_made(lowering: type[Lowering]) -> None:
    g = GraphBuilder(constants_as_nodes=True)
    x = g.input("x", 1, 4, 8, 8)
    y = g.Reshape(g.Mul(g.Reshape(x, g.ints(1, 4, 64)), g.const(2.0)), g.ints(1, 4, 8, 8))
    trace = lowering(g.model(y)).trace
    assert len(trace.steps) == 1
    assert alive(trace) == 0


@BOTH
def test_tensors_grow_with_the_frame_but_vectors_of_channels_dont(lowering: type[Lowering]) -> None:
    g = GraphBuilder()
    x = conv(g, g.input("x", 1, 16, 8, 8), 16, 16)
    scale = g.GlobalAveragePool(x)
    model = g.model(conv(g, g.Mul(x, scale), 16, 16))
    small, large = (alive(lowering(model, Fraction(area)).trace) for area in (1, 4))
    assert 3.9 * small < large <= 4 * small


def test_columns_of_a_transposed_convolution() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 16, 8, 8)
    y = g.ConvTranspose(x, g.const(np.full((16, 8, 3, 3), 0.1)), strides=[2, 2], kernel_shape=[3, 3])
    (step,) = OnnxRuntimeLowering(g.model(y)).trace.steps
    assert step.scratch == 8 * 9 * PLANE


def test_weights_count_as_constants_and_as_nodes_and_grids_grow() -> None:
    for as_nodes in (False, True):
        g = GraphBuilder(constants_as_nodes=as_nodes)
        x = conv(g, g.input("x", 1, 3, 8, 8), 3, 8, 1)
        y = g.Add(x, g.const(np.zeros((1, 8, 8, 8), np.float32)))
        model = g.model(y)
        assert weight_bytes(model) == 4 * 3 * 8 + 8 * PLANE
        assert weight_bytes(model, Fraction(3)) == 4 * 3 * 8 + 3 * 8 * PLANE


@BOTH
def test_a_size_that_isnt_static_is_refused(lowering: type[Lowering]) -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    y = g.Resize(x, None, g.input("scales", 4), mode="nearest")
    with pytest.raises(BadInputError, match="isn't static: export the graph at one frame size"):
        lowering(g.model(g.Relu(y)))
