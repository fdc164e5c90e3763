"""What only the picture needs leaves the recurrence, bit for bit; nothing else moves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from superlower.ir import digest, serialize
from superlower.program import analysis
from superlower.program.model import Equation, Stream, TemporalModel
from superlower.rewrites.split_tail import SplitTail
from support.models import bidirectional, recurrent
from support.windows import SIDE, WindowBuilder, clip, run


def step(
    g: WindowBuilder, outputs: dict[str, str], streams: dict[str, Stream], *made: object
) -> TemporalModel:
    """One equation over frame[t] and state[t-1]."""
    from superlower.program.model import Edge, Frame, Program

    program = Program(
        name="step",
        frame=Frame(height=SIDE, width=SIDE, scale=1),
        streams={"frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE), **streams},
        equations=(
            Equation(name="step", graph="step", inputs={"x": "frame[t]", "h": "state[t-1]"}, outputs=outputs),
        ),
    )
    return TemporalModel(program, {"step": g.model(*made)})  # type: ignore[arg-type]


def tailed(shared: bool = False) -> TemporalModel:
    """A state made by convolutions, and a picture of it; with `shared`, of what the state is made of."""
    g = WindowBuilder()
    x, h = g.input("x", 1, 3, SIDE, SIDE), g.input("h", 1, 4, SIDE, SIDE)
    deep = g.conv(g.Concat(x, h, axis=1), 7, 4, 1)
    state = g.Tanh(deep)
    picture = g.Add(g.conv(g.Relu(deep if shared else state), 4, 3, 2), x)
    streams = {"state": Stream(shape=(1, 4, "H", "W")), "output": Stream(shape=(1, 3, "H", "W"))}
    return step(g, {"out0": "state", "out1": "output"}, streams, state, picture)


def split(model: TemporalModel, lengths: tuple[int, ...] = (1, 2, 5)) -> TemporalModel:
    """The cut model, held to the very same outputs and to idempotence."""
    digests = {name: digest(graph.clone()) for name, graph in model.graphs.items()}
    result = SplitTail().run(model)
    assert {name: digest(graph.clone()) for name, graph in model.graphs.items()} == digests
    assert result.applied.changed == (result.model is not model)
    assert SplitTail().run(result.model).model is result.model
    for graph in result.model.graphs.values():
        onnx.checker.check_model(serialize(graph.clone()), full_check=True)
    for length in lengths:
        shape = model.program.sizes("frame")
        frames = (
            [np.random.default_rng(t).random(shape, dtype=np.float32) for t in range(length)]
            if shape != (1, 3, SIDE, SIDE)
            else clip(length)
        )
        before, _ = run(model, frames)
        after, _ = run(result.model, frames)
        # The same kernels on the same values: no tolerance.
        assert all(map(np.array_equal, before, after))
    return result.model


def equations(model: TemporalModel) -> dict[str, Equation]:
    return {e.name: e for e in model.program.equations}


def test_the_picture_is_made_of_the_state() -> None:
    cut = split(tailed())
    made = equations(cut)
    assert made["step"].outputs == {"out0": "state"}
    assert sorted(made["step_tail"].inputs.values()) == ["frame[t]", "state[t]"]
    assert [n.op_type for n in cut.graphs["step_tail"].graph] == ["Relu", "Conv", "Add"]
    assert [n.op_type for n in cut.graphs["step"].graph] == ["Concat", "Conv", "Tanh"]


def test_tails_no_longer_wait_for_one_another() -> None:
    cut = split(tailed())
    assert analysis.batchable_graphs(tailed().program) == frozenset()
    assert analysis.batchable_graphs(cut.program) == {"step_tail"}
    assert ("step", "step_tail", -1) in analysis.analyze(cut.program).independent


def test_a_value_that_both_halves_need_becomes_a_stream() -> None:
    cut = split(tailed(shared=True))
    (name,) = cut.program.streams.keys() - tailed().program.streams.keys()
    assert cut.program.streams[name].shape == (1, 4, "H", "W")
    assert f"{name}[t]" in equations(cut)["step_tail"].inputs.values()


def test_a_small_recurrent_model() -> None:
    cut = split(recurrent())
    assert equations(cut)["step_tail"].outputs == {"picture": "output"}


@pytest.mark.parametrize("model", [bidirectional()], ids=["no equation makes both"])
def test_nothing_to_cut(model: TemporalModel) -> None:
    assert split(model) is model


def test_a_picture_that_is_its_own_state_stays() -> None:
    g = WindowBuilder()
    x, h = g.input("x", 1, 3, SIDE, SIDE), g.input("h", 1, 3, SIDE, SIDE)
    picture = g.conv(g.Concat(x, h, axis=1), 6, 3, 1)
    model = step(g, {"out0": "output"}, {"output": Stream(shape=(1, 3, "H", "W"))}, picture)
    own = model.program.equations[0].inputs | {"h": "output[t-1]"}
    import msgspec

    program = msgspec.structs.replace(
        model.program, equations=(msgspec.structs.replace(model.program.equations[0], inputs=own),)
    )
    model = TemporalModel(program, model.graphs)
    assert split(model) is model


def test_a_tail_without_a_convolution_isnt_worth_an_engine() -> None:
    g = WindowBuilder()
    x, h = g.input("x", 1, 3, SIDE, SIDE), g.input("h", 1, 3, SIDE, SIDE)
    state = g.Tanh(g.conv(g.Concat(x, h, axis=1), 6, 3, 1))
    streams = {"state": Stream(shape=(1, 3, "H", "W")), "output": Stream(shape=(1, 3, "H", "W"))}
    model = step(g, {"out0": "state", "out1": "output"}, streams, state, g.Add(state, x))
    assert split(model) is model


def test_equations_that_share_a_graph_are_cut_alike() -> None:
    model = tailed()
    import msgspec

    (one,) = model.program.equations
    first = msgspec.structs.replace(one, name="first", when="t == 0")
    rest = msgspec.structs.replace(one, name="rest", when="t > 0")
    shared = TemporalModel(msgspec.structs.replace(model.program, equations=(first, rest)), model.graphs)
    cut = split(shared)
    assert {"first", "first_tail", "rest", "rest_tail"} == equations(cut).keys()
