"""Passes that change results are held to what they cost over a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from superlower.errors import OutputsDifferError
from superlower.passes.base import Applied, QualityBudget, Site
from superlower.program.model import TemporalModel
from superlower.rewrites.base import ProgramPass, Rewritten
from superlower.rewrites.hoist_frames import HoistFrames
from superlower.rewrites.pipeline import apply, outputs_of
from superlower.rewrites.truncate_flow_levels import TruncateFlowLevels
from support.pyramids import FlowPyramid
from support.windows import WindowBuilder, clip, window

LOOSE = 100.0


@pytest.fixture(scope="module")
def model() -> TemporalModel:
    return FlowPyramid().model()


def test_a_pass_within_its_budget_says_what_it_cost(model: TemporalModel) -> None:
    _, (report,) = apply(model, [TruncateFlowLevels(budget_db=LOOSE)], clip(6))
    assert report.loss is not None
    assert 0 < report.loss.db <= report.loss.worst_db < LOOSE
    assert report.loss.before_db is None
    assert report.budget == QualityBudget(LOOSE, "asked for")
    assert report.deviation is not None
    assert report.deviation.relative > 0


def test_the_budget_is_the_boundary(model: TemporalModel) -> None:
    frames = clip(4)
    _, (report,) = apply(model, [TruncateFlowLevels(budget_db=LOOSE)], frames)
    assert report.loss is not None
    apply(model, [TruncateFlowLevels(budget_db=report.loss.db)], frames)
    below = float(np.nextafter(report.loss.db, 0))
    with pytest.raises(OutputsDifferError, match="over its budget") as refused:
        apply(model, [TruncateFlowLevels(budget_db=below)], frames)
    said = str(refused.value)
    assert said.startswith("pass truncate-flow-levels on program 'window' costs ")
    assert f"{report.loss.db:.3f} dB of PSNR" in said
    assert "for want of a ground truth" in said
    assert refused.value.exit_code == 4


def test_the_truth_decides_where_there_is_one(model: TemporalModel) -> None:
    """The truth is what the simplified model makes: nothing is lost, whatever moves."""
    frames = clip(4)
    simplified = TruncateFlowLevels().run(model).model
    pixels = [np.rint(np.clip(o[0].transpose(1, 2, 0), 0, 1) * 255) for o in outputs_of(simplified, frames)]
    truth = [picture.astype(np.uint8) for picture in pixels]
    _, (report,) = apply(model, [TruncateFlowLevels(budget_db=0.0)], frames, truth=truth)
    assert report.loss is not None
    assert report.loss.after_db == 100
    assert report.loss.db < 0
    assert report.loss.before_db is not None
    assert report.loss.before_db < 100


def test_a_loss_against_the_truth_is_told_by_its_scores(model: TemporalModel) -> None:
    frames = clip(4)
    pixels = [np.rint(np.clip(o[0].transpose(1, 2, 0), 0, 1) * 255) for o in outputs_of(model, frames)]
    truth = [picture.astype(np.uint8) for picture in pixels]
    with pytest.raises(OutputsDifferError, match=r"100\.00 to [0-9.]+ dB against the ground truth"):
        apply(model, [TruncateFlowLevels()], frames, truth=truth)


def test_exact_passes_have_no_loss(model: TemporalModel) -> None:
    _, reports = apply(model, [HoistFrames()], clip(4))
    assert [report.loss for report in reports] == [None]


def test_a_pass_that_found_nothing_cost_nothing(model: TemporalModel) -> None:
    after, (report,) = apply(model, [TruncateFlowLevels(levels=3, budget_db=0.0)], clip(4))
    assert after is model
    assert report.loss is None


@dataclass(frozen=True)
class _Poison(ProgramPass):
    """NaN everywhere."""

    name: ClassVar[str] = "poison"
    budget: ClassVar[QualityBudget] = QualityBudget(float("inf"), "none")

    def run(self, model: TemporalModel) -> Rewritten:
        g = WindowBuilder()
        _, x = g.frames(-1, 0)
        poisoned = window(g, g.Mul(x, g.const(np.nan)), (-1, 0))
        return Rewritten(model.with_graphs(poisoned.graphs), Applied((Site("step", "poisoned"),)))


def test_no_budget_allows_nan(model: TemporalModel) -> None:
    with pytest.raises(OutputsDifferError, match="pass poison on program 'window': frame 0 holds NaN"):
        apply(model, [_Poison()], clip(3))
