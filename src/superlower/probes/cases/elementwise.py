"""One number in, one number out: arithmetic, comparisons, selections, functions and casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from superlower.probes.case import Array, Case, Tolerance
from superlower.probes.cases._build import (
    EXACT,
    FP16,
    FP32,
    KINDS,
    OPSET,
    Fed,
    Floats,
    Input,
    Kind,
    drawn,
    fixed,
    integers,
    kinds,
    probe,
    rounded,
    uniform,
    weights,
)

_SHAPE = (2, 4, 3, 5)
_POLYNOMIAL = 16
"""Roundings of a function from a library: argument reduction, a polynomial of degree 12, reconstruction."""


def _erf(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _quarters(kind: Kind) -> Fed:
    """Multiples of 1/4 in [-4, 4], halves among them: exact in every type."""
    return drawn(kind, _SHAPE, lambda rng: rng.integers(-16, 16, _SHAPE, endpoint=True) / 4)


@dataclass(frozen=True)
class _Function:
    """One float in, one out. `roundings` 0: exact."""

    op: str
    apply: Callable[[Floats], Floats]
    roundings: int
    low: float = -3.0
    high: float = 3.0
    opset: int = OPSET
    setting: str = "plain"
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def case(self, kind: Kind) -> Case:
        x = _quarters(kind) if not self.roundings else uniform(kind, *_SHAPE, low=self.low, high=self.high)
        largest = float(np.abs(self.apply(np.linspace(self.low, self.high, 401))).max())
        what = "the function's steps" if self.roundings < _POLYNOMIAL else "a polynomial and its reduction"
        tolerance = rounded(kind, self.roundings, max(largest, 1.0), what) if self.roundings else EXACT
        return probe(
            self.op, self.setting, self.opset, kind, [x], self.apply, tolerance, attributes=self.attributes
        )


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(x: Floats) -> Floats:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Floats) -> Floats:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


_FUNCTIONS = (
    _Function("Abs", np.abs, 0),
    _Function("Neg", np.negative, 0),
    _Function("Relu", lambda x: np.maximum(x, 0), 0),
    _Function("Identity", lambda x: x, 0),
    _Function("Floor", np.floor, 0),
    _Function("Ceil", np.ceil, 0),
    _Function("Round", np.rint, 0, setting="halves-to-even"),
    _Function("Sign", np.sign, 0),
    _Function("Sqrt", np.sqrt, 4, low=0.01, high=4.0),
    _Function("Reciprocal", lambda x: 1 / x, 4, low=0.25, high=4.0),
    _Function("Exp", np.exp, _POLYNOMIAL, low=-2.0, high=2.0),
    _Function("Log", np.log, _POLYNOMIAL, low=0.1, high=4.0),
    _Function("Sin", np.sin, _POLYNOMIAL),
    _Function("Cos", np.cos, _POLYNOMIAL),
    _Function("Erf", _erf, _POLYNOMIAL),
    _Function("Sigmoid", _sigmoid, _POLYNOMIAL),
    _Function("Tanh", np.tanh, _POLYNOMIAL),
    _Function("Softplus", lambda x: np.log1p(np.exp(x)), 2 * _POLYNOMIAL),
    _Function("Softsign", lambda x: x / (1 + np.abs(x)), 6),
    _Function("Elu", lambda x: np.where(x < 0, 1.5 * np.expm1(x), x), _POLYNOMIAL, attributes={"alpha": 1.5}),
    _Function("HardSigmoid", lambda x: np.clip(0.25 * x + 0.5, 0, 1), 3, attributes={"alpha": 0.25}),
    _Function("HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 5, low=-4.0, high=4.0),
    _Function("Mish", lambda x: x * np.tanh(np.log1p(np.exp(x))), 3 * _POLYNOMIAL),
    _Function("Gelu", _gelu, _POLYNOMIAL + 6, opset=20),
    _Function(
        "Gelu", _gelu_tanh, _POLYNOMIAL + 10, opset=20, setting="tanh", attributes={"approximate": "tanh"}
    ),
)


def cases() -> Iterator[Case]:
    """All cases of operators that work number by number."""
    for function in _FUNCTIONS:
        for kind in kinds(function.op, function.opset):
            yield function.case(kind)
    for kind in KINDS:
        yield from _arithmetic(kind)
        yield from _selections(kind)
        yield from _casts(kind)
    yield from _integers()
    yield from _logic()


def _arithmetic(kind: Kind) -> Iterator[Case]:
    two: list[Input] = [uniform(kind, *_SHAPE), uniform(kind, *_SHAPE)]
    channels: list[Input] = [uniform(kind, *_SHAPE), weights(kind, 4, 1, 1)]
    for op, apply, largest in (
        ("Add", np.add, 2.0),
        ("Sub", np.subtract, 2.0),
        ("Mul", np.multiply, 1.0),
    ):
        tolerance = rounded(kind, 1, largest, "one operation")
        yield probe(op, "plain", OPSET, kind, two, apply, tolerance)
        yield probe(op, "channels", OPSET, kind, channels, apply, tolerance)
    divided = [uniform(kind, *_SHAPE), uniform(kind, *_SHAPE, low=0.5, high=2.0)]
    tolerance = rounded(kind, 4, 2.0, "a reciprocal, refined or not, and a product")
    yield probe("Div", "plain", OPSET, kind, divided, np.divide, tolerance)
    constant: list[Input] = [uniform(kind, *_SHAPE), weights(kind, 4, 1, 1, low=0.5, high=2.0)]
    yield probe("Div", "channels", OPSET, kind, constant, np.divide, tolerance)
    # x ** y is exp(y * log(x)), whose argument, up to 3, is rounded too.
    power = [uniform(kind, *_SHAPE, low=0.5, high=2.0), uniform(kind, *_SHAPE, low=-2.0, high=3.0)]
    tolerance = rounded(kind, 2 * _POLYNOMIAL + 3, 8.0, "an exponential of a logarithm")
    yield probe("Pow", "plain", OPSET, kind, power, np.power, tolerance)
    square: list[Input] = [uniform(kind, *_SHAPE, low=-2.0, high=2.0), fixed(kind, 2.0)]
    yield probe("Pow", "square", OPSET, kind, square, np.power, rounded(kind, 2, 4.0, "one product"))
    many = [uniform(kind, *_SHAPE) for _ in range(3)]
    total = rounded(kind, 3, 3.0, "three terms")
    yield probe("Sum", "plain", OPSET, kind, many, lambda *x: np.sum(x, axis=0), total)
    mean = rounded(kind, 4, 1.0, "three terms and a division, of numbers a third as large")
    yield probe("Mean", "plain", OPSET, kind, many, lambda *x: np.mean(x, axis=0), mean)
    fmod: list[Input] = [uniform(kind, *_SHAPE, low=-3.0, high=3.0), fixed(kind, 0.75)]
    exact = Tolerance(0.0, "fmod is exact in every binary type (IEEE 754 remainders are)")
    yield probe("Mod", "fmod", OPSET, kind, fmod, np.fmod, exact, attributes={"fmod": 1})


def _selections(kind: Kind) -> Iterator[Case]:
    x, y = uniform(kind, *_SHAPE), uniform(kind, *_SHAPE)
    for op, apply in (("Min", np.minimum), ("Max", np.maximum)):
        yield probe(op, "plain", OPSET, kind, [x, y], apply, EXACT)
        yield probe(op, "scalar", OPSET, kind, [x, fixed(kind, 0.25)], apply, EXACT)
    bounds: list[Input] = [fixed(kind, -0.5), fixed(kind, 0.25)]
    yield probe("Clip", "plain", OPSET, kind, [x, *bounds], np.clip, EXACT)
    yield probe("Clip", "low", OPSET, kind, [x, bounds[0]], np.maximum, EXACT)
    high: list[Input] = [x, None, bounds[1]]
    yield probe("Clip", "high", OPSET, kind, high, lambda x, _, high: np.minimum(x, high), EXACT)
    fed = [x, uniform(kind, low=-0.9, high=-0.1), uniform(kind, low=0.1, high=0.9)]
    yield probe("Clip", "computed", OPSET, kind, fed, np.clip, EXACT)
    chosen = integers(0, 1, 2, 1, 3, 5, type=ir.DataType.BOOL)
    yield probe("Where", "plain", OPSET, kind, [chosen, x, y], np.where, EXACT)
    yield probe("Where", "scalar", OPSET, kind, [chosen, x, fixed(kind, -1.0)], np.where, EXACT)
    # Quarters: equal ones among them.
    quarters = [_quarters(kind), _quarters(kind)]
    for op, compare in _COMPARISONS.items():
        yield probe(op, "plain", OPSET, kind, quarters, compare, EXACT)


_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
}


def _casts(kind: Kind) -> Iterator[Case]:
    for to in KINDS:
        if to is kind:
            continue
        largest = 4.0
        tolerance = Tolerance(
            to.roundoff * largest if to.roundoff > kind.roundoff else 0.0,
            f"a number up to {largest} rounded once to nearest, if the type is narrower",
        )
        x = uniform(kind, *_SHAPE, low=-largest, high=largest)
        given = {"to": to.type}
        yield probe("Cast", f"to-{to.name}", OPSET, kind, [x], lambda x: x, tolerance, attributes=given)
    for type_, name in (
        (ir.DataType.INT64, "int64"),
        (ir.DataType.INT32, "int32"),
        (ir.DataType.UINT8, "uint8"),
        (ir.DataType.BOOL, "bool"),
    ):
        x = _quarters(kind) if name != "uint8" else drawn(kind, _SHAPE, _small_positive)
        yield probe("Cast", f"to-{name}", OPSET, kind, [x], _truncate(type_), EXACT, attributes={"to": type_})


_FLOATS = {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16"}


def _small_positive(rng: np.random.Generator) -> Floats:
    return rng.integers(0, 63, _SHAPE, endpoint=True) / 4


def _truncate(type_: ir.DataType) -> Callable[[Floats], Array]:
    return lambda x: (x != 0) if type_ is ir.DataType.BOOL else np.trunc(x).astype(np.int64)


_INTEGER: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Min": np.minimum,
    "Max": np.maximum,
}


def _integers() -> Iterator[Case]:
    for type_, name in ((ir.DataType.INT64, "int64"), (ir.DataType.INT32, "int32")):
        x, y = (integers(-20, 20, *_SHAPE, type=type_) for _ in range(2))
        positive = integers(1, 7, *_SHAPE, type=type_)
        for op, apply in {**_INTEGER, **_COMPARISONS}.items():
            yield probe(op, "plain", OPSET, name, [x, y], apply, EXACT)
        # Integers are divided toward zero; the remainder of Mod has the divisor's sign.
        yield probe("Div", "truncating", OPSET, name, [x, positive], lambda a, b: np.trunc(a / b), EXACT)
        yield probe("Mod", "plain", OPSET, name, [x, positive], np.mod, EXACT)
        yield probe("Abs", "plain", OPSET, name, [x], np.abs, EXACT)
        yield probe("Neg", "plain", OPSET, name, [x], np.negative, EXACT)
        yield probe("Identity", "plain", OPSET, name, [x], lambda x: x, EXACT)
        bounds: list[Input] = [fixed(type_, -5), fixed(type_, 8)]
        yield probe("Clip", "plain", OPSET, name, [x, *bounds], np.clip, EXACT)
        chosen = integers(0, 1, *_SHAPE, type=ir.DataType.BOOL)
        yield probe("Where", "plain", OPSET, name, [chosen, x, y], np.where, EXACT)
        for to in (FP32, FP16):
            given = {"to": to.type}
            yield probe("Cast", f"to-{to.name}", OPSET, name, [x], lambda x: x, EXACT, attributes=given)
    for source, into, name, bound in (
        (ir.DataType.INT64, ir.DataType.INT32, "int64", 100),
        (ir.DataType.INT32, ir.DataType.INT64, "int32", 100),
        (ir.DataType.UINT8, ir.DataType.FLOAT, "uint8", 255),
        (ir.DataType.UINT8, ir.DataType.FLOAT16, "uint8", 255),
        (ir.DataType.BOOL, ir.DataType.FLOAT, "bool", 1),
        (ir.DataType.BOOL, ir.DataType.INT64, "bool", 1),
    ):
        low = -bound if name.startswith("int") else 0
        x = integers(low, bound, *_SHAPE, type=source)
        setting = f"to-{_FLOATS.get(into) or into.name.lower()}"
        yield probe("Cast", setting, OPSET, name, [x], lambda x: x * 1, EXACT, attributes={"to": into})


def _logic() -> Iterator[Case]:
    x, y = (integers(0, 1, *_SHAPE, type=ir.DataType.BOOL) for _ in range(2))
    for op, apply in (("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor)):
        yield probe(op, "plain", OPSET, "bool", [x, y], apply, EXACT)
    yield probe("Not", "plain", OPSET, "bool", [x], np.logical_not, EXACT)
