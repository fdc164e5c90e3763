"""QuantizeLinear and DequantizeLinear: types, zero points, granularity, rounding and saturation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.probes.case import Array, Case, Tolerance
from superlower.probes.cases._build import (
    EXACT,
    FP32,
    KINDS,
    Fed,
    Fixed,
    Floats,
    Input,
    Kind,
    fixed,
    integers,
    kinds,
    probe,
    rounded,
)

_SHAPE = (2, 4, 3, 5)
_RANGES = {
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}
_SCALES = (2.0**-4, 2.0**-6, 2.0**-3, 2.0**-5)
_EIGHT_BITS = (ir.DataType.UINT8, ir.DataType.INT8)


def cases() -> Iterator[Case]:
    """All cases of quantization."""
    for opset in (13, 19, 21):
        # QuantizeLinear-13's first input is fp32 or int32; half types are from 19 on.
        for kind in kinds("QuantizeLinear", opset):
            for type_ in _EIGHT_BITS:
                yield from _quantize(opset, kind, type_)
        for kind in (FP32,) if opset == 13 else KINDS:
            for type_ in _EIGHT_BITS:
                yield from _dequantize(opset, kind, type_)
    yield from _quantize(21, FP32, ir.DataType.INT16)
    yield from _dequantize(21, FP32, ir.DataType.INT16)
    for opset in (13, 19, 21):
        yield _biases(opset)
    yield from _blocks()


def _zero_points(type_: ir.DataType) -> dict[str, int]:
    low, high = _RANGES[type_]
    return {"zero": 0, "middle": (low + high + 1) // 2 + 7}


def _name(type_: ir.DataType, *parts: str) -> str:
    return "-".join((type_.name.lower(), *parts))


def _quantize(opset: int, kind: Kind, type_: ir.DataType) -> Iterator[Case]:
    low, high = _RANGES[type_]

    def reference(x: Floats, scale: Floats, zero: Array | None = None, axis: int = 1) -> Array:
        offset = 0 if zero is None else _along(zero.astype(np.float64), axis)
        return np.asarray(np.clip(np.rint(x / _along(scale, axis)) + offset, low, high), np.int64)

    def case(setting: str, inputs: list[Input], corner: bool = False, **given: Any) -> Case:
        name = _name(type_, setting)
        return probe(
            "QuantizeLinear", name, opset, kind, inputs, reference, EXACT, attributes=given, corner=corner
        )

    # Scales that are powers of two, for which quotients are exact in every type.
    scale, per_axis = np.array(_SCALES[0]), np.array(_SCALES)
    zeros = np.array([0, 3, -5, 1]) + (8 if low == 0 else 0)
    for setting, point in _zero_points(type_).items():
        zero = np.array(point)
        fixed_ones: list[Input] = [fixed(kind, scale), fixed(type_, zero)]
        yield case(setting, [_off_halves(kind, type_, scale, zero), *fixed_ones])
        yield case(f"{setting}-halves", [_halves(kind, type_, scale), *fixed_ones], corner=True)
    if type_ is ir.DataType.UINT8:
        yield case("no-zero-point", [_off_halves(kind, type_, scale, np.array(0)), fixed(kind, scale)])
    fixed_ones = [fixed(kind, per_axis), fixed(type_, zeros)]
    x = _off_halves(kind, type_, _along(per_axis, 1), _along(zeros, 1))
    yield case("axis", [x, *fixed_ones], axis=1)
    yield case("axis-halves", [_halves(kind, type_, _along(per_axis, 1)), *fixed_ones], corner=True, axis=1)
    symmetric = np.zeros(4, np.int64)
    x = _off_halves(kind, type_, _along(per_axis, 1), _along(symmetric, 1))
    yield case("axis-zero", [x, fixed(kind, per_axis), fixed(type_, symmetric)], axis=1)
    if kind is FP32:
        decimal, zero = np.array(0.0371), np.array(_zero_points(type_)["middle"])
        inputs: list[Input] = [
            _off_halves(kind, type_, decimal, zero),
            fixed(kind, decimal),
            fixed(type_, zero),
        ]
        yield case("decimal-scale", inputs)


def _along(values: Array | NDArray[Any], axis: int) -> Any:
    return values if values.ndim == 0 else values.reshape(-1, *(1,) * (len(_SHAPE) - 1 - axis))


def _halves(kind: Kind, type_: ir.DataType, scale: Any) -> Fed:
    """Half-integer multiples of the scale from beyond one end of the type's range to beyond the other."""
    low, high = _RANGES[type_]
    # A significand of p bits holds half-integers up to 2^(p - 1), so bf16 those up to 128.
    limit = int(min(high - low, 1 / kind.roundoff / 2))

    def draw(rng: np.random.Generator) -> Floats:
        steps = rng.integers(-2 * limit, 2 * limit, _SHAPE, endpoint=True) / 2
        steps.reshape(-1)[:4] = [-limit, limit, -4.0 * limit, 4.0 * limit]
        return np.asarray(steps * scale)

    return Fed(_SHAPE, kind.type, draw)


def _off_halves(kind: Kind, type_: ir.DataType, scale: Any, zero: Any) -> Fed:
    """Multiples of the scale that keep off the halves, from below the type's range to beyond it."""
    low, high = _RANGES[type_]
    # Near 255 fp16 holds eighths and bf16 whole numbers only.
    apart = {"fp32": 0.4, "fp16": 0.3, "bf16": 0.0}[kind.name]

    def draw(rng: np.random.Generator) -> Floats:
        steps = rng.integers(low - 9, high + 9, _SHAPE, endpoint=True) - zero
        return np.asarray((steps + rng.uniform(-apart, apart, _SHAPE)) * scale)

    return Fed(_SHAPE, kind.type, draw)


def _dequantize(opset: int, kind: Kind, type_: ir.DataType) -> Iterator[Case]:
    low, high = _RANGES[type_]
    x = integers(low, high, *_SHAPE, type=type_)

    def reference(x: Array, scale: Floats, zero: Array | None = None, axis: int = 1) -> Floats:
        offset = 0 if zero is None else _along(zero.astype(np.int64), axis)
        return np.asarray((x.astype(np.int64) - offset) * _along(scale, axis))

    def case(setting: str, inputs: list[Input], largest: float, **given: Any) -> Case:
        name = _name(type_, setting)
        # The difference of integers may be rounded to the type before the product is.
        tolerance = rounded(kind, 2, (high - low) * largest, "an integer difference and a product")
        return probe("DequantizeLinear", name, opset, kind, inputs, reference, tolerance, attributes=given)

    scale = 0.0371
    for setting, zero in _zero_points(type_).items():
        yield case(setting, [x, fixed(kind, scale), fixed(type_, zero)], scale)
    yield case("no-zero-point", [x, fixed(kind, scale)], scale)
    per_axis, zeros = np.array([0.03, 0.01, 0.05, 0.02]), np.array([1, 0, 7, 3])
    yield case("axis", [x, fixed(kind, per_axis), fixed(type_, zeros)], 0.05, axis=1)
    yield case("axis-zero", [x, fixed(kind, per_axis), fixed(type_, 0 * zeros)], 0.05, axis=1)
    constant = fixed(type_, np.random.default_rng(3).integers(low, high, _SHAPE))
    yield case("weights", [constant, fixed(kind, per_axis), fixed(type_, 0 * zeros)], 0.05, axis=1)


def _biases(opset: int) -> Case:
    """int32, as quantized biases are: there is no zero point."""
    x = integers(-(2**20), 2**20, 4, type=ir.DataType.INT32)
    scale = np.array([0.03, 0.01, 0.05, 0.02])
    tolerance = rounded(FP32, 2, 2.0**20 * 0.05, "an integer and a product")
    return probe(
        "DequantizeLinear",
        "int32-axis",
        opset,
        FP32,
        [x, fixed(FP32, scale)],
        lambda x, s: x * s,
        tolerance,
        attributes={"axis": 0},
    )


def _blocks() -> Iterator[Case]:
    """Blocked scales, from 21 on: one for every 2 numbers along an axis."""
    shape, blocks = (3, 6), (3, 3)
    scale = Fixed(np.random.default_rng(5).choice(np.array(_SCALES, np.float32), blocks))
    zero = fixed(ir.DataType.INT8, np.arange(9).reshape(blocks) - 4)
    given = {"axis": 1, "block_size": 2}
    x = Fed(shape, FP32.type, lambda rng: _off_quarters(rng, shape) * np.repeat(scale.array, 2, 1))

    def quantized(x: Floats, s: Floats, z: Array) -> Array:
        steps = np.rint(x / np.repeat(s, 2, 1)) + np.repeat(z, 2, 1).astype(np.int64)
        return np.asarray(np.clip(steps, -128, 127), np.int64)

    inputs: list[Input] = [x, scale, zero]
    yield probe("QuantizeLinear", "int8-blocks", 21, FP32, inputs, quantized, EXACT, attributes=given)
    whole = integers(-128, 127, *shape, type=ir.DataType.INT8)

    def dequantized(x: Array, s: Floats, z: Array) -> Floats:
        return np.asarray((x.astype(np.int64) - np.repeat(z, 2, 1)) * np.repeat(s, 2, 1))

    exact = Tolerance(0.0, "integers below 2^9 times powers of two")
    inputs = [whole, scale, zero]
    yield probe("DequantizeLinear", "int8-blocks", 21, FP32, inputs, dequantized, exact, attributes=given)


def _off_quarters(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """A quarter above or below whole numbers."""
    return np.asarray(rng.integers(-150, 150, shape) + rng.choice([-0.25, 0.25], shape))
