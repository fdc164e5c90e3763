from __future__ import annotations

import pytest

from superlower.driver.memory import RUNTIMES, area_of, legalized, predict
from superlower.program import analysis
from support import models

EACH = pytest.mark.parametrize("backend", sorted(RUNTIMES))


@EACH
def test_a_larger_frame_takes_more_of_engines_and_streams_alone(backend: str) -> None:
    small, large = (predict(models.recurrent(side, side), backend, 5) for side in (64, 128))
    assert small.process == large.process
    assert small.engines < large.engines
    assert large.streams == 4 * small.streams == analysis.peak_bytes(models.recurrent().program, 5, 128, 128)
    assert large.total == large.process + large.engines + large.streams


@EACH
def test_a_frame_of_another_size_is_told_of_as_if_it_had_been_exported(backend: str) -> None:
    small, large = models.bidirectional(32, 48), models.bidirectional(96, 80)
    told = predict(legalized(small, backend), backend, 5, (96, 80))
    assert told == predict(legalized(large, backend), backend, 5)
    assert area_of(small.program.frame, 96, 80) == 5
