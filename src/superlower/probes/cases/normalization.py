"""Sums along axes and what is built on them: reductions, softmaxes, norms, orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from superlower.probes.case import Array, Case, Tolerance
from superlower.probes.cases._build import (
    EXACT,
    KINDS,
    OPSET,
    Fed,
    Fixed,
    Floats,
    Input,
    Kind,
    drawn,
    integers,
    ints,
    kinds,
    probe,
    rounded,
    uniform,
    weights,
)

_SHAPE = (2, 4, 3, 5)
_EPSILON = 1e-5


def cases() -> Iterator[Case]:
    """All cases that sum or order numbers along axes."""
    for kind in KINDS:
        yield from _reductions(kind)
        yield from _softmaxes(kind)
        yield from _orders(kind)
        yield from _layer_norms(kind)
        yield from _batch_norms(kind)
    for opset in (OPSET, 22):
        for kind in kinds("InstanceNormalization", opset):
            yield from _instance_norms(opset, kind)
    for kind in kinds("GroupNormalization", 21):
        yield _group_norm(kind)
    whole = integers(-9, 9, *_SHAPE)
    for op, apply in (("ReduceSum", np.sum), ("ReduceMax", np.max), ("ReduceProd", np.prod)):
        yield from _reduced(op, "int64", whole if op != "ReduceProd" else integers(-3, 3, 2, 4), apply, EXACT)


def _reduced(
    op: str, kind: Kind | str, x: Fed, apply: Callable[..., Any], tolerance: Tolerance
) -> Iterator[Case]:
    """Along the last axis, with and without keeping it."""
    for keep in (0, 1):

        def reference(a: Array, _: Array, keep: int = keep) -> Array:
            return np.asarray(apply(a, axis=-1, keepdims=bool(keep)))

        setting = "kept" if keep else "dropped"
        yield probe(
            op, setting, OPSET, kind, [x, ints(-1)], reference, tolerance, attributes={"keepdims": keep}
        )


def _reductions(kind: Kind) -> Iterator[Case]:
    x = uniform(kind, *_SHAPE)
    count = _SHAPE[-1]
    total = rounded(kind, count, float(count), f"a sum of {count} numbers up to 1")
    mean = rounded(kind, count + 2, 1.0, f"a mean of {count} numbers up to 1")
    length = rounded(kind, count + 4, float(np.sqrt(count)), f"a root of a sum of {count} squares")
    for op, apply, tolerance in (
        ("ReduceSum", np.sum, total),
        ("ReduceMean", np.mean, mean),
        ("ReduceMax", np.max, EXACT),
        ("ReduceMin", np.min, EXACT),
        ("ReduceProd", np.prod, rounded(kind, count, 1.0, f"a product of {count} numbers up to 1")),
        ("ReduceL1", _l1, total),
        ("ReduceL2", _l2, length),
    ):
        yield from _reduced(op, kind, x, apply, tolerance)
    small: list[Input] = [uniform(kind, 2, 3, 4)]
    everything = rounded(kind, 26, 1.0, "a mean of 24 numbers up to 1")
    yield probe("ReduceMean", "all", OPSET, kind, small, _mean_of_all, everything)
    sums: list[Input] = [uniform(kind, 2, 6), Fixed(np.array(1))]
    rounding = rounded(kind, 6, 6.0, "a sum of 6 numbers up to 1")
    yield probe("CumSum", "plain", OPSET, kind, sums, lambda a, _: np.cumsum(a, 1), rounding)


def _l1(x: Floats, **given: Any) -> Floats:
    return np.asarray(np.abs(x).sum(**given))


def _l2(x: Floats, **given: Any) -> Floats:
    return np.asarray(np.sqrt((x * x).sum(**given)))


def _mean_of_all(x: Floats) -> Floats:
    return np.asarray(x.mean(keepdims=True))


def _softmaxes(kind: Kind) -> Iterator[Case]:
    x = uniform(kind, *_SHAPE, low=-2.0, high=2.0)
    # Exponentials of differences up to 4, whose rounding they multiply; a sum; a quotient.
    for axis, setting in ((-1, "last"), (1, "channels")):
        steps = 16 + 4 + _SHAPE[axis] + 2
        tolerance = rounded(kind, steps, 1.0, "exponentials of differences up to 4, their sum, a quotient")
        given = {"axis": axis}
        yield probe("Softmax", setting, OPSET, kind, [x], _softmax(axis), tolerance, attributes=given)
    log = rounded(kind, 16 + 4 + _SHAPE[-1] + 16, 8.0, "differences up to 4 less a logarithm up to 6")
    yield probe("LogSoftmax", "last", OPSET, kind, [x], lambda a: np.log(_softmax(-1)(a)), log)


def _softmax(axis: int) -> Callable[[Floats], Floats]:
    def apply(x: Floats) -> Floats:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))

    return apply


def _orders(kind: Kind) -> Iterator[Case]:
    """Sixteenths without repeats along the axis: an order that every type can tell."""
    x = drawn(kind, (3, 8), lambda rng: rng.permuted(np.tile(np.arange(-4, 4) / 16, (3, 1)), axis=1))
    largest = {"axis": 1, "keepdims": 0}
    yield probe("ArgMax", "plain", OPSET, kind, [x], lambda a: a.argmax(1), EXACT, attributes=largest)

    def top(a: Floats, _: Array) -> tuple[Array, Array]:
        order = np.argsort(-a, axis=1)[:, :3]
        return np.take_along_axis(a, order, 1), order

    if kind in kinds("TopK", OPSET):
        yield probe("TopK", "plain", OPSET, kind, [x, ints(3)], top, EXACT, outputs=2)


def _spread(kind: Kind, shape: tuple[int, ...], axes: int) -> Fed:
    """Evenly spaced numbers in [-1, 1] in a random order along the last `axes`, with an offset a row.

    So mean (0 to 1/2) and variance (about 1/3) are known, and the tolerance with them.
    """
    lead, count = shape[:-axes], int(np.prod(shape[-axes:]))
    rows = int(np.prod(lead))

    def draw(rng: np.random.Generator) -> Floats:
        even = np.tile(np.linspace(-1, 1, count), (rows, 1))
        offsets = np.linspace(0, 0.5, rows)[:, None]
        return np.asarray((rng.permuted(even, axis=1) + offsets).reshape(shape))

    return drawn(kind, shape, draw)


def _norm_tolerance(kind: Kind, count: int) -> Tolerance:
    # The mean and the variance are sums of `count` numbers; E[x^2] - E[x]^2, which some compute, has terms up
    # to 0.58 for a variance of 1/3: twice the error. Deviations are up to 1 / 0.577; scale and bias up to 1.
    steps = 2 * (count + 2) + count + 10
    what = f"means of {count} numbers and of their squares, a root, a scale and a bias"
    return rounded(kind, steps, 1.74 + 1.0, what)


def _normalized(x: Floats, axes: tuple[int, ...]) -> Floats:
    apart = x - x.mean(axis=axes, keepdims=True)
    return np.asarray(apart / np.sqrt((apart**2).mean(axis=axes, keepdims=True) + _EPSILON))


def _layer_norms(kind: Kind) -> Iterator[Case]:
    for axis, axes, setting in ((-1, 1, "last"), (1, 2, "two-axes")):
        shape = (2, 3, 8)
        scaled = shape[-axes:]
        over = tuple(range(-axes, 0))
        x = _spread(kind, shape, axes)
        scale, bias = weights(kind, *scaled, low=0.5), weights(kind, *scaled)
        tolerance = _norm_tolerance(kind, int(np.prod(scaled)))

        def reference(x: Floats, s: Floats, b: Floats | None = None, over: tuple[int, ...] = over) -> Floats:
            return _normalized(x, over) * s + (0 if b is None else b)

        given = {"axis": axis, "epsilon": _EPSILON}
        op = "LayerNormalization"
        yield probe(op, setting, OPSET, kind, [x, scale, bias], reference, tolerance, attributes=given)
        yield probe(op, f"{setting}-no-bias", OPSET, kind, [x, scale], reference, tolerance, attributes=given)


def _channels(values: Floats) -> Floats:
    return np.asarray(values.reshape(-1, 1, 1))


def _instance_norms(opset: int, kind: Kind) -> Iterator[Case]:
    for setting, shape in (("plain", (2, 3, 4, 5)), ("line", (2, 3, 8))):
        over = tuple(range(2, len(shape)))

        def reference(x: Floats, s: Floats, b: Floats, over: tuple[int, ...] = over) -> Floats:
            place = (-1, *(1,) * len(over))
            return _normalized(x, over) * s.reshape(place) + b.reshape(place)

        inputs: list[Input] = [
            _spread(kind, shape, len(over)),
            weights(kind, 3, low=0.5),
            weights(kind, 3),
        ]
        tolerance = _norm_tolerance(kind, int(np.prod(shape[2:])))
        given = {"epsilon": _EPSILON}
        op = "InstanceNormalization"
        yield probe(op, setting, opset, kind, inputs, reference, tolerance, attributes=given)


def _group_norm(kind: Kind) -> Case:
    """At 21, where scale and bias have one number a channel."""

    def reference(x: Floats, s: Floats, b: Floats) -> Floats:
        groups = x.reshape(2, 2, 2, 3, 4)
        return _normalized(groups, (2, 3, 4)).reshape(x.shape) * _channels(s) + _channels(b)

    spread = _spread(kind, (2, 2, 24), 1)
    x = Fed((2, 4, 3, 4), kind.type, lambda rng: spread.draw(rng).reshape(2, 4, 3, 4))
    inputs: list[Input] = [x, weights(kind, 4, low=0.5), weights(kind, 4)]
    given = {"num_groups": 2, "epsilon": _EPSILON}
    tolerance = _norm_tolerance(kind, 24)
    return probe(
        "GroupNormalization", "plain", 21, kind, inputs, reference, tolerance, attributes=given, alike=True
    )


def _batch_norms(kind: Kind) -> Iterator[Case]:
    def reference(x: Floats, s: Floats, b: Floats, mean: Floats, variance: Floats) -> Floats:
        spread = np.sqrt(_channels(variance) + _EPSILON)
        return (x - _channels(mean)) / spread * _channels(s) + _channels(b)

    variance = weights(kind, 4, low=0.25, high=1.0)
    inputs: list[Input] = [
        uniform(kind, *_SHAPE),
        weights(kind, 4, low=0.5),
        weights(kind, 4),
        weights(kind, 4, low=-0.5, high=0.5),
        variance,
    ]
    # |x - mean| is up to 1.5 over a root of at least 0.5; folded into x * a + b, both of these round too.
    tolerance = rounded(kind, 12, 4.0, "a difference over a root, a scale and a bias, folded or not")
    given = {"epsilon": _EPSILON}
    op = "BatchNormalization"
    yield probe(op, "plain", OPSET, kind, inputs, reference, tolerance, attributes=given)
