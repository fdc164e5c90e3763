"""If and Loop: branches taken at run time, carried values, outputs of every round, early ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from superlower.probes.case import Array, Arrays, Case, Tolerance
from superlower.probes.cases._build import (
    KINDS,
    OPSET,
    Draft,
    Fed,
    Fixed,
    Kind,
    feeder,
    fixed,
    named,
    rounded,
    uniform,
)

_SHAPE = (2, 3, 4)
_ROUNDS = 4
_BOOL = ir.DataType.BOOL


def cases() -> Iterator[Case]:
    """All cases of If and Loop."""
    for kind in KINDS:
        for taken in (True, False):
            yield _if(kind, taken)
        for setting in ("plain", "computed-rounds", "early-end"):
            yield _loop(kind, setting)


def _given(value: bool) -> Fed:
    return Fed((), _BOOL, lambda _: np.array(value))


def _branches(x: ir.Value, kind: Kind) -> dict[str, Any]:
    """2 * x + 0.5 where the condition holds, else x * x; both read the outer graph's value."""
    then, other = Draft("then_"), Draft("else_")
    doubled = then.add("Mul", x, then.constant(fixed(kind, 2.0)))[0]
    shifted = then.add("Add", doubled, then.constant(fixed(kind, 0.5)))
    squared = other.add("Mul", x, x)
    return {
        "then_branch": then.graph(_typed(shifted, kind), OPSET, "then"),
        "else_branch": other.graph(_typed(squared, kind), OPSET, "else"),
    }


def _typed(values: list[ir.Value], kind: Kind) -> list[ir.Value]:
    for value in values:
        value.type, value.shape = ir.TensorType(kind.type), ir.Shape(_SHAPE)
    return values


def _expected(x: Array, condition: bool) -> Array:
    return 2 * x + 0.5 if condition else x * x  # type: ignore[operator]


def _if(kind: Kind, taken: bool) -> Case:
    inputs = {"in0": _given(taken), "in1": uniform(kind, *_SHAPE)}

    def model() -> ir.Model:
        draft = Draft()
        condition, x = (draft.input(name, fed) for name, fed in inputs.items())
        return draft.model(draft.add("If", condition, **_branches(x, kind)), OPSET)

    def reference(arrays: Arrays) -> dict[str, Array]:
        return {"out0": _expected(arrays["in1"], bool(arrays["in0"]))}

    name = named("If", "then" if taken else "else", OPSET, kind.name)
    return Case(name, "If", model, feeder(inputs), reference, _two_steps(kind))


def _two_steps(kind: Kind) -> Tolerance:
    return rounded(kind, 2, 2.5, "a product and a sum")


def _loop(kind: Kind, setting: str) -> Case:
    """A hidden state: h <- h / 2 + x, with h * h of every round as a scan output."""
    inputs: dict[str, Fed] = {"in0": uniform(kind, *_SHAPE), "in1": uniform(kind, *_SHAPE)}
    if setting == "computed-rounds":
        inputs["in2"] = Fed((), ir.DataType.INT64, lambda _: np.array(_ROUNDS))

    def model() -> ir.Model:
        draft = Draft()
        values = {name: draft.input(name, fed) for name, fed in inputs.items()}
        # With an early end the trip count is beyond what the condition lets pass.
        most = _ROUNDS + (3 if setting == "early-end" else 0)
        rounds = values.get("in2") or draft.constant(Fixed(np.array(most)))
        go = draft.constant(Fixed(np.array(True)))
        body = _body(values["in1"], kind, early=setting == "early-end")
        made = draft.add("Loop", rounds, go, values["in0"], outputs=2, body=body)
        # A carried value may change its shape from round to round, so inference gives none.
        for value, shape in zip(_typed(made, kind), (_SHAPE, (_ROUNDS, *_SHAPE)), strict=True):
            value.shape = ir.Shape(shape)
        return draft.model(made, OPSET)

    def reference(arrays: Arrays) -> dict[str, Array]:
        hidden = arrays["in0"].astype(np.float64)
        squares = []
        for _ in range(_ROUNDS):
            hidden = hidden / 2 + arrays["in1"].astype(np.float64)
            squares.append(hidden * hidden)
        return {"out0": hidden, "out1": np.stack(squares)}

    # |h| is up to 2; what a round adds is halved by the next, so no more than two rounds' errors last, and
    # the square doubles them and multiplies by |h|.
    tolerance = rounded(kind, 2 * 2 * 2 * 2 + 1, 4.0, "halving, adding and squaring a state up to 2")
    name = named("Loop", setting, OPSET, kind.name)
    return Case(name, "Loop", model, feeder(inputs), reference, tolerance)


def _body(x: ir.Value, kind: Kind, early: bool) -> ir.Graph:
    body = Draft("body_")
    index = body.input("body_round", Fed((), ir.DataType.INT64, _nothing))
    go = body.input("body_go", Fed((), _BOOL, _nothing))
    hidden = body.input("body_hidden", Fed(_SHAPE, kind.type, _nothing))
    halved = body.add("Mul", hidden, body.constant(fixed(kind, 0.5)))[0]
    new = body.add("Add", halved, x)[0]
    square = body.add("Mul", new, new)[0]
    last = body.constant(Fixed(np.array(_ROUNDS - 1)))
    again = body.add("Less", index, last)[0] if early else body.add("Identity", go)[0]
    again.type, again.shape = ir.TensorType(_BOOL), ir.Shape(())
    return body.graph([again, *_typed([new, square], kind)], OPSET, "body")


def _nothing(_: np.random.Generator) -> Array:
    """Inputs of a body are the loop's to make."""
    return np.array(0)
