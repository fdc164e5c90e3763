"""A warp 3840 px wide in an fp16 graph: how far its positions are off, in pixels.

The image holds each column's number, so that a sample tells where it was taken. 3840 numbers don't fit in
fp16's 11 bits: one channel has the number modulo 16, from -8 to 7, another the same eight columns further,
and each sample is read from the channel that doesn't wrap near it. Below 8 fp16 has steps of 2^-8 at most, so
a reading rounded twice is within 2^-8 = 0.004 px.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from superlower.passes._evaluate import evaluate
from superlower.passes.convert_precision import ConvertPrecision
from superlower.passes.guard_grid_sample import GuardGridSample
from superlower.passes.pipelines import apply, default_pipeline
from support.graphs import GraphBuilder

HEIGHT, WIDTH = 4, 3840
PERIOD = 16
MARGIN = 3.5
READING = 2.0**-8

Array = NDArray[np.float64]


def warp(dtype: ir.DataType = ir.DataType.FLOAT, aligned: bool = True) -> ir.Model:
    """Features through a convolution, warped by a flow in pixels, through a convolution: all of one type."""
    g, kind = GraphBuilder(), dtype.numpy().type
    x = g.input("x", 1, 2, HEIGHT, WIDTH, dtype=dtype)
    flow = g.input("flow", 1, 2, HEIGHT, WIDTH, dtype=dtype)
    same = g.const(np.eye(2).reshape(2, 2, 1, 1), kind)
    features = g.Conv(x, same)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    moved = g.Add(
        g.const(np.stack([columns, rows], axis=-1)[None], kind), g.Transpose(flow, perm=[0, 2, 3, 1])
    )
    size = np.array([WIDTH, HEIGHT])
    twice = g.Mul(moved, g.const(2, kind))
    if aligned:
        grid = g.Sub(g.Div(twice, g.const(size - 1, kind)), g.const(1, kind))
    else:
        grid = g.Sub(g.Div(g.Add(twice, g.const(1, kind)), g.const(size, kind)), g.const(1, kind))
    sampled = g.GridSample(features, grid, padding_mode="border", align_corners=int(aligned))
    return g.model(g.Conv(sampled, same))


def feeds() -> dict[str, NDArray[np.float32]]:
    columns = np.broadcast_to(np.arange(WIDTH), (HEIGHT, WIDTH))
    channels = [(columns + shift) % PERIOD - PERIOD / 2 for shift in (0, PERIOD // 2)]
    flow = np.random.default_rng(0).uniform(-6, 6, (1, 2, HEIGHT, WIDTH))
    # Numbers that fp16 holds, so that the flow itself is no source of error.
    flow = flow.astype(np.float16).astype(np.float32)
    return {"x": np.stack(channels)[None].astype(np.float32), "flow": flow}


def off(model: ir.Model) -> float:
    """The largest distance in pixels between where samples were taken and where the flow points."""
    given = feeds()
    types = {str(value.name): value.dtype for value in model.graph.inputs}
    out = evaluate(model, {n: a.astype(types[n].numpy()) for n, a in given.items()})["out0"][0]  # type: ignore[union-attr]
    true = np.clip(np.arange(WIDTH) + given["flow"][0, 0].astype(np.float64), 0, WIDTH - 1)
    distances = np.full(true.shape, np.inf)
    for channel, shift in zip(out.astype(np.float64), (0, PERIOD // 2), strict=True):
        within = (true + shift) % PERIOD
        # Read where the ramp goes on to both sides for further than any error measured here.
        smooth = (within >= MARGIN) & (within <= PERIOD - 1 - MARGIN)
        distances = np.where(smooth, np.abs(channel + PERIOD / 2 - within), distances)
    assert np.all(distances < MARGIN)
    return float(distances.max())


@pytest.mark.parametrize("aligned", [True, False])
def test_naive_conversion_is_a_pixel_off_and_ours_a_hundredth_at_most(aligned: bool) -> None:
    assert off(warp(aligned=aligned)) < 1e-2
    # Everything typed in fp16: positions above 2048 and grids near 1 are half a pixel to a pixel apart.
    naive = off(warp(ir.DataType.FLOAT16, aligned))
    assert 0.5 < naive < 3
    ours = (*default_pipeline(), ConvertPrecision(), GuardGridSample())
    converted, _ = apply(warp(aligned=aligned), ours)
    convolutions = [node for node in converted.graph if node.op_type == "Conv"]
    assert [value.dtype for node in convolutions for value in node.outputs] == [ir.DataType.FLOAT16] * 2
    found = off(converted)
    assert found < 1e-2
    assert found <= READING + 4 * 2.0**-24 * WIDTH
