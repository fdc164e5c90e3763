"""Single operations as graphs, to be measured by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from superlower.ir import IR_VERSION, OPSET, infer_shapes

CHANNELS = 64


class SmallGraph:
    """A graph under construction, over x [1, 64, height, width]."""

    def __init__(self, height: int, width: int) -> None:
        shape = ir.Shape([1, CHANNELS, height, width])
        self.x = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        self.inputs = [self.x]
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.rng = np.random.default_rng(0)

    def add(
        self, op: str, *inputs: ir.Value | None, **attributes: str | int | float | Sequence[int]
    ) -> ir.Value:
        """A node."""
        node = ir.node(op, inputs, attributes, name=f"{op}_{len(self.nodes)}")
        node.outputs[0].name = f"{node.name}_out"
        self.nodes.append(node)
        return node.outputs[0]

    def given(self, name: str) -> ir.Value:
        """A further input, a number for each channel: no compiler can fold what it can't know."""
        shape = ir.Shape([1, CHANNELS, 1, 1])
        self.inputs.append(ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)))
        return self.inputs[-1]

    def integers(self, *numbers: int) -> ir.Value:
        """An int64 initializer, of sizes or places."""
        return self._initializer(np.asarray(numbers, np.int64))

    def constant(self, array: ArrayLike) -> ir.Value:
        """An fp32 initializer."""
        return self._initializer(np.asarray(array, np.float32))

    def _initializer(self, array: NDArray[Any]) -> ir.Value:
        name = f"c{len(self.constants)}"
        self.constants.append(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
        return self.constants[-1]

    def weight(self, *shape: int) -> ir.Value:
        """Seeded weights."""
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(CHANNELS * 9))

    def norm(self, x: ir.Value) -> ir.Value:
        """A batch norm."""
        arrays = [self.rng.uniform(0.5, 2, CHANNELS) for _ in range(4)]
        return self.add("BatchNormalization", x, *map(self.constant, arrays))

    def model(self, output: ir.Value) -> ir.Model:
        """The model, typed."""
        output.name, output.type = "out", ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            self.inputs,
            [output],
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": OPSET},
            name="case",
        )
        return infer_shapes(ir.Model(graph, ir_version=IR_VERSION))
