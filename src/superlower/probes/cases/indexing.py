"""What reads and writes at computed places: gathers and scatters, with negative and repeated indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.probes.case import Array, Case, Tolerance
from superlower.probes.cases._build import (
    EXACT,
    FP32,
    KINDS,
    OPSET,
    Fed,
    Fixed,
    Input,
    Kind,
    fixed,
    integers,
    probe,
    rounded,
    uniform,
)

_SHAPE = (3, 4, 5)
_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda _, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": np.maximum,
    "min": np.minimum,
}
_REPEATS = 4
"""How often one place is written where a reduction allows it."""

Ints = NDArray[np.int64]


def cases() -> Iterator[Case]:
    """All cases of reading and writing at indices."""
    for kind in KINDS:
        yield from _gathers(kind, uniform(kind, *_SHAPE))
        yield from _scatters(kind, OPSET, tuple(_REDUCTIONS))
    yield from _gathers("int64", integers(-9, 9, *_SHAPE))
    # At 16 reductions were new, and without the last two.
    yield from _scatters(FP32, 16, ("none", "add", "mul"))


def _gathers(kind: Kind | str, x: Fed) -> Iterator[Case]:
    whole = ir.DataType.INT64

    def case(op: str, setting: str, index: Input, apply: Callable[..., Array], **given: Any) -> Case:
        return probe(op, setting, OPSET, kind, [x, index], apply, EXACT, attributes=given)

    def take(axis: int) -> Callable[..., Array]:
        return lambda a, i: np.take(a, i, axis)

    yield case("Gather", "plain", fixed(whole, [[3, 0], [1, 1]]), take(1), axis=1)
    yield case("Gather", "scalar", fixed(whole, 2), take(0), axis=0)
    yield case("Gather", "negative", fixed(whole, [-1, 0, -4]), take(2), axis=-1)
    yield case("Gather", "int32", fixed(ir.DataType.INT32, [4, 0, 2]), take(2), axis=2)
    yield case("Gather", "computed", integers(0, 3, 6), take(1), axis=1)
    yield case("Gather", "computed-negative", integers(-4, 3, 6), take(1), axis=1)
    yield case("GatherElements", "plain", integers(0, 4, 3, 4, 2), _gather_elements(2), axis=2)
    yield case("GatherElements", "negative", integers(-4, 3, 3, 2, 5), _gather_elements(1), axis=-2)
    for batch in (0, 1, 2):
        limits = _SHAPE[batch:]
        lead = _SHAPE[:batch]
        for depth in range(1, len(limits) + 1):
            shape = (*lead, 6, depth)
            low = [-n for n in limits[:depth]]
            positive = _tuples(shape, [0] * depth, limits[:depth])
            negative = _tuples(shape, low, limits[:depth])
            apply = _gather_nd(batch)
            name = f"batch{batch}-depth{depth}"
            yield case("GatherND", name, positive, apply, batch_dims=batch)
            if depth == 1:
                yield case("GatherND", f"{name}-negative", negative, apply, batch_dims=batch)
    constant = fixed(whole, [[0, 3], [2, -1], [1, 1]])
    yield case("GatherND", "constant", constant, _gather_nd(0))


def _tuples(shape: tuple[int, ...], low: list[int], high: tuple[int, ...]) -> Fed:
    def draw(rng: np.random.Generator) -> Ints:
        return np.stack([rng.integers(a, b, shape[:-1]) for a, b in zip(low, high, strict=True)], axis=-1)

    return Fed(shape, ir.DataType.INT64, draw)


def _gather_elements(axis: int) -> Callable[..., Array]:
    def apply(a: Array, index: Ints) -> Array:
        out = np.empty(index.shape, a.dtype)
        for place in np.ndindex(*index.shape):
            source = list(place)
            source[axis] = int(index[place])
            out[place] = a[tuple(source)]
        return out

    return apply


def _gather_nd(batch: int) -> Callable[..., Array]:
    def apply(a: Array, index: Ints) -> Array:
        outer = index.shape[:-1]
        inner = a.shape[batch + index.shape[-1] :]
        out = np.empty((*outer, *inner), a.dtype)
        for place in np.ndindex(*outer):
            out[place] = a[(*place[:batch], *(int(i) for i in index[place]))]
        return out

    return apply


def _scatters(kind: Kind, opset: int, reductions: tuple[str, ...]) -> Iterator[Case]:
    x = uniform(kind, *_SHAPE)
    for reduction in reductions:
        repeated = reduction != "none"
        tolerance = _reduced(kind, reduction)
        given = {"reduction": reduction}
        for setting, index, shape in _nd_indices(repeated):
            inputs: list[Input] = [x, index, uniform(kind, *shape)]
            name = f"{reduction}-{setting}"
            apply = _scatter_nd(reduction)
            yield probe("ScatterND", name, opset, kind, inputs, apply, tolerance, attributes=given)
        for setting, axis, index, shape in _element_indices(repeated):
            inputs = [x, index, uniform(kind, *shape)]
            name = f"{reduction}-{setting}"
            apply = _scatter_elements(axis, reduction)
            both = {"axis": axis, **given}
            yield probe("ScatterElements", name, opset, kind, inputs, apply, tolerance, attributes=both)


def _reduced(kind: Kind, reduction: str) -> Tolerance:
    if reduction in ("add", "mul"):
        return rounded(kind, 2 * _REPEATS, 2 * _REPEATS + 1.0, "as many updates of one place, in any order")
    return EXACT


def _nd_indices(repeated: bool) -> Iterator[tuple[str, Input, tuple[int, ...]]]:
    """Names, indices and shapes of the updates. Places are distinct unless they may be repeated."""
    flat = np.arange(6) * 9 + 3
    places = np.stack(np.unravel_index(flat, _SHAPE), axis=-1)
    if repeated:
        places = np.concatenate([places[:3]] + [places[3:4]] * _REPEATS)
    count = len(places)
    fed = Fed(places.shape, ir.DataType.INT64, lambda rng: rng.permutation(places))
    negative = Fed(places.shape, ir.DataType.INT64, lambda rng: rng.permutation(places) - np.array(_SHAPE))
    yield "elements", fed, (count,)
    yield "negative", negative, (count,)
    yield "constant", Fixed(places.astype(np.int64)), (count,)
    rows = Fed((2, 1), ir.DataType.INT64, lambda rng: rng.permutation(3)[:2, None])
    yield "slices", rows, (2, *_SHAPE[1:])
    columns = Fed((2, 2), ir.DataType.INT64, lambda rng: rng.permutation(3)[:2, None] + np.array([[0, 1]]))
    yield "rows", columns, (2, _SHAPE[2])


def _element_indices(repeated: bool) -> Iterator[tuple[str, int, Input, tuple[int, ...]]]:
    shape = (3, 2, 5)
    kind = ir.DataType.INT64

    def distinct(rng: np.random.Generator) -> Ints:
        return rng.permuted(np.broadcast_to(np.arange(4)[:, None], (3, 4, 5)), axis=1)[:, :2]

    def same(rng: np.random.Generator) -> Ints:
        first = rng.integers(0, 4, (3, 1, 5))
        return np.broadcast_to(first, shape)

    draw = same if repeated else distinct
    yield "plain", 1, Fed(shape, kind, draw), shape
    yield "negative", -2, Fed(shape, kind, lambda rng: draw(rng) - 4), shape
    yield "int32", 1, Fed(shape, ir.DataType.INT32, draw), shape
    yield "constant", 1, Fixed(draw(np.random.default_rng(7)).astype(np.int64)), shape
    # What exporters write for `grid[..., 0] = ...`: one index a place, along the last axis.
    whole = np.full((3, 4, 1), 2, np.int64)
    yield "last", 2, Fixed(whole), (3, 4, 1)


def _scatter_nd(reduction: str) -> Callable[..., Array]:
    join = _REDUCTIONS[reduction]

    def apply(a: Array, index: Ints, updates: Array) -> Array:
        out = a.copy()
        for place in np.ndindex(*index.shape[:-1]):
            target = tuple(int(i) for i in index[place])
            out[target] = join(out[target], updates[place])
        return out

    return apply


def _scatter_elements(axis: int, reduction: str) -> Callable[..., Array]:
    join = _REDUCTIONS[reduction]

    def apply(a: Array, index: Ints, updates: Array) -> Array:
        out = a.copy()
        for place in np.ndindex(*index.shape):
            target = list(place)
            target[axis] = int(index[place])
            out[tuple(target)] = join(out[tuple(target)], updates[place])
        return out

    return apply
