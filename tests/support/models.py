"""Small models that upscale by two: a lone ONNX file, programs with a state or with neighbouring frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from superlower import ir
from superlower.program import files
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

SCALE = 2
FEATURES = 4
HIDDEN = (1, FEATURES, "H", "W")


class _Net:
    """Nodes being written down; every method returns the name of its result, which is its node's name."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, name: str, x: str, into: int, out: int) -> str:
        weight = self.rng.standard_normal((out, into, 3, 3)) * 0.8 / np.sqrt(into * 9)
        for suffix, array in (("weight", weight), ("bias", self.rng.standard_normal(out) * 0.1)):
            self.weights.append(numpy_helper.from_array(array.astype(np.float32), f"{name}.{suffix}"))
        return self.op("Conv", name, x, f"{name}.weight", f"{name}.bias", kernel_shape=[3, 3], pads=[1] * 4)

    def body(self, x: str, channels: int) -> tuple[str, str]:
        """Features and picture: lrelu(first) is where errors of LeakyRelu begin, tanh those of Tanh."""
        x = self.op("LeakyRelu", "lrelu", self.conv("first", x, channels, FEATURES), alpha=0.1)
        x = self.op("Tanh", "tanh", self.conv("middle", x, FEATURES, FEATURES))
        last = self.conv("last", x, FEATURES, 3 * SCALE**2)
        return x, self.op("DepthToSpace", "picture", last, blocksize=SCALE, mode="CRD")

    def model(self, inputs: dict[str, tuple[int | str, ...]], outputs: dict[str, tuple[int | str, ...]]):
        def values(shapes: dict[str, tuple[int | str, ...]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

        graph = helper.make_graph(self.nodes, "net", values(inputs), values(outputs), self.weights)
        opsets = [helper.make_opsetid("", ir.OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir.IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def upscaler(height: int | str = 16, width: int | str = 16, seed: int = 0) -> onnx.ModelProto:
    """x [1, 3, H, W] -> picture [1, 3, 2H, 2W]: first, lrelu, middle, tanh, last, picture."""
    net = _Net(seed)
    net.body("x", 3)
    static = isinstance(height, int) and isinstance(width, int)
    larger = (SCALE * height, SCALE * width) if static else ("H2", "W2")
    return net.model({"x": (1, 3, height, width)}, {"picture": (1, 3, *larger)})


def save_upscaler(path: Path, height: int | str = 16, width: int | str = 16) -> Path:
    """`upscaler` as a file."""
    onnx.save(upscaler(height, width), path)
    return path


def recurrent(height: int = 16, width: int = 16, multiple: int = 1) -> TemporalModel:
    """The same with a hidden state: tanh[t] is fed back as hidden at t + 1."""
    frame = Frame(height=height, width=width, scale=SCALE, multiple=multiple)
    h, w = frame.padded
    net = _Net(1)
    net.body(net.op("Concat", "joined", "x", "hidden", axis=1), 3 + FEATURES)
    graph = net.model(
        {"x": (1, 3, h, w), "hidden": (1, FEATURES, h, w)},
        {"tanh": (1, FEATURES, h, w), "picture": (1, 3, SCALE * h, SCALE * w)},
    )
    return _one_equation(
        "recurrent",
        frame,
        graph,
        {"x": "frame[t]", "hidden": "state[t-1]"},
        {"tanh": "state", "picture": "output"},
        {"state": Stream(shape=HIDDEN)},
    )


def window(height: int = 16, width: int = 16, multiple: int = 1) -> TemporalModel:
    """One frame out of three: latency one frame."""
    frame = Frame(height=height, width=width, scale=SCALE, multiple=multiple)
    h, w = frame.padded
    net = _Net(2)
    net.body(net.op("Concat", "joined", "past", "now", "next", axis=1), 9)
    graph = net.model(
        dict.fromkeys(("past", "now", "next"), (1, 3, h, w)), {"picture": (1, 3, SCALE * h, SCALE * w)}
    )
    reads = {"past": "frame[t-1]", "now": "frame[t]", "next": "frame[t+1]"}
    return _one_equation("window", frame, graph, reads, {"picture": "output"}, {})


def luma_upscaler(height: int = 16, width: int = 16) -> TemporalModel:
    """Luma alone, frame by frame."""
    frame = Frame(height=height, width=width, channels=1, color="y", scale=SCALE)
    net = _Net(5)
    picture = net.conv(
        "last", net.op("Tanh", "tanh", net.conv("first", "x", 1, FEATURES)), FEATURES, SCALE**2
    )
    net.op("DepthToSpace", "picture", picture, blocksize=SCALE, mode="CRD")
    graph = net.model({"x": (1, 1, height, width)}, {"picture": (1, 1, SCALE * height, SCALE * width)})
    return _one_equation("luma", frame, graph, {"x": "frame[t]"}, {"picture": "output"}, {})


def bidirectional(height: int = 16, width: int = 16) -> TemporalModel:
    """A backward sweep, and pictures made of its states: latency the whole clip."""
    back, forth = _Net(3), _Net(4)
    joined = back.op("Concat", "joined", "x", "hidden", axis=1)
    back.op("Tanh", "hidden_next", back.conv("trunk", joined, 3 + FEATURES, FEATURES))
    forth.body(forth.op("Concat", "joined", "x", "back", axis=1), 3 + FEATURES)
    state, frame = (1, FEATURES, height, width), (1, 3, height, width)
    larger = (1, 3, SCALE * height, SCALE * width)
    program = Program(
        name="bidirectional",
        frame=Frame(height=height, width=width, scale=SCALE),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "hb": Stream(shape=HIDDEN),
            "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
        },
        equations=(
            Equation(
                name="backward",
                graph="back",
                inputs={"x": "frame[t]", "hidden": "hb[t+1]"},
                outputs={"hidden_next": "hb"},
            ),
            Equation(
                name="forward",
                graph="forth",
                inputs={"x": "frame[t]", "back": "hb[t]"},
                outputs={"picture": "output"},
            ),
        ),
    )
    graphs = {
        "back": back.model({"x": frame, "hidden": state}, {"hidden_next": state}),
        "forth": forth.model({"x": frame, "back": state}, {"picture": larger}),
    }
    return TemporalModel(program, {name: onnx_ir.from_proto(graph) for name, graph in graphs.items()})


def save_program(model: TemporalModel, folder: Path) -> Path:
    """The program folder of a model."""
    files.save_model(model, folder)
    return folder


def _one_equation(
    name: str,
    frame: Frame,
    graph: onnx.ModelProto,
    reads: dict[str, str],
    writes: dict[str, str],
    states: dict[str, Stream],
) -> TemporalModel:
    program = Program(
        name=name,
        frame=frame,
        streams={
            "frame": Stream(shape=(1, frame.channels, "H", "W"), edge=Edge.REPLICATE),
            "output": Stream(shape=(1, frame.channels, f"{SCALE}*H", f"{SCALE}*W")),
            **states,
        },
        equations=(Equation(name="step", graph="step", inputs=reads, outputs=writes),),
    )
    return TemporalModel(program, {"step": onnx_ir.from_proto(graph)})
