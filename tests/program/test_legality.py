from __future__ import annotations

from typing import Any

import msgspec
import pytest

from superlower.errors import BadInputError
from superlower.program import legality
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel
from support.basicvsr import basicvsr_program
from support.programs import fixed_graph

PLANE = (1, 1, "H", "W")


def program(*equations: Equation, streams: dict[str, Stream] | None = None, **fields: Any) -> Program:
    names = {s for e in equations for s in e.outputs.values()}
    return Program(
        name="p",
        frame=Frame(height=2, width=2, channels=1, color="y", scale=1),
        streams=streams
        or {
            "frame": Stream(shape=PLANE, edge=Edge.REPLICATE),
            **{n: Stream(shape=PLANE) for n in sorted(names)},
        },
        equations=equations,
        **fields,
    )


def equation(name: str, reads: list[str], writes: list[str], when: str = "true") -> Equation:
    return Equation(
        name=name,
        graph=f"mix_{len(reads)}_{len(writes)}_0",
        inputs={f"x{i}": r for i, r in enumerate(reads)},
        outputs={f"y{i}": w for i, w in enumerate(writes)},
        when=when,
    )


def test_basicvsr_is_legal() -> None:
    legality.verify(basicvsr_program())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (program(equation("a", ["frame[t]", "output[t]"], ["output"])), r"cyclic read .* a@0 reads a@0"),
        (
            program(equation("a", ["frame[t]", "h[t-1]"], ["output"]), equation("b", ["output[t+1]"], ["h"])),
            r"cyclic read in a clip of 2 frames: a@1 reads b@0 reads a@1",
        ),
        (
            program(
                equation("a", ["h[t-1]", "h[t+1]"], ["output"]),
                equation("b", ["frame[t]", "h[t-1]"], ["h"], "t > 0"),
                equation("c", ["frame[t]"], ["h"], "t % 2 == 0"),
            ),
            "stream h is written twice at t=2 of 3 frames, by b and c",
        ),
        (program(equation("a", ["frame[t]"], ["output"], "t > 0")), r"unreachable output.*output\[0\]"),
        (program(equation("a", ["frame[t]"], ["output"], "t < T - 1")), "unreachable output"),
        (
            program(equation("a", ["frame[t]"], ["output"]), equation("b", ["frame[t]"], ["h"])),
            "equation b never reaches the output",
        ),
        (program(equation("a", ["frme[t]"], ["output"])), "unknown stream .* 'frme': did you mean frame"),
        (program(equation("a", ["frame[s]"], ["output"])), r"'frame\[s\]' is not a stream read"),
        (program(equation("a", ["frame[t]"], ["frame"]), output="frame"), "input stream frame is written"),
        (program(equation("a", ["frame[t]"], ["h"])), "unknown output stream 'output'"),
        (
            program(equation("a", ["frame[t]"], ["output"]), equation("a", ["frame[t]"], ["h"])),
            "two equations are called a",
        ),
        (
            program(
                equation("a", ["key[t-1]"], ["output"]),
                equation("b", ["frame[t]"], ["key"], "t % 2 == 0"),
                streams={
                    "frame": Stream(shape=PLANE),
                    "key": Stream(shape=PLANE, edge=Edge.REPLICATE),
                    "output": Stream(shape=PLANE),
                },
            ),
            r"reads key\[1\], which no equation writes",
        ),
        (
            program(
                equation("a", ["frame[t]"], ["output"]),
                streams={"frame": Stream(shape=(1, 1, "H/3", "W")), "output": Stream(shape=PLANE)},
            ),
            "stream size H/3 is no whole number",
        ),
    ],
)
def test_each_illegal_program_has_its_error(bad: Program, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        legality.verify(bad)


GOOD = program(equation("a", ["frame[t]", "h[t-1]"], ["output", "h"]))


def test_graphs_that_fit_are_accepted() -> None:
    legality.verify_graphs(TemporalModel(GOOD, {"mix_2_2_0": fixed_graph("mix_2_2_0")}))


@pytest.mark.parametrize(("first", "second"), [("t == 150", "t != 150"), ("t % 60 == 59", "t % 60 < 59")])
def test_late_and_long_periodic_predicates_are_verified(first: str, second: str) -> None:
    legality.verify(
        program(
            equation("a", ["frame[t]"], ["output"], first), equation("b", ["frame[t]"], ["output"], second)
        )
    )


def test_an_output_that_stops_late_is_found() -> None:
    with pytest.raises(BadInputError, match=r"unreachable output: no equation writes output\[100\]"):
        legality.verify(program(equation("a", ["frame[t]"], ["output"], "t < 100")))


def test_what_cant_be_verified_is_refused() -> None:
    with pytest.raises(BadInputError, match="at most 400 can be verified"):
        legality.verify(program(equation("a", ["frame[t]"], ["output"], "t < 1000000")))


def _with(**fields: Any) -> Program:
    return msgspec.structs.replace(GOOD, **fields)


def _equation(**fields: Any) -> Program:
    return _with(equations=(msgspec.structs.replace(GOOD.equations[0], **fields),))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (_equation(graph="other"), "missing graph: equation a calls 'other'"),
        (_equation(inputs={"x0": "frame[t]"}), "no value for its input 'x1'"),
        (_equation(inputs={"x0": "frame[t]", "x1": "h[t-1]", "x2": "h[t-1]"}), "names input 'x2'"),
        (_equation(outputs={"y0": "output", "z": "h"}), "names output 'z'"),
        (
            _with(streams={**GOOD.streams, "h": Stream(shape=(1, 1, "2*H", "W"))}),
            "shape clash: input 'x1' of graph mix_2_2_0 is 1x1x2x2, stream h of equation a is 1x1x4x2",
        ),
        (
            _with(streams={**GOOD.streams, "h": Stream(shape=PLANE, dtype="float16")}),
            "type clash: input 'x1'",
        ),
        (
            _with(frame=Frame(height=2, width=2, channels=1, color="y", scale=2)),
            "frame contract says 1x1x4x4",
        ),
    ],
)
def test_graphs_that_dont_fit_have_their_error(bad: Program, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        legality.verify_graphs(TemporalModel(bad, {"mix_2_2_0": fixed_graph("mix_2_2_0")}))
