"""A recurrent upscaler without a checkpoint: average over time, then enlarge.

    h[t]      = 0.8 h[t-1] + 0.2 frame[t]       (h[0] = frame[0])
    output[t] = bicubic x2 of h[t]

It stands for any foreign ONNX model with a state: one graph for the first frame, one for the others, and a
program that says how they hang together. Run it, then

    superlower inspect FOLDER
    superlower compile FOLDER -o average.bundle --target cpu
    superlower upscale average.bundle -i in.mp4 -o out.mp4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from superlower.program.files import save_model
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

KEEP = 0.8


def graph(height: int, width: int, *, first: bool) -> ir.Model:
    """x (and hidden) to hidden_next and output; float32 [1, 3, H, W] and [1, 3, 2H, 2W]."""
    small, large = [1, 3, height, width], [1, 3, 2 * height, 2 * width]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, small)]
    if first:
        nodes = [helper.make_node("Identity", ["x"], ["hidden_next"])]
    else:
        inputs.append(value("hidden", TensorProto.FLOAT, small))
        nodes = [
            helper.make_node("Mul", ["hidden", "keep"], ["old"]),
            helper.make_node("Mul", ["x", "take"], ["new"]),
            helper.make_node("Add", ["old", "new"], ["hidden_next"]),
        ]
    nodes.append(
        helper.make_node(
            "Resize", ["hidden_next", "", "", "large"], ["output"], mode="cubic", cubic_coeff_a=-0.5
        )
    )
    constants = {"keep": np.float32(KEEP), "take": np.float32(1 - KEEP), "large": np.array(large, np.int64)}
    used = {name for node in nodes for name in node.input}
    made = helper.make_graph(
        nodes,
        "first" if first else "step",
        inputs,
        [value("hidden_next", TensorProto.FLOAT, small), value("output", TensorProto.FLOAT, large)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items() if n in used],
    )
    return ir.from_proto(helper.make_model(made, ir_version=10, opset_imports=[helper.make_opsetid("", 19)]))


def model(height: int, width: int) -> TemporalModel:
    """The program and its two graphs."""
    results = {"hidden_next": "h", "output": "output"}
    program = Program(
        name="running-average",
        frame=Frame(height=height, width=width, scale=2),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "h": Stream(shape=(1, 3, "H", "W")),
            "output": Stream(shape=(1, 3, "2*H", "2*W")),
        },
        equations=(
            Equation(name="first", graph="first", inputs={"x": "frame[t]"}, outputs=results, when="t == 0"),
            Equation(
                name="step",
                graph="step",
                inputs={"x": "frame[t]", "hidden": "h[t-1]"},
                outputs=results,
                when="t > 0",
            ),
        ),
        provenance={"source": "examples/running_average.py"},
    )
    graphs = {"first": graph(height, width, first=True), "step": graph(height, width, first=False)}
    return TemporalModel(program, graphs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the running-average upscaler as a program folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="144x176", help="low-resolution frame, HEIGHTxWIDTH")
    arguments = parser.parse_args()
    rows, columns = map(int, arguments.size.split("x"))
    save_model(model(rows, columns), arguments.folder)
    print(f"{arguments.folder}: see `superlower inspect {arguments.folder}`")
