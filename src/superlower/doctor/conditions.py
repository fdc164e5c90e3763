"""What a rule asks of a graph: predicates with parameters, by the names that rules use.

A rule's `condition` is a table whose `is` names one of these and whose other entries are its fields:
`condition = { is = "operator", ops = ["Resize"], beyond = { antialias = [0] } }`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
from packaging.specifiers import SpecifierSet

from superlower.ir import constant_value, infer_shapes, serialize

_DOMAINS = ("", "ai.onnx")

TYPES: Final = {
    "fp64": frozenset({ir.DataType.DOUBLE}),
    "fp32": frozenset({ir.DataType.FLOAT}),
    "fp16": frozenset({ir.DataType.FLOAT16}),
    "bf16": frozenset({ir.DataType.BFLOAT16}),
    "fp8": frozenset(
        {
            ir.DataType.FLOAT8E4M3FN,
            ir.DataType.FLOAT8E4M3FNUZ,
            ir.DataType.FLOAT8E5M2,
            ir.DataType.FLOAT8E5M2FNUZ,
        }
    ),
    "int8": frozenset({ir.DataType.INT8}),
    "uint8": frozenset({ir.DataType.UINT8}),
    "int16": frozenset({ir.DataType.INT16}),
    "uint16": frozenset({ir.DataType.UINT16}),
}
"""Element types by the names that rules use."""


class Match(NamedTuple):
    """What a condition found.

    Attributes:
        node: where; None for the graph as a whole, or for no graph at all.
        detail: what a symptom's "{detail}" stands for.
    """

    node: ir.Node | None
    detail: str = ""


class Always(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="always"):
    """Whatever the graph: backend, versions, target and precision decide."""

    @property
    def told(self) -> str:
        """In a listing."""
        return "any graph"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        yield Match(None)


class Invalid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="invalid"):
    """The graph breaks ONNX's own rules, as onnx.checker says."""

    @property
    def told(self) -> str:
        """In a listing."""
        return "graphs that break ONNX's rules"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        try:
            onnx.checker.check_model(onnx.load_from_string(serialize(model)))
        except Exception as error:
            yield Match(None, (str(error).strip().splitlines() or [type(error).__name__])[0])


class Opset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="opset"):
    """The graph's opset lies in a range.

    Attributes:
        range: as PEP 440 writes one (">24").
    """

    range: str

    def __post_init__(self) -> None:
        """Read the range once, for its errors."""
        SpecifierSet(self.range)

    @property
    def told(self) -> str:
        """In a listing."""
        return f"opset {self.range}"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        opset = model.opset_imports.get("", 0)
        if str(opset) in SpecifierSet(self.range):
            yield Match(None, str(opset))


class Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="operator"):
    """ONNX operators in certain types, ranks and settings; all that is said must hold. The detail: its name.

    Attributes:
        ops: any of these; empty for any operator.
        opset: range of the graph's opset, as PEP 440 writes one; "" for any.
        types: an input or output has one of these element types (see `TYPES`); empty for any.
        rank: of the first input; 0 for any.
        operands: inputs given, at least.
        where: each of these attributes is set, to one of these values.
        beyond: one of these attributes, at least, is set, to something else than these values; of a list,
            one element at least. An empty list of values: it is set at all.
    """

    ops: tuple[str, ...] = ()
    opset: str = ""
    types: tuple[str, ...] = ()
    rank: int = 0
    operands: int = 0
    where: dict[str, tuple[str | int, ...]] = {}
    beyond: dict[str, tuple[str | int, ...]] = {}

    def __post_init__(self) -> None:
        """Hold the names to those there are."""
        SpecifierSet(self.opset)
        if unknown := [op for op in self.ops if not onnx.defs.has(op)]:
            raise ValueError(f"ONNX has no operator {unknown[0]}")
        if unknown := [name for name in self.types if name not in TYPES]:
            raise ValueError(f"type {unknown[0]} is none of {', '.join(TYPES)}")
        for op in self.ops:
            known = onnx.defs.get_schema(op).attributes
            if unknown := [name for name in (*self.where, *self.beyond) if name not in known]:
                raise ValueError(f"{op} has no attribute {unknown[0]}")

    @property
    def told(self) -> str:
        """In a listing."""
        parts = [" ".join((" or ".join(self.types), ", ".join(self.ops) or "any operator")).strip()]
        parts += [f"opset {self.opset}"] if self.opset else []
        parts += [f"rank {self.rank}"] if self.rank else []
        parts += [f"{self.operands} inputs or more"] if self.operands else []
        parts += [f"{name} {' or '.join(map(str, values))}" for name, values in self.where.items()]
        parts += [f"{k} other than {' or '.join(map(str, v))}" if v else k for k, v in self.beyond.items()]
        return ", ".join(parts)

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        if self.opset and str(model.opset_imports.get("", 0)) not in SpecifierSet(self.opset):
            return
        for node in _nodes(model):
            if self.holds(node):
                yield Match(node, node.op_type)

    def holds(self, node: ir.Node) -> bool:
        """Whether the node is one of them, the opset aside."""
        if node.domain not in _DOMAINS or (self.ops and node.op_type not in self.ops):
            return False
        if self.rank and _rank(node) != self.rank:
            return False
        if sum(value is not None for value in node.inputs) < self.operands:
            return False
        wanted = frozenset[ir.DataType]().union(*(TYPES[name] for name in self.types))
        if wanted and not any(v is not None and v.dtype in wanted for v in (*node.inputs, *node.outputs)):
            return False
        if not all(_value(node, name) in values for name, values in self.where.items()):
            return False
        return not self.beyond or any(_beyond(node, name, idle) for name, idle in self.beyond.items())


class ForeignDomain(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="foreign-domain"
):
    """Operators of other domains than ONNX's; the detail is the domain.

    Attributes:
        functions: those that the model itself defines as functions count too.
    """

    functions: bool = False

    @property
    def told(self) -> str:
        """In a listing."""
        return "operators of other domains than ONNX's"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        for node in _nodes(model):
            own = not self.functions and (node.domain, node.op_type, node.overload) in model.functions
            if node.domain not in _DOMAINS and not own:
                yield Match(node, node.domain)


class NarrowGrid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="narrow-grid"):
    """Samplers whose coordinates were computed in fp16 or bf16, whether cast to fp32 afterwards or not.

    The detail is the largest rounding of a coordinate in pixels: half a step of the type between 0.5 and 1 is
    2^-12 of fp16 (2^-9 of bf16), and [-1, 1] spans the image's larger side.
    """

    @property
    def told(self) -> str:
        """In a listing."""
        return "GridSample by a grid that was computed in fp16 or bf16"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        for node in _nodes(model):
            if node.domain not in _DOMAINS or node.op_type != "GridSample":
                continue
            grid = node.inputs[1]
            while grid is not None and (made := grid.producer()) is not None and made.op_type == "Cast":
                grid = made.inputs[0]
            bits = {ir.DataType.FLOAT16: 12, ir.DataType.BFLOAT16: 9}.get(grid.dtype) if grid else None  # type: ignore[arg-type]
            if bits is not None:
                yield Match(node, _pixels(node.inputs[0], bits))


class RoundedScales(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="rounded-scales"
):
    """Resizes by scales that don't make whole sizes (align_corners aside, where scales aren't used)."""

    @property
    def told(self) -> str:
        """In a listing."""
        return "Resize by scales that make no whole sizes"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        for node, factors, shape in _scaled(model):
            if factors is None or shape is None:
                continue
            sizes = np.array(shape) * factors.astype(np.float64)
            aligned = _value(node, "coordinate_transformation_mode") == "align_corners"
            if np.any(sizes != np.floor(sizes)) and not aligned:
                yield Match(node, f"{factors.tolist()} of {list(shape)}")


class ComputedScales(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="computed-scales"
):
    """Resizes by scales that aren't constant, or of an image whose size isn't."""

    @property
    def told(self) -> str:
        """In a listing."""
        return "Resize by scales that aren't constant"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        for node, factors, shape in _scaled(model):
            if factors is None or shape is None:
                yield Match(node)


class Antialiased(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="antialiased"):
    """Resizes with antialias that make an axis smaller, or may: of an enlargement it changes nothing."""

    @property
    def told(self) -> str:
        """In a listing."""
        return "Resize with antialias to a smaller size"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        for node in _nodes(model):
            if node.domain not in _DOMAINS or node.op_type != "Resize" or not _value(node, "antialias"):
                continue
            before, after = (None if v is None else v.shape for v in (node.inputs[0], node.outputs[0]))
            known = before is not None and after is not None and before.is_static() and after.is_static()
            if not known or any(a < b for a, b in zip(after.numpy(), before.numpy(), strict=True)):  # type: ignore[union-attr]
                yield Match(node)


class ZeroScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="zero-scale"):
    """QuantizeLinear and DequantizeLinear with a constant scale that holds a zero (or less)."""

    @property
    def told(self) -> str:
        """In a listing."""
        return "QuantizeLinear, DequantizeLinear with a scale of zero"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        for node in _nodes(model):
            if node.domain in _DOMAINS and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scale = constant_value(node.inputs[1])
                if scale is not None and np.any(scale.astype(np.float64) <= 0):
                    yield Match(node)


class QuantizedActivations(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="quantized-activations"
):
    """QuantizeLinear of what isn't constant, into one of these types.

    Attributes:
        types: see `TYPES`.
    """

    types: tuple[str, ...]

    def __post_init__(self) -> None:
        """Hold the names to those there are."""
        if unknown := [name for name in self.types if name not in TYPES]:
            raise ValueError(f"type {unknown[0]} is none of {', '.join(TYPES)}")

    @property
    def told(self) -> str:
        """In a listing."""
        return f"activations quantized to {' or '.join(self.types)}"

    def matches(self, model: ir.Model) -> Iterator[Match]:
        """See the class."""
        wanted = frozenset[ir.DataType]().union(*(TYPES[name] for name in self.types))
        for node in _nodes(model):
            if node.domain not in _DOMAINS or node.op_type != "QuantizeLinear":
                continue
            if constant_value(node.inputs[0]) is None and node.outputs[0].dtype in wanted:
                yield Match(node)


Condition = (
    Always
    | Invalid
    | Opset
    | Operator
    | ForeignDomain
    | NarrowGrid
    | RoundedScales
    | ComputedScales
    | Antialiased
    | ZeroScale
    | QuantizedActivations
)

WHOLE: Final = (Always, Invalid, Opset)
"""Conditions on a graph as a whole, or on none."""


def typed(model: ir.Model) -> ir.Model:
    """The model itself if all its values are typed, else a copy with types inferred; conditions need them."""
    if all(v.dtype is not None for n in _nodes(model) for v in n.outputs if v.name):
        return model
    return infer_shapes(model)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes in graph order, those of subgraphs with them."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def _rank(node: ir.Node) -> int:
    first = node.inputs[0] if node.inputs else None
    return 0 if first is None or first.shape is None else len(first.shape)


def _value(node: ir.Node, name: str) -> object:
    attribute = node.attributes.get(name)
    return None if attribute is None else attribute.value


def _beyond(node: ir.Node, name: str, idle: tuple[str | int, ...]) -> bool:
    value = _value(node, name)
    if value is None or not idle:
        return value is not None
    each = value if isinstance(value, (list, tuple)) else (value,)
    return any(item not in idle for item in each)


def _pixels(image: ir.Value | None, bits: int) -> str:
    shape = None if image is None else image.shape
    sizes = [] if shape is None else [size for size in shape[-2:] if isinstance(size, int)]
    return f"{max(sizes) / 2 * 2.0**-bits:.2g} px" if sizes else f"2^-{bits + 1} of the image's size"


def _scaled(
    model: ir.Model,
) -> Iterator[tuple[ir.Node, np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None, list[int] | None]]:
    """Each Resize by scales, with its constant factors and the static sizes they scale, as far as known."""
    for node in _nodes(model):
        if node.domain not in _DOMAINS or node.op_type != "Resize":
            continue
        scales = node.inputs[2] if len(node.inputs) > 2 else None
        factors = constant_value(scales)
        # A constant without elements means absent.
        if scales is None or (factors is not None and factors.size == 0):
            continue
        shape = None if node.inputs[0] is None else node.inputs[0].shape
        if shape is None or not shape.is_static():
            yield node, factors, None
            continue
        axes = node.attributes.get_ints("axes", range(len(shape)))
        yield node, factors, [shape.numpy()[axis] for axis in axes]
