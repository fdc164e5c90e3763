"""What ONNX Runtime and OpenVINO make of a graph on a CPU: layouts, copies between them, what is fused.

Both run convolutions in a layout of their own and other operators on planes, and copy where the two meet.
Such copies, not the graph's tensors, are often what is alive at the peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, prod

import onnx_ir as ir

from superlower.driver.allocation import Step, Tensor, Trace
from superlower.errors import BadInputError
from superlower.ir import constant_value, infer_shapes, static_shape

PLANAR, NATIVE = "planar", "native"

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators whose output is their first input's memory under another shape."""

_FUSED = frozenset({"Clip", "Elu", "HardSigmoid", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"})
"""Activations that a convolution applies to what it writes."""

_NAMES = """
Abs Add Ceil Clip Div Elu Erf Exp Floor HardSigmoid HardSwish LeakyRelu Log Max Min Mul Neg PRelu Pow
Reciprocal Relu Round Selu Sigmoid Sign Softplus Sqrt Sub Sum Tanh Where
"""
_ELEMENTWISE = frozenset(_NAMES.split())
"""Operators that are written over an input of the output's size that dies there."""

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_FOLLOW = _POOLS | {"BatchNormalization", "DepthToSpace", "ReduceMean", "SpaceToDepth"}
"""Operators that OpenVINO runs in the layout in which their input is."""

_PIECES = 2 * 2**16
"""Bytes of columns that ONNX Runtime unfolds at a time, for two threads (MLAS_CONV_WORKING_BUFFER_SIZE)."""

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv"})


class Lowering:
    """A graph as a runtime executes it; what differs between runtimes is in subclasses' hands.

    Attributes:
        trace: the steps.
        kernels: of elementwise operators; those that read one another are one.
    """

    apart: frozenset[str] = frozenset()
    """Elementwise operators that are never written over an input."""

    def __init__(self, model: ir.Model, area: Fraction = Fraction(1)) -> None:
        """Args:
        model: with static sizes.
        area: of the frame to tell of, in those that the graph was exported for.
        """
        graph = model.graph
        if any(static_shape(v) is None or v.dtype is None for n in graph for v in n.outputs if v.name):
            graph = infer_shapes(model).graph
        self.trace = Trace()
        self.kernels = 0
        self._area = area
        self._at: dict[tuple[ir.Value, str], Tensor] = {}
        self._source: dict[ir.Value, ir.Value] = {}
        self._convolved: dict[ir.Value, Step] = {}
        self._elementwise: set[ir.Value] = set()
        self._outputs = set(graph.outputs)
        for value in graph.inputs:
            self._at[value, PLANAR] = Tensor(self._bytes(value, PLANAR), self._kind(value), outside=True)
        for node in graph:
            self._lower(node)
            self.trace.kept += self.keeps(node)
        for value in graph.outputs:
            self._hand_out(value)

    # What a runtime decides.

    def takes_native(self, node: ir.Node) -> bool:
        """Whether a convolution runs in the native layout."""
        raise NotImplementedError

    def reads_planar(self, node: ir.Node) -> bool:
        """Whether a native convolution takes its input as it is."""
        return False

    def prefers_native(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        """Whether another operator runs in the native layout, given where its inputs are."""
        raise NotImplementedError

    def channels(self, count: int) -> int:
        """Channels that a tensor of the native layout holds."""
        return count

    def scratch(self, node: ir.Node) -> int:
        """Bytes that a kernel takes while it runs."""
        return 0

    def keeps(self, node: ir.Node) -> list[int]:
        """Bytes that a kernel takes when it is loaded, beside the graph's own weights."""
        return []

    # What is alike.

    def _lower(self, node: ir.Node) -> None:
        inputs = [v for v in node.inputs if v is not None and self._held(v)]
        if not inputs or node.op_type in ("Constant", "Shape", "Size"):
            return
        made = [value for value in node.outputs if value.name]
        first = inputs[0]
        if node.op_type in _VIEWS:
            self._alias(made[0], first, self.planar(first))
        elif node.op_type in _CONVOLUTIONS and self.takes_native(node):
            layout = PLANAR if self.reads_planar(node) else NATIVE
            self._convolve(node, [self.at(first, layout)], NATIVE)
        elif node.op_type in _CONVOLUTIONS:
            self._convolve(node, [self.planar(v) for v in inputs], PLANAR)
        elif node.op_type in _FUSED and self._fuses(first):
            self._fuse(made[0], first)
        elif node.op_type in ("Add", "Sum") and self._sum(made[0], inputs):
            pass
        else:
            layout = NATIVE if self.prefers_native(node, inputs) else PLANAR
            reads = tuple(dict.fromkeys(self.at(v, layout) for v in inputs))
            makes = tuple(self._new(v, layout) for v in made)
            over = reads if node.op_type in _ELEMENTWISE - self.apart else ()
            if node.op_type in _ELEMENTWISE:
                self.kernels += not any(v in self._elementwise for v in inputs)
                self._elementwise.update(made)
            self.trace.steps.append(Step(reads, makes, over, self.scratch(node)))

    def _convolve(self, node: ir.Node, reads: list[Tensor], layout: str) -> None:
        made = node.outputs[0]
        step = Step(tuple(reads), (self._new(made, layout),), (), self.scratch(node))
        self.trace.steps.append(step)
        self._convolved[made] = step

    def _fuses(self, value: ir.Value) -> bool:
        return value in self._convolved and len(value.uses()) == 1 and value not in self._outputs

    def _fuse(self, made: ir.Value, value: ir.Value) -> None:
        """The activation is the convolution's: the same memory."""
        for layout in (PLANAR, NATIVE):
            if (value, layout) in self._at:
                self._at[made, layout] = self._at[value, layout]

    def _sum(self, made: ir.Value, inputs: Sequence[ir.Value]) -> bool:
        """A convolution adds what it computes to the other operand, in that one's memory if it dies."""
        for value in reversed(inputs):
            others = [v for v in inputs if v is not value]
            if len(inputs) != 2 or len(others) != 1 or not self._fuses(value):
                continue
            layout = NATIVE if (value, NATIVE) in self._at else PLANAR
            other = others[0]
            if (other, layout) not in self._at or static_shape(other) != static_shape(value):
                continue
            step = self._convolved.pop(value)
            self.trace.steps.remove(step)
            held = self._at[other, layout]
            whole = Step((*step.reads, held), step.makes, (held,), step.scratch)
            self.trace.steps.append(whole)
            self._at[made, layout] = self._at[value, layout]
            self._convolved[made] = whole
            return True
        return False

    def at(self, value: ir.Value, layout: str) -> Tensor:
        """A value's tensor in a layout: a copy where it is only in the other."""
        if (value, layout) not in self._at:
            other = self._at[value, PLANAR if layout is NATIVE else NATIVE]
            if (static_shape(value) or ())[:2] == (1, 1):
                self._at[value, layout] = other
            else:
                self.trace.steps.append(Step((other,), (self._new(value, layout),)))
        return self._at[value, layout]

    def planar(self, value: ir.Value) -> Tensor:
        """A value's tensor as planes."""
        return self.at(value, PLANAR)

    def _hand_out(self, value: ir.Value) -> None:
        if self._held(value):
            self.planar(value).outside = True

    def _held(self, value: ir.Value) -> bool:
        return (value, PLANAR) in self._at or (value, NATIVE) in self._at

    def _alias(self, made: ir.Value, value: ir.Value, tensor: Tensor) -> None:
        self._at[made, PLANAR] = tensor

    def _new(self, value: ir.Value, layout: str) -> Tensor:
        tensor = Tensor(self._bytes(value, layout), self._kind(value))
        self._at[value, layout] = tensor
        return tensor

    def _kind(self, value: ir.Value) -> tuple[object, ...]:
        return (static_shape(value), value.dtype)

    def _bytes(self, value: ir.Value, layout: str) -> int:
        shape = static_shape(value)
        if shape is None or value.dtype is None:
            maker = value.producer()
            by = f", made by {maker.op_type} '{maker.name}'," if maker is not None else ""
            raise BadInputError(
                f"the size of '{value.name}'{by} isn't static: export the graph at one frame size"
            )
        if layout is NATIVE and len(shape) == 4:
            shape = (shape[0], self.channels(shape[1]), *shape[2:])
        size = Fraction(value.dtype.itemsize) * prod(shape)
        return ceil(size * self._area if is_spatial(shape) else size)

    def native_at(self, value: ir.Value) -> bool:
        """Whether a value is there in the native layout."""
        return (value, NATIVE) in self._at


def is_spatial(shape: Sequence[int]) -> bool:
    """Whether a tensor of that shape grows with the frame: it isn't a vector of channels."""
    return len(shape) >= 3 and prod(shape) > max(shape)


class OnnxRuntimeLowering(Lowering):
    """ONNX Runtime's NCHWc layout: channels in blocks of a vector (nchwc_transformer.cc, 1.32)."""

    block = 16
    """Floats in a vector: AVX-512's. With AVX2 it is 8, and tensors are the same but for padding."""

    apart = frozenset({"Max", "Min", "PRelu", "Pow", "Sum", "Where"})

    def takes_native(self, node: ir.Node) -> bool:
        shape = static_shape(node.inputs[1])
        if node.op_type != "Conv" or shape is None or len(shape) != 4:
            return False
        out, into = shape[:2]
        group = node.attributes.get_int("group", 1)
        if group > 1:
            return out % self.block == 0 and ((into == 1 and out == group) or into % self.block == 0)
        # Fewer are read as planes; else ReorderInput moves four channels at a time.
        return into < self.block or into % 4 == 0

    def reads_planar(self, node: ir.Node) -> bool:
        shape = static_shape(node.inputs[1])
        return shape is not None and node.attributes.get_int("group", 1) == 1 and shape[1] < self.block

    def prefers_native(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        shapes = [static_shape(v) for v in inputs]
        if not all(self.native_at(v) for v in inputs) or any(s is None or len(s) != 4 for s in shapes):
            return False
        if node.op_type in ("Add", "Sum", "Mul"):
            return len(inputs) > 1 and len(set(shapes)) == 1
        if node.op_type == "Concat":
            return node.attributes.get_int("axis", 1) == 1 and all(
                s[1] % self.block == 0 for s in shapes if s
            )
        if node.op_type in _POOLS:
            return all(s[1] % self.block == 0 for s in shapes if s)
        if node.op_type == "Resize":
            return _whole_scales(node) and node.attributes.get_string("mode", "nearest") != "cubic"
        return node.op_type in _FUSED and node.op_type != "PRelu"

    def channels(self, count: int) -> int:
        return -(-count // self.block) * self.block

    def scratch(self, node: ir.Node) -> int:
        """Columns of a transposed or deformable convolution; a piece of them a thread of one on planes."""
        weights, given = static_shape(node.inputs[1]) if len(node.inputs) > 1 else None, node.inputs[0]
        shape = static_shape(given)
        if node.op_type not in _CONVOLUTIONS or weights is None or shape is None:
            return 0
        if node.op_type == "Conv":
            return 0 if self.takes_native(node) or prod(weights[2:]) == 1 else _PIECES
        group = node.attributes.get_int("group", 1)
        if node.op_type == "ConvTranspose":
            rows, places = weights[1] * prod(weights[2:]), prod(shape[2:])
        else:
            rows, places = (
                group * weights[1] * prod(weights[2:]),
                prod((static_shape(node.outputs[0]) or ())[2:]),
            )
        return ceil(4 * rows * places * self._area)

    def keeps(self, node: ir.Node) -> list[int]:
        """Weights that a kernel keeps in an order of its own."""
        if node.op_type not in ("ConvTranspose", "MatMul", "Gemm"):
            return []
        held = constant_value(node.inputs[1])
        return [] if held is None else [held.nbytes]


class OpenVinoLowering(Lowering):
    """OpenVINO's CPU plug-in with AVX-512 or AMX: channels last, unpadded (2026.4)."""

    def takes_native(self, node: ir.Node) -> bool:
        return node.op_type != "DeformConv"

    def prefers_native(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        shapes = [static_shape(v) for v in inputs]
        if any(s is None or len(s) != 4 for s in shapes):
            return False
        any_native = any(self.native_at(v) for v in inputs)
        if node.op_type == "Resize":
            return True
        if node.op_type in _ELEMENTWISE or node.op_type == "Concat":
            return any_native
        return any_native and node.op_type in _FOLLOW


def _whole_scales(node: ir.Node) -> bool:
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    return (
        before is not None
        and after is not None
        and all(b > 0 and a % b == 0 for b, a in zip(before, after, strict=True))
    )


def weight_bytes(model: ir.Model, area: Fraction = Fraction(1)) -> int:
    """Bytes of a graph's constants; grids and the like that aren't a convolution's grow with the frame."""
    total = 0
    for node in model.graph:
        if node.op_type == "Constant" and (array := constant_value(node.outputs[0])) is not None:
            total += _constant_bytes(node.outputs[0], array.nbytes, array.shape, area)
    for value in model.graph.initializers.values():
        held = value.const_value
        if held is not None:
            total += _constant_bytes(value, held.nbytes, held.shape.numpy(), area)
    return total


def _constant_bytes(value: ir.Value, nbytes: int, shape: Sequence[int], area: Fraction) -> int:
    readers = {node.op_type for node, _ in value.uses()}
    fixed = readers & {*_CONVOLUTIONS, "Gemm", "MatMul"} or not is_spatial(shape)
    return nbytes if fixed else ceil(nbytes * area)
