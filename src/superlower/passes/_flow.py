"""Flow fields behind sampling grids."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from superlower.ir import constant_value, static_shape
from superlower.passes._affine import Affine, Floats, Walk, emit
from superlower.passes._rules import Emitter

TO_CHANNELS_LAST = (0, 2, 3, 1)


def emit_grid(op: Emitter, form: Affine, dtype: ir.DataType, flow: ir.Value) -> ir.Value:
    """The sampling grid of a warp, from its flow (the form's source, perhaps cast) in either layout."""
    last = flow if form.in_place else op.Transpose(flow, perm=list(TO_CHANNELS_LAST))
    return emit(op, last, form.scale, form.offset, dtype)


def find_flow(grid: ir.Value, aligned: bool) -> Affine | None:
    """A sampling grid [N, H, W, 2] as an affine function of its flow, if it is one.

    Args:
        aligned: GridSample's align_corners.
    """
    whole = Walk()
    if whole.root(grid) in (None, grid):
        return None
    found: Affine | None = None
    for flow in whole.walked:
        shape = static_shape(flow)
        if flow is grid or shape is None or len(shape) != 4 or constant_value(flow) is not None:
            continue
        walk = Walk(stop=(flow,))
        if walk.root(grid) is not flow:
            continue
        form = walk.form(grid)
        last = form.moves(TO_CHANNELS_LAST)
        if not (last or form.in_place) or not np.all(np.isfinite(form.offset)):
            continue
        if last or found is None or found.in_place:
            found = form
        # One pixel has no positions to tell a displacement by: there the furthest value back is taken.
        if last and form.offset.size > 2 and displacement(form.offset, aligned) < 0.5:
            break
    return found


def displacement(grid: Floats, aligned: bool) -> float:
    """Largest distance in pixels between the positions in a grid [N, H, W, 2] and the pixels' own."""
    height, width = grid.shape[1:3]
    size = np.array([width, height])
    pixels = ((grid + 1) * (size - 1) if aligned else (grid + 1) * size - 1) / 2
    rows, columns = np.mgrid[0:height, 0:width]
    return float(np.abs(pixels - np.stack([columns, rows], axis=-1)).max(initial=0))


def is_collapsed(grid: ir.Value, flow: ir.Value) -> bool:
    """Whether the grid is already Add(Mul(Transpose(flow))), any of the three left out."""
    value = grid
    for op in ("Add", "Mul", "Transpose"):
        node = value.producer()
        if node is None or node.op_type != op or value is flow:
            continue
        value = next(v for v in node.inputs if v is not None and constant_value(v) is None)
    return value is flow
