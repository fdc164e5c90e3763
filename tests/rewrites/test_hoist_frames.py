"""What several frames' windows have in common is computed once, and nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.ir import digest, serialize
from superlower.passes.convert_opset import ConvertOpset
from superlower.program import analysis
from superlower.program.model import Edge, Equation, Stream, TemporalModel
from superlower.rewrites.base import Rewritten
from superlower.rewrites.hoist_frames import HoistFrames
from support.windows import SIDE, WindowBuilder, clip, input_name, run, window

LENGTHS = (1, 2, 3, 6)


def ops(model: TemporalModel, graph: str) -> list[str]:
    return [node.op_type for node in model.graphs[graph].graph]


def equations(model: TemporalModel) -> dict[str, Equation]:
    return {e.name: e for e in model.program.equations}


def hoist(model: TemporalModel, *, ends: bool = True, lengths: Sequence[int] = LENGTHS) -> Rewritten:
    """The rewritten model, held to the very same outputs, to idempotence and to what it says it did."""
    digests = {name: digest(graph.clone()) for name, graph in model.graphs.items()}
    result = HoistFrames(ends=ends).run(model)
    assert {name: digest(graph.clone()) for name, graph in model.graphs.items()} == digests
    assert result.applied.changed == (result.model is not model)
    for graph in result.model.graphs.values():
        onnx.checker.check_model(serialize(graph.clone()), full_check=True)
    again = HoistFrames(ends=ends).run(result.model)
    assert again.model is result.model, "not idempotent"
    for length in lengths:
        before, _ = run(model, clip(length))
        after, _ = run(result.model, clip(length))
        for old, new in zip(before, after, strict=True):
            # The same kernels on the same values, one batch entry at a time: no tolerance.
            np.testing.assert_array_equal(old, new, err_msg=f"{length} frames")
    return result


class TestOneFrame:
    def test_a_network_over_each_frame_becomes_an_equation(self) -> None:
        g = WindowBuilder()
        nets = [g.net(x) for x in g.frames(-1, 0, 1)]
        result = hoist(window(g, g.conv(g.Concat(*nets, axis=1), 12, 3, 9), (-1, 0, 1)))
        made = equations(result.model)
        assert made["of_frame"].inputs == {"frame": "frame[t]"}
        assert sorted(made["step"].inputs.values()) == ["of_frame[t+1]", "of_frame[t-1]", "of_frame[t]"]
        assert ops(result.model, "of_frame") == ["Conv", "LeakyRelu", "Conv"]
        assert ops(result.model, "step") == ["Concat", "Conv"]
        stream = result.model.program.streams["of_frame"]
        assert stream == Stream(shape=(1, 4, "H", "W"), edge=Edge.REPLICATE)
        assert result.applied.rewritten[0].detail == (
            "once a frame from frame[t]; read by step (of_frame[t-1], of_frame[t], of_frame[t+1])"
        )
        _, calls = run(result.model, clip(6))
        assert calls == {"of_frame": 6, "step": 6}

    @pytest.mark.parametrize("edge", [Edge.REPLICATE, Edge.REFLECT])
    def test_values_of_several_depths_share_the_equation(self, edge: Edge) -> None:
        """EDVR's pyramid: every level is read at every offset."""
        g = WindowBuilder()
        levels = []
        for x in g.frames(-2, -1, 0, 1, 2):
            first = g.Relu(g.conv(x, 3, 4, 1))
            second = g.Conv(first, g.const(np.full((4, 4, 2, 2), 0.1)), strides=[2, 2])
            levels.append(g.Add(first, g.Resize(second, None, g.const([1, 1, 2, 2]), mode="nearest")))
            levels.append(first)
        result = hoist(window(g, g.conv(g.Concat(*levels, axis=1), 40, 3, 9), (-2, -1, 0, 1, 2), edge))
        written = equations(result.model)["of_frame"].outputs
        assert sorted(written.values()) == ["of_frame_0", "of_frame_1"]
        assert all(result.model.program.streams[s].edge is edge for s in written.values())
        assert ops(result.model, "of_frame").count("Conv") == 2
        assert ops(result.model, "step") == ["Concat", "Conv"]

    def test_sizes_follow_the_frame(self) -> None:
        g = WindowBuilder()
        weight = g.const(np.full((4, 3, 2, 2), 0.1))
        halves = [g.Conv(x, weight, strides=[2, 2]) for x in g.frames(-1, 0)]
        scale = g.const([1, 1, 2, 2])
        out = g.Resize(g.conv(g.Concat(*halves, axis=1), 8, 3, 2), None, scale, mode="nearest")
        result = hoist(window(g, out, (-1, 0)))
        assert result.model.program.streams["of_frame"].shape == (1, 4, "H/2", "W/2")

    def test_other_weights_are_another_function(self) -> None:
        g = WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        out = g.conv(g.Concat(g.net(a, 1), g.net(b, 2), g.net(c, 1), axis=1), 12, 3, 9)
        result = hoist(window(g, out, (-1, 0, 1)))
        assert sorted(equations(result.model)["step"].inputs.values()) == [
            "frame[t]",
            "of_frame[t+1]",
            "of_frame[t-1]",
        ]
        assert ops(result.model, "step").count("Conv") == 3

    def test_zeros_beyond_the_clip_take_a_second_graph(self) -> None:
        """net(0) isn't 0, so no edge of the network's own stream will do."""
        g = WindowBuilder()
        nets = [g.net(x) for x in g.frames(-1, 0, 1)]
        model = window(g, g.conv(g.Concat(*nets, axis=1), 12, 3, 9), (-1, 0, 1), Edge.ZEROS)
        result = hoist(model)
        made = equations(result.model)
        assert made["step"].when == "t >= 1 and t < T - 1"
        assert made["step_ends"].when == "t < 1 or t >= T - 1"
        assert run(result.model, clip(6))[1] == {"of_frame": 6, "step": 4, "step_ends": 2}
        refused = hoist(model, ends=False)
        assert not refused.applied.changed
        assert "it takes a second graph for the clip's ends" in refused.applied.refused[0].detail

    def test_cheap_arithmetic_stays(self) -> None:
        g = WindowBuilder()
        light = [g.Mul(g.Sub(x, g.const(0.5)), g.const(2)) for x in g.frames(-1, 0, 1)]
        result = hoist(window(g, g.conv(g.Concat(*light, axis=1), 9, 3, 9), (-1, 0, 1)))
        assert not result.applied.changed

    def test_views_are_made_by_the_reader(self) -> None:
        g = WindowBuilder()
        parts = [g.Slice(g.net(x), g.ints(0), g.ints(2), g.ints(1)) for x in g.frames(-1, 0)]
        result = hoist(window(g, g.conv(g.Concat(*parts, axis=1), 4, 3, 9), (-1, 0)))
        assert ops(result.model, "of_frame") == ["Conv", "LeakyRelu", "Conv"]
        assert ops(result.model, "step") == ["Slice", "Slice", "Concat", "Conv"]

    def test_what_is_read_at_one_frame_stays(self) -> None:
        g = WindowBuilder()
        a, b = g.frames(-1, 0)
        result = hoist(window(g, g.Add(g.net(a, out=3), g.net(b, seed=2, out=3)), (-1, 0)))
        assert not result.applied.changed

    def test_a_random_operator_is_never_the_same_twice(self) -> None:
        g = WindowBuilder()
        noisy = [
            g.conv(g.Add(x, g.RandomNormal(shape=[1, 3, SIDE, SIDE], seed=1.0)), 3, 3, 1)
            for x in g.frames(-1, 0)
        ]
        model = window(g, g.Add(*noisy), (-1, 0))
        assert not HoistFrames().run(model).applied.changed


class TestSeveralFrames:
    def test_a_function_of_neighbours_is_shared_inside_the_clip(self) -> None:
        g = WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        flows = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((a, b), (b, c))]
        result = hoist(window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-1, 0, 1)))
        made = equations(result.model)
        assert made["of_frame_0_1"].inputs == {"frame": "frame[t]", "frame_after_1": "frame[t+1]"}
        assert sorted(made["step"].inputs.values()) == ["of_frame_0_1[t-1]", "of_frame_0_1[t]"]
        # At t = -1 a replicated pair is frame 0 twice; at T - 1 it is the stream's own last pair.
        assert (made["step"].when, made["step_ends"].when) == ("t >= 1", "t < 1")
        _, calls = run(result.model, clip(6))
        assert calls == {"of_frame_0_1": 6, "step": 5, "step_ends": 1}

    def test_functions_of_functions(self) -> None:
        g = WindowBuilder()
        xs = g.frames(-2, -1, 0, 1, 2)
        pairs = [g.net(g.Sub(g.net(a), g.net(b)), 5, 4) for a, b in itertools.pairwise(xs)]
        triples = [g.net(g.Mul(a, b), 6, 4) for a, b in itertools.pairwise(pairs)]
        out = g.conv(g.Concat(*triples, axis=1), 12, 3, 9)
        result = hoist(window(g, out, (-2, -1, 0, 1, 2), Edge.REFLECT), lengths=(1, 2, 3, 4, 8))
        made = equations(result.model)
        assert list(made) == ["of_frame", "of_frame_0_1", "of_frame_0_1_2", "step", "step_ends"]
        assert sorted(made["of_frame_0_1"].inputs.values()) == ["of_frame[t+1]", "of_frame[t]"]
        assert made["of_frame_0_1_2"].when == "t < T - 1"
        assert made["step"].when == "t >= 2 and t < T - 1"

    def test_the_equation_of_the_ends_is_left_to_itself(self) -> None:
        """It computes pairs twice of the two frames it is for: a second run must not find those worth it."""
        g = WindowBuilder()
        xs = [g.net(x) for x in g.frames(0, 1, 2)]
        pairs = [g.net(g.Concat(a, b, axis=1), 5, 8) for a, b in itertools.pairwise(xs)]
        model = window(g, g.conv(g.Concat(*pairs, axis=1), 8, 3, 9), (0, 1, 2), Edge.ZEROS)
        made = equations(hoist(model).model)
        assert made["step_ends"].when == "t >= T - 2"

    def test_a_pair_in_the_other_order_is_another_function(self) -> None:
        g = WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        flows = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((b, a), (b, c))]
        result = hoist(window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-1, 0, 1)))
        assert not result.applied.changed

    def test_the_same_distance_is_the_same_function(self) -> None:
        """Not only neighbours: (t-2, t) and (t, t+2)."""
        g = WindowBuilder()
        a, b, c = g.frames(-2, 0, 2)
        flows = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((a, b), (b, c))]
        result = hoist(window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-2, 0, 2)))
        assert sorted(equations(result.model)["of_frame_0_2"].inputs.values()) == ["frame[t+2]", "frame[t]"]

    def test_latency_stays(self) -> None:
        g = WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        flows = [g.net(g.Concat(g.net(x), g.net(y), axis=1), 3, 8) for x, y in ((a, b), (b, c))]
        model = window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-1, 0, 1))
        after = hoist(model).model
        assert analysis.latency(model.program) == analysis.latency(after.program) == 1


class TestSeveralEquations:
    def test_what_two_equations_have_in_common_is_computed_once(self) -> None:
        """A window beside a recurrence over the same features."""
        g, r = WindowBuilder(), WindowBuilder()
        a, b = g.frames(-1, 0)
        back = g.input("hidden", 1, 3, SIDE, SIDE)
        base = window(g, g.Add(g.conv(g.Concat(g.net(a), g.net(b), axis=1), 8, 3, 9), back), (-1, 0))
        x, state = r.frames(1)[0], r.input("state", 1, 3, SIDE, SIDE)
        graphs = {**base.graphs, "sweep": r.model(r.Tanh(r.Add(r.conv(r.net(x), 4, 3, 8), state)))}
        (step,) = base.program.equations
        step = msgspec.structs.replace(step, inputs={**step.inputs, "hidden": "h[t]"})
        sweep = Equation(
            name="sweep",
            graph="sweep",
            inputs={input_name(1): "frame[t+1]", "state": "h[t-1]"},
            outputs={"out0": "h"},
        )
        streams = {**base.program.streams, "h": Stream(shape=(1, 3, "H", "W"))}
        program = msgspec.structs.replace(base.program, streams=streams, equations=(step, sweep))
        result = hoist(TemporalModel(program, graphs))
        made = equations(result.model)
        assert sorted(made["sweep"].inputs.values()) == ["h[t-1]", "of_frame[t+1]"]
        assert made["sweep"].inputs["state"] == "h[t-1]"
        assert ops(result.model, "sweep") == ["Conv", "Add", "Tanh"]

    def test_equations_of_one_graph_become_graphs_of_their_own(self) -> None:
        g = WindowBuilder()
        nets = [g.net(x) for x in g.frames(-1, 0)]
        base = window(g, g.conv(g.Concat(*nets, axis=1), 8, 3, 9), (-1, 0), when="t % 2 == 0")
        (even,) = base.program.equations
        odd = msgspec.structs.replace(
            even,
            name="odd",
            when="t % 2 != 0",
            inputs={input_name(-1): "frame[t]", input_name(0): "frame[t-1]"},
        )
        program = msgspec.structs.replace(base.program, equations=(even, odd))
        result = hoist(replace(base, program=program), lengths=(1, 2, 5))
        made = equations(result.model)
        assert made["odd"].when == "t % 2 != 0"
        assert made["odd"].graph != made["step"].graph

    def test_what_only_the_first_frames_have_in_common_stays(self) -> None:
        """A warm-up, as FRVSR's: later frames are looked at before the first, by an equation of t == 0."""
        g, r = WindowBuilder(), WindowBuilder()
        ahead = [g.net(x) for x in g.frames(0, 1, 2)]
        base = window(g, g.conv(g.Concat(*ahead, axis=1), 12, 3, 9), (0, 1, 2), when="t == 0")
        rest = Equation(
            name="rest",
            graph="rest",
            inputs={input_name(0): "frame[t]"},
            outputs={"out0": "output"},
            when="t > 0",
        )
        graphs = {**base.graphs, "rest": r.model(r.conv(r.net(r.frames(0)[0]), 4, 3, 9))}
        program = msgspec.structs.replace(base.program, equations=(*base.program.equations, rest))
        assert not hoist(TemporalModel(program, graphs)).applied.changed

    def test_predicates_are_kept_with_those_of_the_ends(self) -> None:
        g = WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        flows = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((a, b), (b, c))]
        base = window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-1, 0, 1), when="t % 3 != 2 or t == 5")
        (some,) = base.program.equations
        g2 = WindowBuilder()
        rest = Equation(
            name="rest",
            graph="rest",
            inputs={input_name(0): "frame[t]"},
            outputs={"out0": "output"},
            when="not (t % 3 != 2 or t == 5)",
        )
        graphs = {**base.graphs, "rest": g2.model(g2.conv(g2.frames(0)[0], 3, 3, 4))}
        program = msgspec.structs.replace(base.program, equations=(some, rest))
        result = hoist(TemporalModel(program, graphs), lengths=(1, 2, 5, 8))
        made = equations(result.model)
        assert made["step"].when == "(t % 3 != 2 or t == 5) and (t >= 1)"
        assert made["step_ends"].when == "(t % 3 != 2 or t == 5) and (t < 1)"

    def test_an_equation_never_at_the_ends_has_one_form(self) -> None:
        g, r = WindowBuilder(), WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        flows = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((a, b), (b, c))]
        base = window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-1, 0, 1), when="t > 0")
        first = Equation(
            name="first",
            graph="first",
            inputs={input_name(0): "frame[t]"},
            outputs={"out0": "output"},
            when="t == 0",
        )
        graphs = {**base.graphs, "first": r.model(r.conv(r.frames(0)[0], 3, 3, 4))}
        program = msgspec.structs.replace(base.program, equations=(*base.program.equations, first))
        made = equations(hoist(TemporalModel(program, graphs)).model)
        assert list(made) == ["of_frame_0_1", "step", "first"]
        assert made["step"].when == "t > 0"

    def test_an_equation_never_inside_the_clip_stays_whole(self) -> None:
        """At t == 0 the pair (t-1, t) is always beyond the clip: nothing to share with it."""
        g = WindowBuilder()
        a, b, c = g.frames(-1, 0, 1)
        flows = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((a, b), (b, c))]
        base = window(g, g.conv(g.Concat(*flows, axis=1), 8, 3, 9), (-1, 0, 1), when="t == 0")
        g2 = WindowBuilder()
        rest = Equation(
            name="rest",
            graph="rest",
            inputs={input_name(0): "frame[t]"},
            outputs={"out0": "output"},
            when="t > 0",
        )
        graphs = {**base.graphs, "rest": g2.model(g2.conv(g2.frames(0)[0], 3, 3, 4))}
        program = msgspec.structs.replace(base.program, equations=(*base.program.equations, rest))
        assert not hoist(TemporalModel(program, graphs)).applied.changed


class TestRefusals:
    def two(self, g: WindowBuilder) -> ir.Value:
        return g.conv(g.Concat(*(g.net(x) for x in g.frames(-1, 0)), axis=1), 8, 3, 9)

    def test_sizes_that_are_not_static(self) -> None:
        g = WindowBuilder()
        model = window(g, self.two(g), (-1, 0))
        for value in model.graphs["step"].graph.inputs:
            value.shape = ir.Shape([1, 3, "H", "W"])
        for node in model.graphs["step"].graph:
            for value in node.outputs:
                value.shape = None
        result = HoistFrames().run(model)
        assert result.model is model
        assert result.applied.refused[0].node == "step"
        assert "aren't static" in result.applied.refused[0].detail

    def test_graphs_of_several_opsets(self) -> None:
        g, other = WindowBuilder(), WindowBuilder()
        base = window(g, self.two(g), (-1, 0), when="t > 0")
        first = msgspec.structs.replace(base.program.equations[0], name="first", graph="other", when="t == 0")
        newer = other.model(self.two(other))
        ConvertOpset(opset=20).run(newer)
        program = msgspec.structs.replace(base.program, equations=(*base.program.equations, first))
        result = HoistFrames().run(TemporalModel(program, {**base.graphs, "other": newer}))
        assert result.applied.refused[0].detail == "graphs are of several opsets: run convert-opset first"

    def test_bodies(self) -> None:
        g = WindowBuilder()
        out = self.two(g)
        body = WindowBuilder()
        inner = ir.Graph([], [value := body.Identity(out)], nodes=[value.producer()], name="branch")
        other = WindowBuilder()
        also = ir.Graph([], [value := other.Relu(out)], nodes=[value.producer()], name="otherwise")
        chosen = g.If(g.const(True, np.bool_), then_branch=inner, else_branch=also)
        chosen.shape, chosen.type = ir.Shape([1, 3, SIDE, SIDE]), ir.TensorType(ir.DataType.FLOAT)
        model = window(g, chosen, (-1, 0))
        (site,) = HoistFrames().run(model).applied.refused
        assert site.detail.startswith("If ")
        assert site.detail.endswith(" has a body of its own")


@st.composite
def windows(draw: st.DrawFn) -> tuple[TemporalModel, int]:
    """Chains of layers over a window: alone, in pairs, stacked; some with weights of their own."""
    g = WindowBuilder()
    first = draw(st.integers(-2, 0))
    offsets = list(range(first, first + draw(st.integers(2, 4))))
    values, channels = list(g.frames(*offsets)), 3
    for layer in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["map", "pairs", "stack", "some"]))
        if kind == "pairs" and len(values) > 2:
            joined = [g.Concat(a, b, axis=1) for a, b in itertools.pairwise(values)]
            values = [g.net(x, 10 * layer + 1, 2 * channels, 2) for x in joined]
        elif kind == "stack":
            stacked = g.net(g.Concat(*values, axis=0), 10 * layer + 2, channels, 2)
            values = [g.Slice(stacked, g.ints(i), g.ints(i + 1), g.ints(0)) for i in range(len(values))]
        else:
            odd = draw(st.integers(0, len(values) - 1)) if kind == "some" else -1
            values = [g.net(x, 10 * layer + 3 + (i == odd), channels, 2) for i, x in enumerate(values)]
        channels = 2
    out = g.conv(g.Concat(*values, axis=1), channels * len(values), 3, 999)
    return window(g, out, offsets, draw(st.sampled_from(list(Edge)))), draw(st.integers(1, 7))


@settings(max_examples=40, deadline=None)
@given(windows())
def test_any_window(drawn: tuple[TemporalModel, int]) -> None:
    model, length = drawn
    hoist(model, lengths=(length,))


class TestSums:
    """Alignment to the middle frame: each neighbour's features joined to its own, one convolution for all."""

    def model(self) -> TemporalModel:
        g = WindowBuilder()
        features = [g.net(x) for x in g.frames(-1, 0, 1)]
        aligned = [g.Relu(g.conv(g.Concat(f, features[1], axis=1), 8, 4, 7)) for f in features]
        halves = g.Split(g.Concat(*aligned, axis=1), g.ints(5, 7), axis=1, outputs=2)
        aligned = list(halves)
        return window(g, g.conv(g.Concat(*aligned, axis=1), 12, 3, 9), (-1, 0, 1))

    def test_terms_of_one_frame_are_hoisted(self) -> None:
        model = self.model()
        plain = HoistFrames().run(model).model
        assert ops(plain, "step").count("Conv") == 4
        result = HoistFrames(sums=True).run(model)
        # The net and the neighbour's term once a frame; the middle frame's term is one for all three.
        assert ops(result.model, "of_frame").count("Conv") == 3
        assert ops(result.model, "step").count("Conv") == 2
        assert ops(result.model, "step").count("Add") == 3
        assert HoistFrames(sums=True).run(result.model).model is result.model
        for old, new in zip(run(model, clip(4))[0], run(result.model, clip(4))[0], strict=True):
            # 72 products of two numbers below 4, summed in another order, and 108 sums of those.
            np.testing.assert_allclose(new, old, rtol=0, atol=2 * 72 * 16 * 2.0**-24 * 4)

    def test_convolutions_with_nothing_in_common_stay(self) -> None:
        g = WindowBuilder()
        a, b = g.frames(-1, 0)
        model = window(g, g.conv(g.Concat(a, b, axis=1), 6, 3, 9), (-1, 0))
        assert not HoistFrames(sums=True).run(model).applied.changed
