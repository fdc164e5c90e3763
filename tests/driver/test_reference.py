from __future__ import annotations

import numpy as np

from superlower.bundle.golden import moving_texture
from superlower.check.reference import reference_sessions
from superlower.driver.reference import CAPTURED_FRAMES, validation_feeds
from support.models import recurrent
from support.programs import graph_name, keyframes


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
