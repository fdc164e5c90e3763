"""GridSample: every mode, padding and alignment at each of its definitions, and warps of 4K frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from superlower.probes.case import Array, Arrays, Case, Tolerance
from superlower.probes.cases._build import (
    FP16,
    FP32,
    POSITION,
    Draft,
    Fed,
    Floats,
    Kind,
    drawn,
    feeder,
    fixed,
    kinds,
    named,
    probe,
    uniform,
)
from superlower.probes.cases._sampling import CUBIC_GAIN, CUBIC_SLOPE, normalized, pixels, sample

PADDINGS = ("zeros", "border", "reflection")
_MODES = {
    16: {"bilinear": 2, "nearest": 1, "bicubic": 4},
    20: {"linear": 2, "nearest": 1, "cubic": 4},
    22: {"linear": 2, "nearest": 1, "cubic": 4},
}
"""Per opset the names of the modes, with the taps each takes along an axis."""
_SIZES = {2: (7, 10), 3: (4, 5, 7)}
_OUTPUT = {2: (6, 9), 3: (3, 4, 6)}
_WIDE = (8, 3840)


def cases() -> Iterator[Case]:
    """All of GridSample's cases."""
    for opset, modes in _MODES.items():
        for mode, padding, aligned in itertools.product(modes, PADDINGS, (False, True)):
            for kind in kinds("GridSample", opset):
                yield _plain(opset, 2, mode, padding, aligned, kind)
            if opset >= 20:
                yield _plain(opset, 3, mode, padding, aligned, FP32)
        for aligned in (False, True) if opset >= 20 else ():
            yield _ties(opset, aligned)
        linear = next(iter(modes))
        for padding, aligned, kind in itertools.product(("zeros", "border"), (False, True), (FP32, FP16)):
            yield _plain(opset, 2, linear, padding, aligned, kind, large=True)
            yield _warp(opset, linear, padding, aligned, kind)
        yield _island(opset, linear, "border", True)


def _setting(mode: str, padding: str, aligned: bool) -> str:
    return f"{mode}-{padding}{'-corners' if aligned else ''}"


def _attributes(mode: str, padding: str, aligned: bool) -> dict[str, Any]:
    return {"mode": mode, "padding_mode": padding, "align_corners": int(aligned)}


def _plain(
    opset: int, axes: int, mode: str, padding: str, aligned: bool, kind: Kind, large: bool = False
) -> Case:
    """Positions inside, outside and far outside of an image of noise in [0, 1]."""
    taps = _MODES[opset][mode]
    sizes, output = (_WIDE, _WIDE) if large else (_SIZES[axes], _OUTPUT[axes])
    batch, channels = (1, 1) if large else (2, 3)
    reach = 0.02 if large else 0.4

    def grid(rng: np.random.Generator) -> Floats:
        span = np.array(sizes[::-1], float)
        p = rng.uniform(-reach, 1 + reach, (batch, *output, axes)) * span
        p[(slice(None), *(0,) * axes)], p[(slice(None), *(-1,) * axes)] = -2.3 * span, 3.2 * span
        if taps == 1:
            # Off the halves, where the last bit decides between two pixels: `_ties` has those that are exact.
            p = np.round(p) + rng.uniform(-0.25, 0.25, p.shape)
        return normalized(p, sizes, aligned)

    def reference(x: Floats, grid: Floats) -> Floats:
        return sample(x, pixels(grid, sizes, aligned), taps, padding, aligned)

    return probe(
        "GridSample",
        _setting(mode, padding, aligned) + ("-volume" if axes == 3 else ""),
        opset,
        kind,
        [
            uniform(kind, batch, channels, *sizes, low=0.0),
            drawn(kind, (batch, *output, axes), grid),
        ],
        reference,
        _tolerance(kind, taps, axes, 3.2 * max(sizes)),
        attributes=_attributes(mode, padding, aligned),
        large=large,
    )


def _ties(opset: int, aligned: bool) -> Case:
    """Positions halfway between two pixels, and on them: sizes for which every step is exact in binary."""
    sizes = (5, 9) if aligned else (4, 8)
    halves = np.stack(np.meshgrid(*(np.arange(0, s - 0.5, 0.5) for s in sizes[::-1])), axis=-1)[None]

    def reference(x: Floats, grid: Floats) -> Floats:
        return sample(x, pixels(grid, sizes, aligned), 1, "zeros", aligned)

    return probe(
        "GridSample",
        _setting("nearest-ties", "zeros", aligned),
        opset,
        FP32,
        [
            uniform(FP32, 1, 2, *sizes, low=0.0),
            drawn(FP32, halves.shape, lambda rng: normalized(halves, sizes, aligned)),
        ],
        reference,
        _tolerance(FP32, 1, 2, max(sizes)),
        attributes=_attributes("nearest", "zeros", aligned),
        corner=True,
    )


def _warp(opset: int, mode: str, padding: str, aligned: bool, kind: Kind) -> Case:
    """Flow in pixels -> sampling grid -> GridSample, all in the case's type, as a converted graph has it.

    The reference goes to the flow's true positions, so the error of the grid itself shows: fp16 numbers near
    1 are 2^-11 apart or half of that, which is one pixel of 3840.
    """
    flow = _flow_of(kind)
    image = uniform(kind, 1, 1, *_WIDE, low=0.0)
    attributes = _attributes(mode, padding, aligned)

    def model() -> ir.Model:
        draft = Draft()
        x = draft.input("in0", image)
        grid = _grid(draft, draft.input("in1", flow), aligned, kind)
        return draft.model(draft.add("GridSample", x, grid, **attributes), opset)

    return _warp_case(_setting(f"warp-{mode}", padding, aligned), opset, padding, aligned, kind, model)


def _island(opset: int, mode: str, padding: str, aligned: bool) -> Case:
    """The same warp in fp16 with fp32 from the flow to the sampled image, which a right lowering gives."""
    attributes = _attributes(mode, padding, aligned)

    def model() -> ir.Model:
        draft = Draft()
        x = draft.input("in0", uniform(FP16, 1, 1, *_WIDE, low=0.0))
        flow = draft.input("in1", _flow_of(FP16))
        x, flow = (draft.add("Cast", value, to=ir.DataType.FLOAT)[0] for value in (x, flow))
        sampled = draft.add("GridSample", x, _grid(draft, flow, aligned, FP32), **attributes)
        return draft.model(draft.add("Cast", *sampled, to=ir.DataType.FLOAT16), opset)

    return _warp_case(_setting(f"warp-island-{mode}", padding, aligned), opset, padding, aligned, FP16, model)


def _warp_case(setting: str, opset: int, padding: str, aligned: bool, kind: Kind, model: Any) -> Case:
    rows, columns = np.mgrid[0 : _WIDE[0], 0 : _WIDE[1]]

    def reference(arrays: Arrays) -> dict[str, Array]:
        x, flow = (arrays[name].astype(np.float64) for name in ("in0", "in1"))
        places = np.stack([columns, rows], axis=-1) + np.moveaxis(flow, 1, -1)
        return {"out0": sample(x, places, 2, padding, aligned)}

    inputs = {"in0": uniform(kind, 1, 1, *_WIDE, low=0.0), "in1": _flow_of(kind)}
    rounding = _rounding(kind, 2, 2)
    tolerance = Tolerance(
        rounding + 2 * POSITION,
        f"{rounding:.1e} for rounding, and {POSITION} px off along each of 2 axes of an image in [0, 1]",
    )
    name = named("GridSample", setting, opset, kind.name, large=True)
    return Case(name, "GridSample", model, feeder(inputs), reference, tolerance, large=True)


def _flow_of(kind: Kind) -> Fed:
    """[1, 2, H, W], horizontal part first, pixels."""
    return uniform(kind, 1, 2, *_WIDE, low=-8.0, high=8.0)


def _grid(draft: Draft, flow: ir.Value, aligned: bool, kind: Kind) -> ir.Value:
    rows, columns = np.mgrid[0 : _WIDE[0], 0 : _WIDE[1]]
    size = np.array(_WIDE[::-1], float)
    scale = 2 / (size - 1) if aligned else 2 / size
    base = normalized(np.stack([columns, rows], axis=-1)[None].astype(float), _WIDE, aligned)
    last = draft.add("Transpose", flow, perm=[0, 2, 3, 1])[0]
    scaled = draft.add("Mul", last, draft.constant(fixed(kind, scale)))[0]
    return draft.add("Add", scaled, draft.constant(fixed(kind, base)))[0]


def _rounding(kind: Kind, taps: int, axes: int) -> float:
    # A product of `axes` weights, each of which takes 2 roundings (4 more by Horner's rule if cubic), times a
    # pixel in [0, 1], summed over all taps.
    gain = CUBIC_GAIN**axes if taps == 4 else 1.0
    steps = taps**axes + axes * (6 if taps == 4 else 2) + 1
    return 0.0 if taps == 1 else steps * kind.roundoff * gain


def _tolerance(kind: Kind, taps: int, axes: int, reach: float) -> Tolerance:
    """What GridSample may err by on an image in [0, 1] at positions up to `reach` pixels from it."""
    if taps == 1:
        return Tolerance(0.0, "pixels are copied, at positions that no rounding moves to another pixel")
    # Computing a position and folding it back takes 8 roundings of numbers no larger than reach + 1. Half
    # types compute positions wider than they store them, or are wrong at the sizes of video.
    position = 8 * FP32.roundoff * (reach + 1) if kind is FP32 else POSITION
    # Pixels in [0, 1] differ by at most 1, and weights' derivatives sum to 0.
    slope = CUBIC_SLOPE / 2 * CUBIC_GAIN ** (axes - 1) if taps == 4 else 1.0
    rounding = _rounding(kind, taps, axes)
    return Tolerance(
        rounding + axes * slope * position,
        f"{rounding:.1e} for rounding {taps**axes} taps, and {position:.1e} px off along each of {axes} "
        f"axes, where an image in [0, 1] changes by up to {slope:.2g} a pixel",
    )
