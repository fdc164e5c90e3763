"""What a scenario is, and graphs small enough to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from superlower.doctor.examine import Context
from superlower.doctor.rules import Action
from superlower.targets.base import Precision
from superlower.targets.catalog import target

F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
I8, U8, I64, FP8 = TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT8E4M3FN

MEASURED = {
    "onnxruntime": {"onnxruntime": "1.31.1"},
    "openvino": {"openvino": "2026.4.1"},
    "tvm": {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"},
    "tensorrt": {"tensorrt": "10.4.0"},
    "tensorrt-rtx": {"tensorrt-rtx": "1.7.1.116"},
}
"""Versions that the rules' sources name."""

Tensors = Mapping[str, tuple[int, Sequence[int] | None]]


@dataclass(frozen=True)
class Scenario:
    """A build that a rule is about.

    Attributes:
        rule: its id.
        model: makes the graph, legalized as far as it matters.
        action: what is to be done about it.
        backend, target, precision: of the build; names.
        versions: where others than the measured ones matter.
        settings: the user's.
        without: shows, by running the SDK, what happens to the graph without the rule; fails if it doesn't.
        needs: module of the SDK that `without` runs; "" where it runs none.
        mended: shows, by running the SDK, that the treated graph is right; for rewrites.
        unproven: why nothing is run: no such device or SDK can be had.
    """

    rule: str
    model: Callable[[], ir.Model]
    action: Action
    backend: str
    target: str = "cpu"
    precision: Precision = Precision.FP32
    versions: Mapping[str, str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    without: Callable[[ir.Model], None] | None = None
    needs: str = ""
    mended: Callable[[ir.Model], None] | None = None
    unproven: str = ""

    @property
    def context(self) -> Context:
        """The build, the graph aside."""
        versions = MEASURED[self.backend] if self.versions is None else self.versions
        return Context(self.backend, versions, target(self.target), self.precision, self.settings)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    constants: Mapping[str, np.ndarray[Any, Any] | onnx.TensorProto] | None = None,
    *,
    opset: int = 19,
    domains: Sequence[str] = (),
) -> ir.Model:
    """A model of the nodes."""

    def infos(tensors: Tensors) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, t, shape) for n, (t, shape) in tensors.items()]

    held = []
    for name, value in (constants or {}).items():
        held.append(value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, name))
    made = helper.make_graph(nodes, "scenario", infos(inputs), infos(outputs), held)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return ir.from_proto(helper.make_model(made, opset_imports=imports, ir_version=10))


def one(
    op: str,
    inputs: Tensors,
    outputs: Tensors,
    constants: Mapping[str, np.ndarray[Any, Any] | onnx.TensorProto] | None = None,
    *,
    opset: int = 19,
    domain: str = "",
    order: Sequence[str] = (),
    **attributes: Any,
) -> ir.Model:
    """A model of one node, "it", that reads its inputs and then its constants, or what `order` says."""
    read = list(order) or [*inputs, *(constants or {})]
    node = helper.make_node(op, read, list(outputs), name="it", domain=domain, **attributes)
    return graph([node], inputs, outputs, constants, opset=opset, domains=[domain] if domain else ())


def floats(*values: float) -> np.ndarray[Any, Any]:
    """A float32 vector."""
    return np.array(values, np.float32)


def weight(kind: int, *shape: int, name: str = "w") -> onnx.TensorProto:
    """A seeded weight of an element type numpy may lack."""
    values = np.random.default_rng(0).standard_normal(int(np.prod(shape)))
    return helper.make_tensor(name, kind, shape, values.tolist())


def relu(kind: int = F32, opset: int = 19) -> Callable[[], ir.Model]:
    """A graph that no rule has anything against."""
    return lambda: one("Relu", {"x": (kind, [1, 4, 8, 8])}, {"y": (kind, [1, 4, 8, 8])}, opset=opset)


def convolution(kind: int = F32, opset: int = 19) -> ir.Model:
    """A 3x3 convolution of 8 channels."""
    shapes = {"x": (kind, [1, 8, 8, 8])}, {"y": (kind, [1, 8, 8, 8])}
    return one("Conv", *shapes, {"w": weight(kind, 8, 8, 3, 3)}, opset=opset, pads=[1, 1, 1, 1])


def quantized(
    kind: int = F32, storage: int = I8, scale: float = 0.02, weights: int = 0, opset: int = 19
) -> ir.Model:
    """A quantized 3x3 convolution: its input in `storage`, its weights in `weights` (0: in `storage`)."""
    constants: dict[str, Any] = {"w": weight(kind, 32, 32, 3, 3)}
    nodes = []
    for read, made, integer in (("x", "xd", storage), ("w", "wd", weights or storage)):
        constants[f"{made}.scale"] = helper.make_tensor(f"{made}.scale", kind, [], [scale])
        constants[f"{made}.zero"] = helper.make_tensor(
            f"{made}.zero", integer, [], [128 if integer == U8 else 0]
        )
        for op, given, out in (("QuantizeLinear", read, f"{made}q"), ("DequantizeLinear", f"{made}q", made)):
            names = [given, f"{made}.scale", f"{made}.zero"]
            nodes.append(helper.make_node(op, names, [out], name=f"{made}.{op[0].lower()}"))
    nodes.append(helper.make_node("Conv", ["xd", "wd"], ["y"], name="conv"))
    shapes = {"x": (kind, [1, 32, 8, 8])}, {"y": (kind, [1, 32, 6, 6])}
    return graph(nodes, *shapes, constants, opset=opset)


def feeds(model: ir.Model, scale: float = 1.0) -> dict[str, np.ndarray[Any, Any]]:
    """Seeded inputs; integers are zeros, valid as indices."""
    rng = np.random.default_rng(0)
    made = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        assert value.shape is not None
        shape, dtype = value.shape.numpy(), value.dtype.numpy()
        real = np.issubdtype(dtype, np.floating)
        made[str(value.name)] = (scale * rng.standard_normal(shape) if real else np.zeros(shape)).astype(
            dtype
        )
    return made
