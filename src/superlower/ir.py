"""ONNX graphs in memory (onnx-ir) and on disk, with the IR version and opset superlower works in.

Raw protobuf is touched in this module only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.errors import BadInputError

OPSET = 19
"""Highest opset at which TensorRT still reads GridSample's mode (onnx-tensorrt#1060); DeformConv needs 19."""

IR_VERSION = 10
"""onnx 1.23 writes IR 14, ONNX Runtime 1.31 reads up to 13; 10 is what opset 19 to 21 tools all read."""

Array = NDArray[np.generic]


def load(path: Path) -> ir.Model:
    """Read and check an ONNX file.

    Raises:
        BadInputError: the file is missing, or isn't a valid ONNX model.
    """
    if not path.is_file():
        raise BadInputError(f"no such ONNX file: {path}")
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInputError(f"{path} is not a valid ONNX model: {reason[0]}") from error
    return ir.from_proto(proto)


def serialize(model: ir.Model) -> bytes:
    """The model as ONNX bytes, at the pinned IR version."""
    model.ir_version = IR_VERSION
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def save(model: ir.Model, path: Path) -> None:
    """Write the model, at the pinned IR version, aside first and then under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(serialize(model))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def infer_shapes(model: ir.Model) -> ir.Model:
    """A model whose values all carry type and shape: values made by a rewrite have neither."""
    proto = ir.to_proto(model)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def clone(model: ir.Model) -> ir.Model:
    """A copy that shares nothing with the original but its weights' bytes."""
    return model.clone()


def digest(model: ir.Model) -> str:
    """sha256 of the serialized model: the identity of a graph for caches and manifests."""
    return hashlib.sha256(serialize(model)).hexdigest()


def constant_value(value: ir.Value | None) -> Array | None:
    """The array a value is known to hold (initializer or Constant node), else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_scalar(value: ir.Value | None) -> float | None:
    """The number a value is known to hold, whether shaped [], [1] or [1, 1, ...], else None."""
    array = constant_value(value)
    return float(array.reshape(())[()]) if array is not None and array.size == 1 else None


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """A value's sizes, where all of them are known."""
    if value is None or value.shape is None:
        return None
    sizes = tuple(size for size in value.shape if isinstance(size, int))
    return sizes if len(sizes) == len(value.shape) else None


def ancestors(
    values: Iterable[ir.Value],
    operands: Callable[[ir.Node], Iterable[ir.Value | None]] = lambda node: node.inputs,
) -> set[ir.Value]:
    """The values and all they are computed from.

    Args:
        values: to start at.
        operands: of a node, those to go on by; all of its inputs by default.
    """
    found: set[ir.Value] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        if node is not None:
            pending += [v for v in operands(node) if v is not None]
    return found


def node_name(node: ir.Node) -> str:
    """The node's name, or where it has none its first output's."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or node.op_type


def node_op(node: ir.Node) -> str:
    """Operator as "GridSample" or "domain::Op"."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def io_shapes(model: ir.Model) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Static shapes of the graph's inputs and outputs, by name; a symbolic size reads as -1."""

    def shapes(values: object) -> dict[str, tuple[int, ...]]:
        found = {}
        for value in values:  # type: ignore[attr-defined]
            dims = () if value.shape is None else tuple(value.shape)
            found[value.name] = tuple(d if isinstance(d, int) else -1 for d in dims)
        return found

    initializers = model.graph.initializers
    return (
        {k: v for k, v in shapes(model.graph.inputs).items() if k not in initializers},
        shapes(model.graph.outputs),
    )
