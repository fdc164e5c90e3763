"""How the catalogue writes its cases: element types, inputs, models of one node, references by position."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import infer_shapes
from superlower.probes.case import Array, Arrays, Case, Tolerance, widen

Floats = NDArray[np.float64]
Reference = Callable[..., Array | tuple[Array, ...]]
"""The operator's inputs, widened, in its own order, None where one is left out -> its output or outputs."""

OPSET = 19
"""Operators with one definition across the opsets superlower works in are probed at this one."""

EXACT = Tolerance(0.0, "values are copied, compared or computed in integers: nothing is rounded")

POSITION = 1e-2
"""Pixels that a sampling position may be off by, where positions are computed from exact inputs: a hundredth
of a pixel is what a warp can bear, and fp32 arithmetic stays below it up to 8K."""


@dataclass(frozen=True)
class Kind:
    """A floating-point element type.

    Attributes:
        name: "fp32", "fp16", "bf16".
        type: of the tensors.
        roundoff: u = 2^-p for p bits of significand: the largest relative error of one rounding to nearest.
    """

    name: str
    type: ir.DataType
    roundoff: float


FP32 = Kind("fp32", ir.DataType.FLOAT, 2.0**-24)
FP16 = Kind("fp16", ir.DataType.FLOAT16, 2.0**-11)
BF16 = Kind("bf16", ir.DataType.BFLOAT16, 2.0**-8)
KINDS = (FP32, FP16, BF16)


def kinds(op: str, opset: int) -> tuple[Kind, ...]:
    """The floating-point types that the operator's first input takes at an opset."""
    schema = onnx.defs.get_schema(op, opset, "")
    wanted = schema.inputs[0].type_str
    allowed = next(
        (set(c.allowed_type_strs) for c in schema.type_constraints if c.type_param_str == wanted), {wanted}
    )
    names = {"fp32": "tensor(float)", "fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
    return tuple(kind for kind in KINDS if names[kind.name] in allowed)


def rounded(kind: Kind, roundings: int, magnitude: float, what: str) -> Tolerance:
    """So many roundings to nearest, each of a number no larger than `magnitude`."""
    return Tolerance(
        roundings * kind.roundoff * magnitude,
        f"{roundings} roundings by {kind.roundoff:.1e} of numbers up to {magnitude:.3g}: {what}",
    )


@dataclass(frozen=True)
class Fed:
    """An input the runner feeds: `draw` makes it, of `shape`, before it is rounded to `type`."""

    shape: tuple[int, ...]
    type: ir.DataType
    draw: Callable[[np.random.Generator], NDArray[Any]]


@dataclass(frozen=True)
class Fixed:
    """An input that is a constant of the model, in its own type."""

    array: Array


Input = Fed | Fixed | None


def uniform(kind: Kind, *shape: int, low: float = -1.0, high: float = 1.0) -> Fed:
    """Numbers spread evenly over [low, high]."""
    return Fed(shape, kind.type, lambda rng: rng.uniform(low, high, shape))


def integers(low: int, high: int, *shape: int, type: ir.DataType = ir.DataType.INT64) -> Fed:
    """Integers from low to high, both included."""
    return Fed(shape, type, lambda rng: rng.integers(low, high, shape, endpoint=True))


def drawn(
    kind: Kind | ir.DataType, shape: Sequence[int], draw: Callable[[np.random.Generator], NDArray[Any]]
) -> Fed:
    """An input made by a function of the case's own."""
    return Fed(tuple(shape), kind.type if isinstance(kind, Kind) else kind, draw)


def fixed(kind: Kind | ir.DataType, array: object) -> Fixed:
    """A constant, rounded to a type."""
    type_ = kind.type if isinstance(kind, Kind) else kind
    return Fixed(np.asarray(np.asarray(array), type_.numpy()))


def weights(kind: Kind, *shape: int, low: float = -1.0, high: float = 1.0) -> Fixed:
    """A constant of numbers spread evenly over [low, high], the same on every run."""
    seed = zlib.crc32(repr((shape, low, high)).encode())
    return fixed(kind, np.random.default_rng(seed).uniform(low, high, shape))


def vector(kind: Kind, *numbers: float) -> Fixed:
    """A constant vector."""
    return fixed(kind, numbers)


def ints(*numbers: int) -> Fixed:
    """An INT64 vector."""
    return fixed(ir.DataType.INT64, numbers)


class Draft:
    """A model under construction. A graph inside of another takes a prefix, for names may not be doubled."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def input(self, name: str, fed: Fed) -> ir.Value:
        """A graph input."""
        value = ir.Value(name=name, shape=ir.Shape(fed.shape), type=ir.TensorType(fed.type))
        self.inputs.append(value)
        return value

    def constant(self, fixed: Fixed) -> ir.Value:
        """An initializer."""
        tensor = ir.tensor(fixed.array)
        value = ir.Value(
            name=f"{self.prefix}constant{len(self.constants)}",
            shape=ir.Shape(fixed.array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.constants.append(value)
        return value

    def add(self, op: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> list[ir.Value]:
        """A node; gives its outputs."""
        node = ir.node(
            op, inputs, attributes, num_outputs=outputs, name=f"{self.prefix}{op}_{len(self.nodes)}"
        )
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}_{index}"
        self.nodes.append(node)
        return list(node.outputs)

    def graph(self, outputs: Sequence[ir.Value], opset: int, name: str = "probe") -> ir.Graph:
        """The graph, its outputs named out0, out1, ..."""
        for index, value in enumerate(outputs):
            value.name = f"{self.prefix}out{index}"
        return ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": opset},
            name=name,
        )

    def model(self, outputs: Sequence[ir.Value], opset: int) -> ir.Model:
        """The model, its values typed."""
        return infer_shapes(ir.Model(self.graph(outputs, opset), ir_version=10))


def named(op: str, setting: str, opset: int, kind: str, large: bool = False) -> str:
    """A case's name: "GridSample/bilinear-zeros-corners/16/fp16/4k"."""
    return "/".join((op, setting, str(opset), kind, *(("4k",) if large else ())))


def feeder(inputs: Mapping[str, Fed]) -> Callable[[np.random.Generator], dict[str, Array]]:
    """What makes a case's inputs, each rounded to its type."""

    def feeds(rng: np.random.Generator) -> dict[str, Array]:
        return {name: np.asarray(fed.draw(rng)).astype(fed.type.numpy()) for name, fed in inputs.items()}

    return feeds


def probe(
    op: str,
    setting: str,
    opset: int,
    kind: Kind | str,
    inputs: Sequence[Input],
    reference: Reference,
    tolerance: Tolerance,
    *,
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
    alike: bool = False,
    large: bool = False,
    corner: bool = False,
) -> Case:
    """A case of one node.

    Args:
        op: the operator, of ONNX's own domain.
        setting: what tells it from the operator's other cases, for its name.
        opset: of the model.
        kind: element type, for its name; a string where it isn't floating-point.
        inputs: of the node, in order.
        reference: called with all of them by position, constants too.
        tolerance: what outputs are held to.
        attributes: of the node.
        outputs: how many outputs the node has.
        alike: the outputs have the first input's type and shape, and inference can't tell.
        large: a wide frame.
        corner: a corner of the definition.
    """
    given = dict(attributes or {})
    fed = {f"in{i}": each for i, each in enumerate(inputs) if isinstance(each, Fed)}

    def model() -> ir.Model:
        draft = Draft()
        values = [
            None
            if each is None
            else draft.constant(each)
            if isinstance(each, Fixed)
            else draft.input(f"in{i}", each)
            for i, each in enumerate(inputs)
        ]
        made = draft.add(op, *values, outputs=outputs, **given)
        first = values[0]
        if alike and first is not None:
            for value in made:
                value.type, value.shape = first.type, first.shape
        return draft.model(made, opset)

    def expected(arrays: Arrays) -> dict[str, Array]:
        found = reference(
            *(
                None if each is None else widen(each.array) if isinstance(each, Fixed) else arrays[f"in{i}"]
                for i, each in enumerate(inputs)
            )
        )
        found = found if isinstance(found, tuple) else (found,)
        return {f"out{i}": np.asarray(each) for i, each in enumerate(found)}

    dtype = kind.name if isinstance(kind, Kind) else kind
    name = named(op, setting, opset, dtype, large)
    return Case(name, op, model, feeder(fed), expected, tolerance, large, corner)
