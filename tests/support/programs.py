"""Random legal programs over tiny ONNX graphs, and sessions that run those graphs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

Array = NDArray[np.generic]
CHANNELS, SIDE = 1, 2
WHEN_PAIRS = (
    ("t == 0", "t > 0"),
    ("t % 3 == 0", "t % 3 != 0"),
    ("t == T - 1", "t < T - 1"),
    ("t % 2 == 0 or t == T - 1", "not (t % 2 == 0 or t == T - 1)"),
)


def graph_name(inputs: int, outputs: int, variant: int = 0) -> str:
    return f"mix_{inputs}_{outputs}_{variant}"


@cache
def tiny_graph(inputs: int, outputs: int, variant: int = 0) -> onnx.ModelProto:
    """Output k is tanh(sum_i c_ki * input_i + b_k) with distinct constants; the batch size is free."""
    nodes = []
    for k in range(outputs):
        terms = []
        for i in range(inputs):
            weight = 0.3 + 0.17 * i - 0.11 * k + 0.05 * variant
            nodes.append(helper.make_node("Constant", [], [f"c{k}{i}"], value_float=weight))
            nodes.append(helper.make_node("Mul", [f"x{i}", f"c{k}{i}"], [f"p{k}{i}"]))
            terms.append(f"p{k}{i}")
        nodes.append(helper.make_node("Constant", [], [f"b{k}"], value_float=0.1 + 0.07 * k - 0.03 * variant))
        nodes.append(helper.make_node("Sum", [*terms, f"b{k}"], [f"s{k}"]))
        nodes.append(helper.make_node("Tanh", [f"s{k}"], [f"y{k}"]))
    shape = ["N", CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        graph_name(inputs, outputs, variant),
        [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(inputs)],
        [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, shape) for k in range(outputs)],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)])


@cache
def _session(name: str) -> ort.InferenceSession:
    _, inputs, outputs, variant = name.split("_")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = tiny_graph(int(inputs), int(outputs), int(variant))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fixed_graph(name: str) -> ir.Model:
    """A tiny graph with a batch of one, by its name."""
    _, inputs, outputs, variant = name.split("_")
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_graph(int(inputs), int(outputs), int(variant)))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return ir.from_proto(proto)


def call_graph(name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a tiny graph in ONNX Runtime."""
    session = _session(name)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def frames(count: int, seed: int = 0) -> list[Array]:
    """Elements for the input stream of these programs."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32) for _ in range(count)]


def _read(stream: str, offset: int) -> str:
    return f"{stream}[t{offset:+d}]" if offset else f"{stream}[t]"


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Legal by construction: a stream reads earlier ones at any offset, itself only on one side of t.

    Among them are sliding windows, forward and backward sweeps, two streams that feed each other, keyframes
    and first frames by predicate, and all edges.
    """
    streams = {"frame": Stream(shape=(1, CHANNELS, "H", "W"), edge=draw(st.sampled_from(Edge)))}
    equations: list[Equation] = []
    known = ["frame"]
    for index in range(draw(st.integers(1, 4))):
        made = [f"s{index}"] + ([f"u{index}"] if draw(st.booleans()) else [])
        side = draw(st.sampled_from((-1, 0, 1)))
        reads = draw(st.lists(st.tuples(st.sampled_from(known), st.integers(-2, 2)), min_size=1, max_size=2))
        texts = [_read(stream, offset) for stream, offset in reads]
        if side:
            texts += [_read(draw(st.sampled_from(made)), side * draw(st.integers(1, 2)))]
        # A recurrent stream with a replicated edge would read itself at the clip's end.
        edge = Edge.ZEROS if side else draw(st.sampled_from(Edge))
        for name in made:
            streams[name] = Stream(shape=(1, CHANNELS, "H", "W"), edge=edge)
        pair = draw(st.none() | st.sampled_from(WHEN_PAIRS))
        for variant, when in enumerate(pair or ("true",)):
            equations.append(
                Equation(
                    name=f"e{index}_{variant}",
                    graph=graph_name(len(texts), len(made), variant),
                    inputs={f"x{i}": text for i, text in enumerate(texts)},
                    outputs={f"y{k}": name for k, name in enumerate(made)},
                    when=when,
                )
            )
        known += made
    # The output reads every stream, so that no equation is dead.
    texts = [_read(name, 0) for name in known]
    texts += [_read(draw(st.sampled_from(known)), draw(st.sampled_from((-1, 1))))]
    streams["output"] = Stream(shape=(1, CHANNELS, "H", "W"))
    equations.append(
        Equation(
            name="out",
            graph=graph_name(len(texts), 1),
            inputs={f"x{i}": text for i, text in enumerate(texts)},
            outputs={"y0": "output"},
        )
    )
    order = draw(st.permutations(equations))
    return Program(
        name="random",
        frame=Frame(height=SIDE, width=SIDE, channels=CHANNELS, color="y", scale=1),
        streams=streams,
        equations=tuple(order),
    )


def keyframes() -> TemporalModel:
    """A first graph for frame 0 and every fifth, another for the rest."""
    key, rest = graph_name(1, 1, 0), graph_name(2, 1, 1)
    program = Program(
        name="keyframes",
        frame=Frame(height=2, width=2, channels=1, color="y", scale=1),
        streams={"frame": Stream(shape=(1, 1, "H", "W")), "output": Stream(shape=(1, 1, "H", "W"))},
        equations=(
            Equation(
                name="key",
                graph=key,
                inputs={"x0": "frame[t]"},
                outputs={"y0": "output"},
                when="t % 5 == 4",
            ),
            Equation(
                name="rest",
                graph=rest,
                inputs={"x0": "frame[t]", "x1": "output[t-1]"},
                outputs={"y0": "output"},
                when="t % 5 != 4",
            ),
        ),
    )
    return TemporalModel(program, {name: fixed_graph(name) for name in (key, rest)})
