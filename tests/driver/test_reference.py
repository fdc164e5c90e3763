from __future__ import annotations

import numpy as np
import pytest

from superlower.bundle.golden import moving_texture
from superlower.driver.reference import (
    CAPTURED_FRAMES,
    reference_outputs,
    reference_sessions,
    validation_feeds,
)
from superlower.errors import UnsupportedOperatorError
from superlower.program.interpret import interpret
from superlower.program.model import Equation, Frame, Program, Stream, TemporalModel
from support.models import bidirectional, recurrent
from support.programs import call_graph, fixed_graph, graph_name

pytestmark = pytest.mark.usefixtures("quick_builds")


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


def test_outputs_are_the_interpreters() -> None:
    model = keyframes()
    clip = moving_texture(model.program.frame, 6)
    called: list[str] = []
    found = reference_outputs(model, clip, called.append)
    assert len(called) == 6
    # The same graphs with a free batch size, in sessions of the test's own.
    expected = interpret(model.program, clip, call_graph)
    assert all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_captured_feeds_are_of_the_last_call_over_the_first_frames() -> None:
    model = recurrent()
    clip = moving_texture(model.program.frame, 6)
    seeded, real = validation_feeds(model, clip)["step"]
    assert seeded.keys() == real.keys() == {"x", "hidden"}
    assert np.array_equal(real["x"], clip[CAPTURED_FRAMES - 1])
    with reference_sessions(model) as sessions:
        state = np.zeros((1, 4, 16, 16), np.float32)
        for frame in clip[: CAPTURED_FRAMES - 1]:
            state = sessions["step"].run({"x": frame, "hidden": state})["tanh"]
    assert np.array_equal(real["hidden"], state)
    other = validation_feeds(model, clip, seed=1)["step"][0]
    assert not np.array_equal(other["x"], seeded["x"])


def test_a_graph_that_the_first_frames_dont_call_has_a_seeded_feed_only() -> None:
    model = keyframes()
    feeds = validation_feeds(model, moving_texture(model.program.frame, 6))
    assert {name: len(found) for name, found in feeds.items()} == {
        graph_name(1, 1, 0): 1,
        graph_name(2, 1, 1): 2,
    }


def test_sessions_are_closed_and_their_files_gone_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from superlower.backends.session import PooledSession

    closed: list[PooledSession] = []
    close = PooledSession.close
    monkeypatch.setattr(PooledSession, "close", lambda self: (closed.append(self), close(self))[1])
    model = bidirectional()
    broken = model.graphs["forth"].clone()
    node = next(iter(broken.graph))
    node.op_type, node.domain = "Swoosh", "ai.example"
    broken.opset_imports["ai.example"] = 1
    with (
        pytest.raises(UnsupportedOperatorError, match="Swoosh"),
        reference_sessions(model.with_graphs({**model.graphs, "forth": broken})),
    ):
        pass
    assert len(closed) == 1
