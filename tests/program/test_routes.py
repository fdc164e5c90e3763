"""What routes mean, what they cost, and which are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.program import files, legality
from superlower.program.analysis import analyze, graph_calls
from superlower.program.interpret import evaluate, interpret
from superlower.program.model import Program, Stream
from superlower.program.routes import Routing, choice_streams, routings
from superlower.program.unroll import Element
from support.basicvsr import basicvsr_program
from support.routed import HEIGHT, WIDTH, call_graph, clip, route, routed_program, routed_programs

Array = NDArray[np.generic]
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def detail(program: Program) -> Routing:
    return routings(program)["detail"]


@given(routed_programs())
@settings(QUICK, max_examples=20)
def test_random_routed_programs_are_legal_and_survive_the_disk(program: Program) -> None:
    legality.verify(program)
    assert files.decode(files.encode(program), "p") == program


@given(routed_programs(enough=True), st.integers(1, 4), st.integers(0, 99))
@QUICK
def test_with_halo_enough_each_patch_is_that_of_the_whole_frame(
    program: Program, count: int, seed: int
) -> None:
    known = evaluate(program, clip(count, seed), call_graph)
    routing = detail(program)
    for t in range(count):
        values = {name: known[Element(name, t)] for name in program.streams}
        x = {"x": values["joined"], **{n: values[n] for n in ("half", "level") if n in values}}
        whole = [{"y": values["coarse"], "h": values["rest"]}]
        whole += [call_graph(graph, x) for graph in routing.route.graphs]
        for output, stream, scale in (("y", "output", 2), ("h", "state", 1)):
            high, wide = (scale * side for side in routing.route.patch)
            chosen = values["choice"].repeat(high, 2).repeat(wide, 3)
            expected = np.choose(chosen, [np.asarray(made[output]) for made in whole])
            assert np.array_equal(values[stream], expected)


def choosing(number: int) -> Any:
    def call(graph: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        made = call_graph(graph, feeds)
        return {n: np.full_like(a, number) for n, a in made.items()} if graph.startswith("choose") else made

    return call


@given(routed_programs(enough=True), st.integers(1, 4))
@settings(QUICK, max_examples=30)
def test_all_patches_at_one_graph_is_the_program_without_a_route(program: Program, count: int) -> None:
    graph = detail(program).route.graphs[0]
    equations = tuple(
        msgspec.structs.replace(e, graph=graph, route=None) if e.route else e for e in program.equations
    )
    plain = msgspec.structs.replace(program, equations=equations)
    expected = interpret(plain, clip(count), call_graph)
    assert all(map(np.array_equal, interpret(program, clip(count), choosing(1)), expected))


@given(routed_programs(), st.integers(1, 4))
@settings(QUICK, max_examples=30)
def test_no_patch_at_any_graph_is_what_stands_otherwise(program: Program, count: int) -> None:
    known = evaluate(program, clip(count), choosing(0))
    for t in range(count):
        assert np.array_equal(known[Element("output", t)], known[Element("coarse", t)])
        assert np.array_equal(known[Element("state", t)], known[Element("rest", t)])


def test_windows_stay_inside_the_frame_and_are_batched_by_graph() -> None:
    routing = detail(routed_program(route(graphs=("near_1", "far_2"), patch=(4, 4), halo=1, batch=2)))
    assert routing.window == (6, 6)
    assert routing.input_sizes == {"x": (2, 1, 6, 6)}
    assert routing.output_sizes == {"y": (2, 1, 12, 12), "h": (2, 1, 6, 6)}
    choice = np.array([[2, 1, 2], [0, 2, 0]], np.int32)[None, None]
    parts = routing.parts(choice)
    assert [(p.graph, p.patches) for p in parts] == [("near_1", (1,)), ("far_2", (0, 2)), ("far_2", (4,))]
    x = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(1, 1, HEIGHT, WIDTH)
    corners = routing.feeds({"x": x}, parts[1])["x"]
    assert np.array_equal(corners[0], x[0, :, :6, :6])
    assert np.array_equal(corners[1], x[0, :, :6, 6:])
    lone = routing.feeds({"x": x}, parts[2])["x"]
    assert np.array_equal(lone[0], x[0, :, 2:, 3:9])
    assert np.array_equal(lone[1], lone[0])


@pytest.mark.parametrize(("run", "whole"), [(1, False), (2, False), (3, True), (6, True)])
def test_the_whole_frame_stands_in_for_windows_of_as_many_pixels(run: int, whole: bool) -> None:
    """Windows of 6x6 in a frame of 8x12: two have 72 of its 96 pixels, three 108."""
    routing = detail(routed_program(route(patch=(4, 4), halo=1), graph="whole_far_2"))
    choice = np.array([1] * run + [0] * (6 - run), np.int32).reshape(1, 1, 2, 3)
    expected = Counter({"whole_far_2": 1}) if whole else Counter({"far_2": run})
    assert routing.calls(choice) == expected
    values = {n: np.zeros(s.sizes(HEIGHT, WIDTH), s.dtype) for n, s in routing._streams.items()}
    values |= {"@choice": choice, "@otherwise:h": np.full((1, 1, HEIGHT, WIDTH), 9, np.float32)}
    call = routing.call(values)
    for part in call.parts:
        call.take(part, call_graph(part.graph, call.feeds(part)))
    skipped = choice.repeat(4, 2).repeat(4, 3) == 0
    assert np.array_equal(call.outputs["h"] == 9, skipped)


def test_calls_of_a_clip_follow_from_its_choices() -> None:
    program = routed_program(route())
    assert choice_streams(program) == ("choice",)
    assert graph_calls(program, 3)["far_2"] == 3 * 6
    choices = [np.array([k] * 2 + [0] * 4, np.int32).reshape(1, 1, 2, 3) for k in (0, 1, 1)]
    assert graph_calls(program, 3, {"choice": choices})["far_2"] == 4


def test_a_route_s_reads_count_for_latency() -> None:
    assert analyze(routed_program(route(choice="choice[t+2]"))).latency == 2
    waiting = routed_program(route(otherwise={"y": "coarse[t+3]", "h": "rest[t]"}))
    assert analyze(waiting).latency == 3


def test_a_choice_out_of_range() -> None:
    with pytest.raises(BadInputError, match=r"equation detail: choice 2 of the patch in row 1, column 0"):
        detail(routed_program(route())).parts(np.array([0, 1, 0, 2, 0, 1], np.int32).reshape(1, 1, 2, 3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (routed_program(route(graphs=())), "route of equation detail has no graphs"),
        (
            routed_program(route(graphs=("near_1", "far_2")), graph="whole_far_2"),
            "whole frame's form 'whole_far_2' of a route over 2 graphs",
        ),
        (routed_program(route(), graph="far_2"), "graph 'far_2' on windows and on the whole frame"),
        (routed_program(route(patch=(3, 4))), "patches of 3x4 pixels don't divide the padded frame of 8x12"),
        (routed_program(route(halo=-1)), "halo -1 and batch 1: the least are 0 and 1"),
        (routed_program(route(batch=0)), "halo 0 and batch 0"),
        (
            routed_program(route(otherwise={"y": "coarse[t]"})),
            "stands otherwise for y, its outputs are h, y",
        ),
        (
            routed_program(route(otherwise={"y": "coarse[t]", "h": "coarse[t]"})),
            r"puts coarse\[t\], float32 \[1, 1, 16, 24\], in the place of state, float32 \[1, 1, 8, 12\]",
        ),
        (
            routed_program(route(choice="joined[t]")),
            r"choice joined\[t\] of equation detail is float32 \[1, 1, 8, 12\], .*int32 \[1, 1, 2, 3\]",
        ),
        (routed_program(route(choice="chosen[t]")), "unknown stream"),
        (routed_program(route(halo=1), half=True), r"halo of 1 don't fall on whole elements of 'half'"),
        (
            routed_program(route(otherwise={"y": "output[t]", "h": "rest[t]"})),
            "cyclic read in a clip of 1 frames: detail@0 reads detail@0",
        ),
    ],
)
def test_refuses(bad: Program, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        legality.verify(bad)


def test_refuses_what_can_be_neither_cut_nor_named() -> None:
    program = routed_program(route())
    fixed = {**program.streams, "output": Stream(shape=(1, 1, 16, 24))}
    with pytest.raises(BadInputError, match="output of the routed equation detail has no patches"):
        legality.verify(msgspec.structs.replace(program, streams=fixed))
    (first, *rest) = program.equations
    named = msgspec.structs.replace(first, inputs={"@choice": "joined[t]"})
    with pytest.raises(BadInputError, match="input '@choice' of equation detail: rename it"):
        legality.verify(msgspec.structs.replace(program, equations=(named, *rest)))
    bare = msgspec.structs.replace(first, route=None)
    with pytest.raises(BadInputError, match="equation detail calls no graph"):
        legality.verify(msgspec.structs.replace(program, equations=(bare, *rest)))


def test_programs_without_routes_are_as_they_were_on_disk() -> None:
    assert b"route" not in files.encode(basicvsr_program())
