"""A routed program without a checkpoint: enlarge everything, and sharpen patches with something to sharpen.

    coarse[t] = bilinear x2 of frame[t]
    busy[t]   = 1 for each patch whose mean Laplacian is above a threshold, else 0
    output[t] = where busy[t]: bilinear x2 of sharpened frame[t]; otherwise coarse[t]

The last equation has a route: its graph is built for one window, and called for the busy patches alone. A
window is a patch and 2 pixels around it, as far as a Laplacian and a bilinear enlargement see, so the outcome
is that of the whole frame. Run it, then

    superlower inspect FOLDER
    superlower compile FOLDER -o busy.bundle --target cpu
    superlower check busy.bundle
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from superlower.program.files import save_model
from superlower.program.model import Equation, Frame, Program, Route, Stream, TemporalModel

PATCH, HALO = 12, 2
THRESHOLD = 0.05
LAPLACIAN = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32)


def model(height: int, width: int, threshold: float = THRESHOLD) -> TemporalModel:
    """The program and its graphs, for frames of whole patches."""
    rows, columns = height // PATCH, width // PATCH
    window = [1, 3, min(PATCH + 2 * HALO, height), min(PATCH + 2 * HALO, width)]
    laplacian = helper.make_node("Conv", ["x", "laplacian"], ["edges"], group=3, pads=[1, 1, 1, 1])
    busy = [
        laplacian,
        helper.make_node("Abs", ["edges"], ["strength"]),
        helper.make_node("ReduceMean", ["strength", "channels"], ["plane"]),
        helper.make_node(
            "AveragePool", ["plane"], ["mean"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]
        ),
        helper.make_node("Greater", ["mean", "threshold"], ["above"]),
        helper.make_node("Cast", ["above"], ["choice"], to=TensorProto.INT32),
    ]
    sharpen = [
        laplacian,
        helper.make_node("Mul", ["edges", "amount"], ["added"]),
        helper.make_node("Add", ["x", "added"], ["sharp"]),
        helper.make_node("Resize", ["sharp", "", "doubled"], ["y"], mode="linear"),
    ]
    coarse = [helper.make_node("Resize", ["x", "", "doubled"], ["y"], mode="linear")]
    frame = [1, 3, height, width]
    constants = {
        "laplacian": np.broadcast_to(LAPLACIAN, (3, 1, 3, 3)).copy(),
        "channels": np.array([1], np.int64),
        "threshold": np.float32(threshold),
        "amount": np.float32(0.25),
        "doubled": np.array([1, 1, 2, 2], np.float32),
    }
    graphs = {
        "busy": _graph("busy", busy, frame, ("choice", TensorProto.INT32, [1, 1, rows, columns]), constants),
        "coarse": _graph("coarse", coarse, frame, ("y", TensorProto.FLOAT, _doubled(frame)), constants),
        "sharpen": _graph("sharpen", sharpen, window, ("y", TensorProto.FLOAT, _doubled(window)), constants),
    }
    program = Program(
        name="sharpen-where-busy",
        frame=Frame(height=height, width=width, scale=2, multiple=PATCH),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W")),
            "busy": Stream(shape=(1, 1, f"H/{PATCH}", f"W/{PATCH}"), dtype="int32"),
            "coarse": Stream(shape=(1, 3, "2*H", "2*W")),
            "output": Stream(shape=(1, 3, "2*H", "2*W")),
        },
        equations=(
            Equation(name="coarse", graph="coarse", inputs={"x": "frame[t]"}, outputs={"y": "coarse"}),
            Equation(name="busy", graph="busy", inputs={"x": "frame[t]"}, outputs={"choice": "busy"}),
            Equation(
                name="sharpen",
                inputs={"x": "frame[t]"},
                outputs={"y": "output"},
                route=Route(
                    choice="busy[t]",
                    graphs=("sharpen",),
                    patch=(PATCH, PATCH),
                    halo=HALO,
                    otherwise={"y": "coarse[t]"},
                ),
            ),
        ),
        provenance={"source": "examples/sharpen_where_busy.py"},
    )
    return TemporalModel(program, graphs)


def _doubled(shape: list[int]) -> list[int]:
    return [*shape[:2], *(2 * side for side in shape[2:])]


def _graph(
    name: str,
    nodes: list[onnx.NodeProto],
    shape: list[int],
    output: tuple[str, int, list[int]],
    constants: dict[str, np.ndarray],
) -> ir.Model:
    used = {given for node in nodes for given in node.input}
    made = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(*output)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items() if n in used],
    )
    return ir.from_proto(helper.make_model(made, ir_version=10, opset_imports=[helper.make_opsetid("", 19)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the routed sharpener as a program folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="144x180", help="low-resolution frame, HEIGHTxWIDTH")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="of the mean Laplacian")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    if height % PATCH or width % PATCH:
        parser.error(f"--size {arguments.size}: sides are multiples of {PATCH}")
    save_model(model(height, width, arguments.threshold), arguments.folder)
    print(f"{arguments.folder}: see `superlower inspect {arguments.folder}`")
