from __future__ import annotations

import pytest

from superlower.program.analysis import Direction, analyze, peak_bytes
from superlower.program.model import Edge, Equation, Frame, Program, Stream
from superlower.program.schedule import schedule
from support.basicvsr import basicvsr_program

PLANE = (1, 1, "H", "W")
FRAME = Frame(height=8, width=8, channels=1, color="y", scale=1)


def window(edge: Edge, reach: int) -> Program:
    offsets = range(-reach, reach + 1)
    return Program(
        name="window",
        frame=FRAME,
        streams={"frame": Stream(shape=PLANE, edge=edge), "output": Stream(shape=PLANE)},
        equations=(
            Equation(
                name="net",
                graph="net",
                inputs={f"x{o}": f"frame[t{o:+d}]" for o in offsets},
                outputs={"y": "output"},
            ),
        ),
    )


def test_basicvsr() -> None:
    facts = analyze(basicvsr_program(180, 320))
    assert facts.latency is None
    directions = {name: s.direction for name, s in facts.streams.items()}
    assert directions["hb"] is Direction.BACKWARD
    assert directions["hf"] is Direction.FORWARD
    assert directions["flow_b"] is directions["output"] is Direction.NONE
    assert {name for name, s in facts.streams.items() if s.state} == {"hb", "hf"}
    assert {name: s.look_ahead for name, s in facts.streams.items()} == {
        "frame": 0,
        "flow_b": 1,
        "flow_f": 0,
        "hb": None,
        "hf": None,
        "output": None,
    }
    assert facts.streams["hb"].nbytes == 64 * 180 * 320 * 4
    assert set(facts.batchable) == {"flow_b", "flow_f"}
    # The two flows of a frame, and the next frame's flow beside this frame's trunk.
    assert {("flow_b", "flow_f", 0), ("flow_f", "forward", -1), ("flow_b", "flow_b", 1)} <= set(
        facts.independent
    )
    assert ("flow_f", "forward", 0) not in facts.independent
    assert ("backward", "forward", 0) not in facts.independent


@pytest.mark.parametrize("edge", list(Edge))
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_a_window_looks_ahead_by_its_reach(edge: Edge, reach: int) -> None:
    facts = analyze(window(edge, reach))
    assert facts.latency == reach
    assert facts.batchable == ("net",)


def test_a_causal_recurrence_has_no_latency() -> None:
    program = Program(
        name="recurrent",
        frame=FRAME,
        streams={"frame": Stream(shape=PLANE, edge=Edge.REPLICATE), "output": Stream(shape=PLANE)},
        equations=(
            Equation(
                name="step",
                graph="step",
                inputs={"x": "frame[t]", "before": "frame[t-1]", "hidden": "output[t-1]"},
                outputs={"y": "output"},
            ),
        ),
    )
    facts = analyze(program)
    assert facts.latency == 0
    assert facts.batchable == ()
    assert facts.streams["output"].state


def test_a_keyframe_at_the_clips_end_needs_to_know_the_end() -> None:
    program = Program(
        name="keyframes",
        frame=FRAME,
        streams={"frame": Stream(shape=PLANE), "output": Stream(shape=PLANE)},
        equations=(
            Equation(
                name="key",
                graph="key",
                inputs={"x": "frame[t]"},
                outputs={"y": "output"},
                when="t % 5 == 0 or t == T - 1",
            ),
            Equation(
                name="plain",
                graph="plain",
                inputs={"x": "frame[t]"},
                outputs={"y": "output"},
                when="not (t % 5 == 0 or t == T - 1)",
            ),
        ),
    )
    assert analyze(program).latency == 1


def test_peak_of_a_window_is_its_frames_and_one_output() -> None:
    plane = 8 * 8 * 4
    assert peak_bytes(window(Edge.REPLICATE, 1), 10, 8, 8) == (3 + 1) * plane
    assert peak_bytes(window(Edge.REPLICATE, 1), 10, 16, 8) == 2 * (3 + 1) * plane


def test_peak_of_basicvsr_grows_with_the_clip_by_a_frame_and_a_state() -> None:
    program = basicvsr_program(64, 64)
    pixels = 64 * 64 * 4
    growth = peak_bytes(program, 40, 64, 64) - peak_bytes(program, 30, 64, 64)
    assert growth == 10 * (64 + 3) * pixels


def test_basicvsrs_schedule_runs_the_backward_sweep_first_and_emits_as_it_goes() -> None:
    steps = schedule(basicvsr_program(), 3).steps
    assert [str(s.call) for s in steps] == [
        "backward@2",
        "flow_b@1",
        "backward@1",
        "flow_b@0",
        "backward@0",
        "forward@0",
        "flow_f@1",
        "forward@1",
        "flow_f@2",
        "forward@2",
    ]
    assert [e.t for s in steps for e in s.emits] == [0, 1, 2]
    assert steps[0].arrives == range(0, 3)
