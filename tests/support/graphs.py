"""Graphs the passes are tried on: written as text or built in code, each in many spellings of one meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import OPSET, serialize
from superlower.passes._evaluate import evaluate
from superlower.passes.base import Applied, Pass
from superlower.passes.pipelines import count

Array = NDArray[Any]


class GraphBuilder:
    """A graph under construction: `g.Mul(a, b, axis=1)` adds a node and gives its value."""

    def __init__(self, constants_as_nodes: bool = False, scalar_shape: tuple[int, ...] = ()) -> None:
        self.constants_as_nodes = constants_as_nodes
        self.scalar_shape = scalar_shape
        self.nodes: list[ir.Node] = []
        self.inputs: list[ir.Value] = []
        self.initializers: list[ir.Value] = []

    def input(self, name: str, *shape: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.inputs.append(value)
        return value

    def const(self, array: Any, dtype: type = np.float32) -> ir.Value:
        """A constant; a scalar takes the builder's scalar shape."""
        data = np.asarray(array, dtype)
        if data.ndim == 0 and dtype != np.int64:
            data = data.reshape(self.scalar_shape)
        if self.constants_as_nodes:
            return self.Constant(value=ir.tensor(data))
        value = ir.Value(
            name=f"c{len(self.initializers)}",
            shape=ir.Shape(data.shape),
            type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
            const_value=ir.tensor(data),
        )
        self.initializers.append(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        return self.const(numbers, np.int64)

    def __getattr__(self, op: str) -> Callable[..., ir.Value]:
        if not op[0].isupper():
            raise AttributeError(op)

        def add(*inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> Any:
            node = ir.node(op, inputs, attributes, num_outputs=outputs, name=f"{op}_{len(self.nodes)}")
            for i, value in enumerate(node.outputs):
                value.name = f"{node.name}_out{i or ''}"
            self.nodes.append(node)
            return node.outputs[0] if outputs == 1 else node.outputs

        return add

    def model(self, *outputs: ir.Value, opset: int = OPSET) -> ir.Model:
        """The model, checked and with shapes inferred; outputs are renamed out0, out1, ..."""
        for i, value in enumerate(outputs):
            value.name = f"out{i}"
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": opset},
            name="graph",
        )
        proto = ir.to_proto(ir.Model(graph, ir_version=10))
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        for value in inferred.graph.output:
            assert value.type.tensor_type.HasField("shape"), "give the output a shape that can be inferred"
        onnx.checker.check_model(inferred, full_check=True)
        return ir.from_proto(inferred)


@dataclass(frozen=True)
class Spelling:
    """One way to write a flow warp."""

    height: int = 7
    width: int = 9
    aligned: bool = True
    padding: str = "zeros"
    swapped: bool = False
    constants_as_nodes: bool = False
    scalar_shape: tuple[int, ...] = ()
    reciprocal: bool = False
    linspace: bool = False
    channels_first: bool = False
    used_elsewhere: bool = False
    batch: int = 1

    def model(self, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
        g = GraphBuilder(self.constants_as_nodes, self.scalar_shape)
        kind = dtype.numpy().type
        x = g.input("x", self.batch, 3, self.height, self.width, dtype=dtype)
        flow = g.input("flow", self.batch, 2, self.height, self.width, dtype=dtype)

        def both(op: str, a: ir.Value, b: ir.Value) -> ir.Value:
            return getattr(g, op)(b, a) if self.swapped else getattr(g, op)(a, b)

        def channel(value: ir.Value, i: int, axis: int) -> ir.Value:
            return g.Gather(value, g.const(i, np.int64), axis=axis)

        sizes = (self.width, self.height)
        axis = 1 if self.channels_first else 3
        last = flow if self.channels_first else g.Transpose(flow, perm=[0, 2, 3, 1])
        if self.linspace:
            # VESPCN's way: a grid in [-1, 1], and flow times 2 / size.
            steps = [np.linspace(-1, 1, n) if self.aligned else (2 * np.arange(n) + 1) / n - 1 for n in sizes]
            columns, rows = np.meshgrid(*steps)
            scaled = []
            for i, size in enumerate(sizes):
                k = g.const(2 / (size - self.aligned), kind)
                scaled.append(
                    both(
                        "Add", both("Mul", channel(last, i, axis), k), g.const([columns, rows][i][None], kind)
                    )
                )
            raw = last
        else:
            columns, rows = np.meshgrid(*(np.arange(n) for n in sizes))
            grid = g.const(np.stack([columns, rows], axis=0 if self.channels_first else -1)[None], kind)
            raw = both("Add", grid, last)
            scaled = []
            for i, size in enumerate(sizes):
                twice = both("Mul", channel(raw, i, axis), g.const(2, kind))
                by = max(size - 1, 1) if self.aligned else size
                if not self.aligned:
                    twice = both("Add", twice, g.const(1, kind))
                if by != 1:
                    over = (
                        both("Mul", twice, g.const(1 / by, kind))
                        if self.reciprocal
                        else g.Div(twice, g.const(by, kind))
                    )
                else:
                    over = twice
                scaled.append(g.Sub(over, g.const(1, kind)))
        stacked = g.Concat(*(g.Unsqueeze(s, g.ints(axis)) for s in scaled), axis=axis)
        grid_value = g.Transpose(stacked, perm=[0, 2, 3, 1]) if self.channels_first else stacked
        out = g.GridSample(
            x, grid_value, mode="bilinear", padding_mode=self.padding, align_corners=int(self.aligned)
        )
        if self.used_elsewhere:
            return g.model(out, g.Relu(raw), g.Relu(scaled[0]))
        return g.model(out)


SPELLINGS = {
    "plain": Spelling(),
    "swapped": Spelling(swapped=True),
    "constant-nodes": Spelling(constants_as_nodes=True),
    "scalars-of-shape-1": Spelling(scalar_shape=(1,)),
    "scalars-of-shape-1-1": Spelling(scalar_shape=(1, 1), swapped=True),
    "reciprocal": Spelling(reciprocal=True),
    "used-elsewhere": Spelling(used_elsewhere=True),
    "div-by-1-folded": Spelling(height=2, width=2),
    "one-row": Spelling(height=1, width=5),
    "linspace": Spelling(linspace=True),
    "linspace-half-pixel": Spelling(linspace=True, aligned=False, padding="border"),
    "channels-first": Spelling(channels_first=True, padding="border"),
    "half-pixel": Spelling(aligned=False, padding="reflection"),
    "batch-2": Spelling(batch=2),
    "height-2": Spelling(height=2, width=6),
}


def feeds_of(model: ir.Model, seed: int = 0, spread: float = 2.0) -> dict[str, Array]:
    """Normal inputs, `spread` wide."""
    rng = np.random.default_rng(seed)
    return {
        str(v.name): (rng.standard_normal([int(str(d)) for d in v.shape or ()]) * spread).astype(
            v.dtype.numpy() if v.dtype else np.float32
        )
        for v in model.graph.inputs
    }


@dataclass(frozen=True)
class Outcome:
    """A pass's effect on a model: what it said, the graphs' operators, and outputs on the same feeds."""

    applied: Applied
    model: ir.Model
    ops: dict[str, int]
    before: Mapping[str, Array]
    after: Mapping[str, Array]

    def moved(self) -> float:
        """Largest absolute difference of any output."""
        assert self.before.keys() == self.after.keys()
        return max(
            float(
                np.max(
                    np.abs(self.after[k].astype(np.float64) - self.before[k].astype(np.float64)), initial=0
                )
            )
            for k in self.before
        )


def outcome(model: ir.Model, *passes: Pass, seed: int = 0, spread: float = 2.0) -> Outcome:
    """Run passes on a copy; hold each to its claim of change, byte for byte, and to being idempotent."""
    before = model.clone()
    after = model.clone()
    feeds = feeds_of(model, seed, spread)
    for one in passes:
        old = serialize(after.clone())
        applied = one.run(after)
        if not applied.changed:
            assert serialize(after.clone()) == old, f"{one.name} changed the graph and denies it"
        onnx.checker.check_model(serialize(after.clone()), full_check=True)
        assert not one.run(after).changed, f"{one.name} isn't idempotent"
    return Outcome(applied, after, count(after), evaluate(before, feeds), evaluate(after, feeds))
