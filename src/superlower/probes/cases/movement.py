"""What moves numbers without changing them: layouts, slices, pads, and pixels to channels and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from superlower.probes.case import Array, Arrays, Case
from superlower.probes.cases._build import (
    EXACT,
    KINDS,
    OPSET,
    Draft,
    Fed,
    Fixed,
    Input,
    Kind,
    feeder,
    fixed,
    integers,
    ints,
    named,
    probe,
    rounded,
    uniform,
    weights,
)

_SHAPE = (2, 4, 3, 5)


def cases() -> Iterator[Case]:
    """All cases of operators that only move numbers."""
    for kind in KINDS:
        image = uniform(kind, *_SHAPE)
        yield from _layouts(kind, image)
        yield from _slices(kind, image)
        yield from _pads(kind, image)
        yield from _pixels(kind)
        yield _constant(kind)
    whole = integers(-9, 9, *_SHAPE)
    yield from _layouts("int64", whole)
    yield from _slices("int64", whole)
    yield from _shapes()


def _layouts(kind: Kind | str, x: Fed) -> Iterator[Case]:
    def case(op: str, setting: str, inputs: list[Input], apply: Callable[..., Array], **given: Any) -> Case:
        return probe(op, setting, OPSET, kind, inputs, apply, EXACT, attributes=given)

    other = Fed((2, 3, 3, 5), x.type, lambda rng: x.draw(rng)[:, :3])
    yield case("Concat", "channels", [x, other], lambda *a: np.concatenate(a, 1), axis=1)
    yield case("Concat", "last", [x, x, x], lambda *a: np.concatenate(a, -1), axis=-1)
    yield case("Transpose", "channels-last", [x], lambda a: a.transpose(0, 2, 3, 1), perm=[0, 2, 3, 1])
    yield case("Transpose", "reversed", [x], np.transpose)
    six = Fed((1, 2, 2, 3, 2, 2), x.type, lambda rng: x.draw(rng).reshape(-1)[:48].reshape(1, 2, 2, 3, 2, 2))
    order = (0, 1, 4, 2, 5, 3)
    yield case("Transpose", "six-axes", [six], lambda a: a.transpose(order), perm=list(order))
    yield case("Reshape", "plain", [x, ints(2, 2, 2, 15)], lambda a, _: a.reshape(2, 2, 2, 15))
    yield case("Reshape", "inferred", [x, ints(0, -1)], lambda a, _: a.reshape(2, -1))
    yield case("Flatten", "plain", [x], lambda a: a.reshape(2, -1), axis=1)
    yield case("Unsqueeze", "plain", [x, ints(0, -1)], lambda a, _: a[None, ..., None])
    thin = Fed((2, 1, 3, 1), x.type, lambda rng: x.draw(rng)[:, :1, :, :1])
    yield case("Squeeze", "plain", [thin, ints(1, -1)], lambda a, _: a[:, 0, :, 0])
    yield case("Squeeze", "all", [thin], np.squeeze)
    yield case("Expand", "plain", [thin, ints(2, 4, 1, 5)], lambda a, _: np.broadcast_to(a, (2, 4, 3, 5)))
    yield case("Tile", "plain", [x, ints(1, 2, 1, 3)], np.tile)


def _constant(kind: Kind) -> Case:
    """A Constant node, for exporters write weights so too; and a sum, for a graph must have inputs."""
    x, held = uniform(kind, *_SHAPE), weights(kind, *_SHAPE)

    def model() -> ir.Model:
        draft = Draft()
        constant = draft.add("Constant", value=ir.tensor(held.array))[0]
        return draft.model(draft.add("Add", draft.input("in0", x), constant), OPSET)

    def reference(arrays: Arrays) -> dict[str, Array]:
        return {"out0": arrays["in0"].astype(np.float64) + held.array.astype(np.float64)}

    tolerance = rounded(kind, 1, 2.0, "one sum")
    name = named("Constant", "plain", OPSET, kind.name)
    return Case(name, "Constant", model, feeder({"in0": x}), reference, tolerance)


def _slices(kind: Kind | str, x: Fed) -> Iterator[Case]:
    def case(op: str, setting: str, inputs: list[Input], apply: Callable[..., Any], n: int = 1) -> Case:
        return probe(op, setting, OPSET, kind, inputs, apply, EXACT, attributes={"axis": 1}, outputs=n)

    yield case("Split", "sizes", [x, ints(1, 3)], lambda a, _: (a[:, :1], a[:, 1:]), 2)
    yield probe(
        "Split",
        "equal",
        OPSET,
        kind,
        [x],
        lambda a: (a[..., :3], a[..., 3:]),
        EXACT,
        attributes={"axis": -1, "num_outputs": 2},
        outputs=2,
    )
    for setting, bounds, place in (
        ("plain", ([1, 0], [3, 4], [1, 3]), np.s_[:, 1:3, :, :4]),
        ("steps", ([0, 1], [4, 5], [1, 3], [2, 3]), np.s_[:, ::2, :, 1::3]),
        ("reversed", ([-1], [-(2**31)], [3], [-1]), np.s_[..., ::-1]),
        ("negative", ([-3], [-1], [-1]), np.s_[..., -3:-1]),
        ("past-the-end", ([2], [2**31 - 1], [3]), np.s_[..., 2:]),
    ):
        numbers = [ints(*each) for each in bounds]
        yield probe("Slice", setting, OPSET, kind, [x, *numbers], _at(place), EXACT)


def _at(place: Any) -> Callable[..., Array]:
    return lambda a, *_: a[place]


def _pads(kind: Kind, x: Fed) -> Iterator[Case]:
    # ONNX gives what comes before every axis, then what comes after; numpy axis by axis.
    before_after = ints(0, 0, 1, 2, 0, 0, 2, 1)
    widths = [(0, 0), (0, 0), (1, 2), (2, 1)]
    for mode in ("constant", "reflect", "edge", "wrap"):

        def padded(a: Array, _: Array, mode: Any = mode) -> Array:
            return np.pad(a, widths, mode=mode)

        given = {"mode": mode}
        yield probe("Pad", mode, OPSET, kind, [x, before_after], padded, EXACT, attributes=given)
    value: list[Input] = [x, before_after, fixed(kind, 0.5)]

    def with_value(a: Array, *_: object) -> Array:
        return np.pad(a, widths, constant_values=0.5)

    yield probe("Pad", "constant-value", OPSET, kind, value, with_value, EXACT)
    cut: list[Input] = [x, ints(0, 0, -1, 1, 0, 0, 0, -2)]
    trimmed = [(0, 0), (0, 0), (0, 0), (1, 0)]
    yield probe("Pad", "cut", OPSET, kind, cut, lambda a, _: np.pad(a[:, :, 1:, :-2], trimmed), EXACT)
    some: list[Input] = [x, ints(1, 2), None, ints(3)]
    last = [(0, 0), (0, 0), (0, 0), (1, 2)]
    yield probe("Pad", "axes", OPSET, kind, some, lambda a, *_: np.pad(a, last), EXACT)


def _pixels(kind: Kind) -> Iterator[Case]:
    for block in (2, 3, 4):
        channels = 2 * block * block
        x: list[Input] = [uniform(kind, 2, channels, 3, 4)]
        for mode, apply in (("DCR", depth_to_space_dcr), ("CRD", depth_to_space_crd)):
            yield probe(
                "DepthToSpace",
                f"{mode}-x{block}",
                OPSET,
                kind,
                x,
                _blocked(apply, block),
                EXACT,
                attributes={"blocksize": block, "mode": mode},
            )
        image: list[Input] = [uniform(kind, 2, 3, 2 * block, 3 * block)]
        given = {"blocksize": block}
        back = _blocked(space_to_depth, block)
        yield probe("SpaceToDepth", f"x{block}", OPSET, kind, image, back, EXACT, attributes=given)


def _blocked(apply: Callable[[Array, int], Array], block: int) -> Callable[[Array], Array]:
    return lambda a: apply(a, block)


def depth_to_space_dcr(x: Array, block: int) -> Array:
    """Depth, column, row: a channel's block place is the slowest part of its number."""
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w)
    return parts.transpose(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def depth_to_space_crd(x: Array, block: int) -> Array:
    """Column, row, depth: a channel's block place is the fastest part of its number, as in PixelShuffle."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c // block**2, block, block, h, w)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // block**2, h * block, w * block)


def space_to_depth(x: Array, block: int) -> Array:
    """The inverse of `depth_to_space_dcr`."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _shape(setting: str, **given: int) -> Case:
    """A shape as numbers that enter a computation: some SDKs keep shapes apart from tensors."""
    kind = KINDS[0]
    x = uniform(kind, *_SHAPE)
    told = np.array(_SHAPE[given.get("start", 0) : given.get("end", len(_SHAPE))], np.float64)

    def model() -> ir.Model:
        draft = Draft()
        shape = draft.add("Shape", draft.input("in0", x), **given)[0]
        return draft.model(draft.add("Cast", shape, to=kind.type), OPSET)

    name = named("Shape", setting, OPSET, kind.name)
    return Case(name, "Shape", model, feeder({"in0": x}), lambda _: {"out0": told}, EXACT)


def _shapes() -> Iterator[Case]:
    """Integers that tell shapes, as exporters compute them."""
    kind = KINDS[0]
    x = uniform(kind, *_SHAPE)
    whole = ir.DataType.INT64

    def case(op: str, setting: str, inputs: list[Input], apply: Callable[..., Array], **given: Any) -> Case:
        dtype = kind if inputs[0] is x else "int64"
        return probe(op, setting, OPSET, dtype, inputs, apply, EXACT, attributes=given)

    yield _shape("plain")
    yield _shape("part", start=2)
    yield _shape("last", start=-1)
    yield _shape("range", start=1, end=3)
    yield case("Size", "plain", [x], lambda _: np.array(np.prod(_SHAPE)))
    filled = ir.tensor(np.array([0.5], np.float32))
    yield case("ConstantOfShape", "plain", [ints(2, 3)], lambda _: np.full((2, 3), 0.5), value=filled)
    bounds: list[Input] = [Fixed(np.array(n, whole.numpy())) for n in (1, 9, 3)]
    yield case("Range", "plain", bounds, np.arange)
