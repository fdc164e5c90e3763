"""The lowered GridSample against the operator's definition, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.passes._evaluate import evaluate
from superlower.passes.lower_grid_sample import CHANNELS_FIRST, CHANNELS_LAST, LowerGridSample
from support.graphs import GraphBuilder, feeds_of, outcome

Array = NDArray[np.float64]


def reflect(p: Array, low: float, high: float) -> Array:
    if high <= low:
        return np.full_like(p, low)
    span = high - low
    turns, rest = np.divmod(np.abs(p - low), span)
    return np.where(turns % 2 == 0, low + rest, high - rest)


def reference(x: Array, grid: Array, mode: str, padding: str, aligned: bool) -> Array:
    """GridSample as the ONNX specification defines it, one sample at a time."""
    batch, channels, height, width = x.shape
    out = np.zeros((batch, channels, *grid.shape[1:3]))

    def pixel(n: int, row: int, column: int) -> Array:
        if padding == "zeros" and not (0 <= row < height and 0 <= column < width):
            return np.zeros(channels)
        return x[n, :, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    for n, i, j in np.ndindex(*grid.shape[:3]):
        position = []
        for axis, size in ((1, height), (0, width)):
            g = grid[n, i, j, axis]
            p = np.asarray((g + 1) / 2 * (size - 1) if aligned else ((g + 1) * size - 1) / 2)
            if padding == "reflection":
                p = reflect(p, 0, size - 1) if aligned else reflect(p, -0.5, size - 0.5)
            if padding != "zeros":
                p = np.clip(p, 0, size - 1)
            position.append(float(p))
        if mode == "nearest":
            out[n, :, i, j] = pixel(n, *(int(np.rint(p)) for p in position))
            continue
        low = [int(np.floor(p)) for p in position]
        for a, b in itertools.product((0, 1), repeat=2):
            weights = [abs(1 - k - (p - q)) for k, p, q in zip((a, b), position, low, strict=True)]
            out[n, :, i, j] += weights[0] * weights[1] * pixel(n, low[0] + a, low[1] + b)
    return out


@pytest.mark.parametrize("layout", [CHANNELS_LAST, CHANNELS_FIRST])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(1, 6, 9), (2, 5, 4), (1, 1, 5)])
def test_is_the_operator(
    layout: str, aligned: bool, padding: str, mode: str, size: tuple[int, int, int]
) -> None:
    batch, height, width = size
    g = GraphBuilder()
    x, grid = g.input("x", batch, 3, height, width), g.input("grid", batch, 4, 7, 2)
    model = g.model(g.GridSample(x, grid, mode=mode, padding_mode=padding, align_corners=int(aligned)))
    assert LowerGridSample(layout).run(model).changed
    assert "GridSample" not in {n.op_type for n in model.graph}
    feeds = feeds_of(model, seed=height * width, spread=1.2)
    # Points of interest: corners, borders, far outside.
    feeds["grid"][0, 0] = [[-1, -1], [1, 1], [-1, 1], [0, 0], [1.5, -1.5], [-2, 3], [3, -3]]
    if mode == "nearest":
        # Keep off the halves, where a rounding of the last bit decides between two pixels.
        feeds["grid"] = (np.round(feeds["grid"] * 16) / 16 + 0.003).astype(np.float32)
    exact = [feeds[k].astype(np.float64) for k in ("x", "grid")]
    expected = reference(exact[0], exact[1], mode, padding, aligned)
    found = evaluate(model, feeds)["out0"]
    # A position rounds 4 times at its own magnitude, 8 times with reflection (else it is clamped to the
    # image), and a pixel moves a sample by at most twice the largest value; weights, products and sums round
    # at that value.
    largest, side = np.abs(exact[0]).max(), max(height, width)
    reach = side * (np.abs(exact[1]).max() + 1) / 2 if padding == "reflection" else side + 1
    tolerance = 2.0**-24 * largest * (2 * (8 if padding == "reflection" else 4) * reach + 8)
    assert tolerance < 2e-4
    assert np.abs(found - expected).max() <= (0 if mode == "nearest" else tolerance)


@pytest.mark.parametrize("layout", [CHANNELS_LAST, CHANNELS_FIRST])
def test_is_onnx_runtimes(layout: str) -> None:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 8, 32, 48), g.input("grid", 1, 32, 48, 2)
    model = g.model(g.GridSample(x, grid, align_corners=1))
    result = outcome(model, LowerGridSample(layout), spread=0.6)
    assert result.ops["Gather"] == 4
    assert result.ops.get("Transpose", 0) == (2 if layout == CHANNELS_LAST else 0)
    # Both round a position of up to 3 * 48 pixels 3 times; a pixel is at most twice the largest value (3).
    assert result.moved() <= 6 * 2.0**-24 * 3 * 48 * 2 * 3


def test_half_precision_features() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 2, 5, 6, dtype=ir.DataType.FLOAT16)
    grid = g.input("grid", 1, 5, 6, 2)
    model = g.model(g.GridSample(x, grid, align_corners=1, padding_mode="border"))
    result = outcome(model, LowerGridSample(), spread=0.6)
    # Weights and 4 products, 3 sums round to 11 bits.
    assert result.moved() <= 9 * 2.0**-12 * 4


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_a_position_that_is_no_number_reads_within_the_image(padding: str) -> None:
    """ONNX Runtime refuses to gather elsewhere, TVM reads whatever lies there."""
    g = GraphBuilder()
    x, grid = g.input("x", 1, 2, 5, 6), g.input("grid", 1, 3, 4, 2)
    model = g.model(g.GridSample(x, grid, padding_mode=padding))
    LowerGridSample().run(model)
    feeds = feeds_of(model)
    feeds["grid"][0, 0, 0] = np.nan
    found = evaluate(model, feeds)["out0"]
    assert np.isnan(found[0, :, 0, 0]).all()
    assert np.isfinite(found[0, :, 1:]).all()


def test_cubic_is_refused() -> None:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 8, 9), g.input("grid", 1, 5, 6, 2)
    result = outcome(g.model(g.GridSample(x, grid, mode="bicubic")), LowerGridSample())
    assert result.applied.refused[0].detail == "mode bicubic takes 16 gathers: not lowered"


def test_unknown_layout_is_named() -> None:
    with pytest.raises(BadInputError, match="takes channels_last or channels_first"):
        LowerGridSample("nhwc")
