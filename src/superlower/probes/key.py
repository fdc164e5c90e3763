"""What of a node decides whether and how an SDK serves it: the key that probes and graphs are matched by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from superlower.ir import constant_value

_DTYPES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.DOUBLE: "fp64",
}
_FREE_INTEGERS = frozenset({"to", "axis", "axes", "perm", "saturate", "seed", "start", "end"})
"""Integer attributes that name a place or a type, not a way of computing."""


@dataclass(frozen=True, order=True)
class Key:
    """An operator in one setting.

    Attributes:
        op: as "GridSample" or "domain::Op".
        since: version of the operator's definition (GridSample: 16, 20 or 22), 0 if the domain isn't ONNX's.
        dtype: element type of the first floating-point input ("fp16"), else of the first that isn't boolean
            ("int64"); for what has no inputs, or only a condition, of the first output.
        setting: what else decides, sorted: attributes with their defaults filled in, presence of optional
            inputs, ranks; ("mode=linear", "padding_mode=zeros").
    """

    op: str
    since: int
    dtype: str
    setting: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As shown to people and kept in tables: "GridSample-16 fp32 align_corners=0 mode=bilinear"."""
        return " ".join((f"{self.op}-{self.since}", self.dtype, *self.setting))


def key_of(node: ir.Node, opset: int) -> Key:
    """A node's key; its values must be typed for it to tell types and ranks apart.

    Args:
        node: of any domain.
        opset: the model's opset for the node's domain.
    """
    op = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain) if opset else None
    except onnx.defs.SchemaError:
        schema = None
    return Key(op, schema.since_version if schema else 0, _dtype(node), tuple(sorted(_setting(node, schema))))


def _dtype(node: ir.Node) -> str:
    told_by = node.outputs if not node.inputs or node.op_type == "If" else node.inputs
    types = [v.dtype for v in told_by if v is not None and v.dtype is not None]
    numbers = [t for t in types if t != ir.DataType.BOOL] or types
    chosen = next((t for t in numbers if t.is_floating_point()), numbers[0] if numbers else None)
    if chosen is None:
        return "untyped"
    return _type_name(chosen)


def _type_name(type_: ir.DataType) -> str:
    return _DTYPES.get(type_, type_.name.lower())


def _setting(node: ir.Node, schema: onnx.defs.OpSchema | None) -> list[str]:
    found = []
    defaults = {} if schema is None else schema.attributes
    for name in sorted({*node.attributes, *defaults}):
        attribute = node.attributes.get(name)
        if attribute is not None:
            value = attribute.value
        else:
            value = _default(defaults[name]) if name in defaults else None
        told = _told(node, name, value)
        if told is not None:
            found.append(told)
    found += [f"{name}={text}" for name, text in _facts(node).items()]
    return found


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    if attribute.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else value


def _told(node: ir.Node, name: str, value: object) -> str | None:
    """An attribute as part of a setting: names and switches as they are, of lists if they do anything."""
    if isinstance(value, str):
        return f"{name}={_relabelled(value) if name == 'equation' else value}"
    if isinstance(value, int) and name not in _FREE_INTEGERS:
        return f"{name}={value if value in (0, 1) else 'n'}"
    if isinstance(value, (list, tuple)) and name in ("dilations", "output_padding", "output_shape"):
        idle = 1 if name == "dilations" else 0
        return f"{name}=yes" if any(v != idle for v in value) else None
    if isinstance(value, (list, tuple)) and name == "axes" and node.op_type == "Resize":
        return "axes=yes"
    return None


def _relabelled(equation: str) -> str:
    """An Einsum's equation with its letters in the order of the alphabet, and without spaces."""
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    names = {letter: chr(ord("a") + index) for index, letter in enumerate(letters)}
    return "".join(names.get(letter, letter) for letter in equation if letter != " ")


def _facts(node: ir.Node) -> dict[str, str]:
    """What decides besides attributes, operator by operator."""
    rank = _rank(node, 0)
    match node.op_type:
        case "GridSample" | "AveragePool" | "MaxPool" | "InstanceNormalization":
            return {"rank": str(rank)}
        case "Conv" | "ConvTranspose":
            return {"rank": str(rank), "weights": _known(node, 1)}
        case "DeformConv":
            return {"rank": str(rank), "mask": _given(node, 4), "bias": _given(node, 3)}
        case "Resize":
            return {"rank": str(rank), **_resize(node)}
        case "Gather" | "GatherElements" | "GatherND" | "ScatterND" | "ScatterElements":
            return {"indices": _signed(node, 1)}
        case "Slice":
            return {"steps": _signed(node, 4)}
        case "Shape":
            part = {"start", "end"} & set(node.attributes)
            return {"of": "part" if part else "all"}
        case "Pad":
            return {"pads": _signed(node, 1)}
        case "PRelu":
            return {"slope": _known(node, 1)}
        case "Clip":
            return {"bounds": "computed" if "computed" in (_known(node, 1), _known(node, 2)) else "constant"}
        case "LayerNormalization":
            return {"bias": _given(node, 2)}
        case "Loop":
            return {"rounds": _known(node, 0), "scans": str(len(node.outputs) - len(node.inputs) + 2)}
        case "Cast":
            to = node.attributes.get("to")
            return {"to": "unknown" if to is None else _type_name(ir.DataType(to.as_int()))}
        case "QuantizeLinear" | "DequantizeLinear":
            return _quantization(node)
        case _:
            return {}


def _quantization(node: ir.Node) -> dict[str, str]:
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    shape = None if scale is None else scale.shape
    per = "unknown" if shape is None else ("tensor", "axis", "block")[min(len(shape), 2)]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    typed = node.inputs[0] if zero is None and node.op_type == "DequantizeLinear" else zero
    kind = "uint8" if typed is None or typed.dtype is None else typed.dtype.name.lower()
    found = {"per": per, "quantized": kind}
    if zero is not None:
        value = constant_value(zero)
        if value is None or np.any(value):
            found["zero_point"] = "computed" if value is None else "other"
    return found


def _resize(node: ir.Node) -> dict[str, str]:
    coefficient = node.attributes.get("cubic_coeff_a")
    usual = coefficient is None or coefficient.value == -0.75
    found = {"by": _resized_by(node), **({} if usual else {"kernel": "other"})}
    # What ignores the attribute is right all the same unless something shrinks.
    if node.attributes.get_int("antialias", 0) and not _shrinks(node):
        found["shrinks"] = "no"
    return found


def _shrinks(node: ir.Node) -> bool:
    """Whether an axis gets shorter, or may."""
    old, new = (None if value is None else value.shape for value in (node.inputs[0], node.outputs[0]))
    if old is None or new is None or not (old.is_static() and new.is_static()):
        return True
    return any(after < before for before, after in zip(old.numpy(), new.numpy(), strict=True))


def _resized_by(node: ir.Node) -> str:
    sizes, scales = _present(node, 3), _present(node, 2)
    if sizes is not None:
        return "sizes" if constant_value(sizes) is not None else "computed-sizes"
    factors = None if scales is None else constant_value(scales)
    data = node.inputs[0]
    if factors is None or data is None or data.shape is None or not data.shape.is_static():
        return "computed-scales"
    made = [float(f) * int(n) for f, n in zip(factors.reshape(-1), data.shape.numpy(), strict=False)]
    return "scales" if all(size == int(size) for size in made) else "fractional-scales"


def _present(node: ir.Node, index: int) -> ir.Value | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    constant = constant_value(value)
    return None if constant is not None and constant.size == 0 else value


def _given(node: ir.Node, index: int) -> str:
    return "yes" if _present(node, index) is not None else "no"


def _known(node: ir.Node, index: int) -> str:
    """Whether an input, if there is one, is a constant."""
    if _present(node, index) is None:
        return "none"
    return "constant" if constant_value(node.inputs[index]) is not None else "computed"


def _signed(node: ir.Node, index: int) -> str:
    """The same of integers, with whether any is below zero."""
    known = _known(node, index)
    value = constant_value(node.inputs[index]) if known == "constant" else None
    return "negative" if value is not None and np.any(np.sign(value) < 0) else known


def _rank(node: ir.Node, index: int) -> int:
    value = node.inputs[index] if index < len(node.inputs) else None
    return 0 if value is None or value.shape is None else len(value.shape)
