"""Running models in ONNX Runtime on the CPU, for folding and for validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import serialize

Array = NDArray[np.generic]


def evaluate(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The model's outputs by name: see `prepare`."""
    return prepare(model)(feeds)


def prepare(model: ir.Model) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function from inputs to outputs, by name.

    Graph optimisations are off: they would fuse and re-lay-out two versions of a graph in two ways, and what
    is compared must be the graphs, not the optimiser. ONNX Runtime's own exceptions pass through.

    ONNX Runtime's CPU has no arithmetic in bf16: there each result is computed in fp32 and rounded to bf16,
    which is what hardware with fp32 accumulation gives. Inputs and outputs of type bf16 are fp32 arrays here.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        serialize(_emulate_bf16(model)), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}

    def outputs(feeds: Mapping[str, Array]) -> dict[str, Array]:
        given = {name: _plain(array) for name, array in feeds.items() if name in wanted}
        return dict(zip(names, (np.asarray(v) for v in session.run(names, given)), strict=True))

    return outputs


def _plain(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == ir.DataType.BFLOAT16.numpy() else array


def _emulate_bf16(model: ir.Model) -> ir.Model:
    """The model itself; if it has bf16 values, a copy where they are fp32 values rounded to bf16."""
    bf16, fp32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [v for node in model.graph for v in node.outputs]
    if not any(v.dtype == bf16 for v in values):
        return model
    model = model.clone()
    graph = model.graph
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype == bf16:
            value.type = ir.TensorType(fp32)
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes.get_int("to") == bf16:
            node.attributes["to"] = ir.AttrInt64("to", fp32)
        for value in node.outputs:
            if value.dtype != bf16:
                continue
            down = ir.node("Cast", [value], {"to": bf16})
            up = ir.node("Cast", [down.outputs[0]], {"to": fp32})
            rounded = up.outputs[0]
            down.outputs[0].name, down.outputs[0].type = f"{value.name}_bf16", ir.TensorType(bf16)
            rounded.name, rounded.type, rounded.shape = (
                f"{value.name}_rounded",
                ir.TensorType(fp32),
                value.shape,
            )
            value.type = ir.TensorType(fp32)
            ir.convenience.replace_all_uses_with(value, rounded, replace_graph_outputs=True)
            down.replace_input_with(0, value)
            if rounded.is_graph_output():
                value.name, rounded.name = rounded.name, value.name
            graph.insert_after(node, [down, up])
    return model
