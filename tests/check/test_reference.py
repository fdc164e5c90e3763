from __future__ import annotations

import numpy as np
import pytest

from superlower.bundle.golden import moving_texture
from superlower.check.reference import reference_outputs, reference_sessions
from superlower.errors import UnsupportedOperatorError
from superlower.program.interpret import interpret
from support.models import bidirectional
from support.programs import call_graph, keyframes


def test_outputs_are_the_interpreters() -> None:
    model = keyframes()
    clip = moving_texture(model.program.frame, 6)
    called: list[str] = []
    found = reference_outputs(model, clip, called.append)
    assert len(called) == 6
    # The same graphs with a free batch size, in sessions of the test's own.
    expected = interpret(model.program, clip, call_graph)
    assert all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(found, expected, strict=True))


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
