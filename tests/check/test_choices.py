"""How routed programs are checked: engines are given the reference's choices, and their own are counted."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from superlower.backends.base import BuildOptions, Feeds, Outputs
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.golden import GOLDEN_FILE, GoldenClip, moving_texture
from superlower.check.bisect import _Beside, _WrongCallError
from superlower.check.crosscheck import check_variant
from superlower.check.reference import reference_outputs, reference_sessions, with_choices
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle, state_pairs
from superlower.driver.inspect_model import model_cost
from superlower.errors import BadInputError, OutputsDifferError
from superlower.passes.base import Budget
from superlower.passes.validate import compare
from superlower.program.model import TemporalModel
from superlower.program.routes import flips_accepted
from superlower.rewrites.hoist_frames import HoistFrames
from superlower.runtime.runner import Engine, Runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sharpen_where_busy.py"
FRAMES, PATCHES = 3, 20


@pytest.fixture(scope="module")
def model() -> TemporalModel:
    return runpy.run_path(str(EXAMPLE))["model"](48, 60, 0.28)


@pytest.fixture(scope="module")
def golden(model: TemporalModel) -> GoldenClip:
    frames = moving_texture(model.program.frame, FRAMES)
    return GoldenClip(tuple(frames), tuple(reference_outputs(model, frames)), "made up", "the reference")


def flipped(model: TemporalModel, golden: GoldenClip, patches: int) -> GoldenClip:
    """The clip of a reference that chooses otherwise for so many patches."""
    choices = np.array(with_choices(model, golden).choices["busy"])
    choices.ravel()[:patches] ^= 1
    with reference_sessions(model) as sessions:
        runner = Runner(model.program, {name: Engine(s) for name, s in sessions.items()})
        outputs = tuple(runner.run(golden.frames, total=FRAMES, choices={"busy": choices}))
    return replace(golden, outputs=outputs, choices={"busy": tuple(choices)})


def compiled(model: TemporalModel, golden: GoldenClip, output: Path) -> Bundle:
    job = Job(backend("onnxruntime"), target("cpu"), Precision.FP32)
    return compile_bundle(model, [job], golden, output, options=BuildOptions(threads=1)).bundle


def test_a_bundle_holds_the_references_choices(
    model: TemporalModel, golden: GoldenClip, tmp_path: Path
) -> None:
    bundle = compiled(model, golden, tmp_path / "b")
    chosen = np.array(bundle.golden().choices["busy"])
    assert chosen.shape == (FRAMES, 1, 1, 4, 5)
    assert chosen.dtype == np.int32
    assert 0 < chosen.mean() < 1
    (variant,) = bundle.manifest.variants
    found = check_variant(bundle, variant, bundle.golden())
    assert found.passed
    assert (found.flips, found.flips_accepted) == (0, 1)
    most, mean = model_cost(model, FRAMES), model_cost(model, FRAMES, bundle.golden().choices)
    assert most.calls["sharpen"] == PATCHES
    assert mean.calls["sharpen"] == pytest.approx(PATCHES * chosen.mean())


def test_a_flipped_choice_is_counted_and_moves_no_pixel(
    model: TemporalModel, golden: GoldenClip, tmp_path: Path
) -> None:
    (variant,) = compiled(model, flipped(model, golden, 1), tmp_path / "b").manifest.variants
    assert variant.measured is not None
    assert variant.measured.flips == 1
    assert max(variant.measured.max_abs) <= 1e-6
    with pytest.raises(OutputsDifferError, match="chooses otherwise than the reference for 2 patches"):
        compiled(model, flipped(model, golden, 2), tmp_path / "c")


def test_choices_of_other_shapes(model: TemporalModel, golden: GoldenClip) -> None:
    short = replace(golden, choices={"busy": with_choices(model, golden).choices["busy"][:2]})
    with pytest.raises(BadInputError, match=r"golden clip are \[2, 1, 1, 4, 5\], .*\[3, 1"):
        with_choices(model, short)


def test_choices_survive_the_disk(model: TemporalModel, golden: GoldenClip, tmp_path: Path) -> None:
    kept = with_choices(model, golden)
    kept.save(tmp_path / GOLDEN_FILE)
    loaded = GoldenClip.load(tmp_path / GOLDEN_FILE)
    assert np.array_equal(loaded.choices["busy"], kept.choices["busy"])
    golden.save(tmp_path / GOLDEN_FILE)
    assert GoldenClip.load(tmp_path / GOLDEN_FILE).choices == {}


def test_more_may_flip_the_less_precise_a_score_is() -> None:
    assert flips_accepted(1000, 0.0) == 0
    assert flips_accepted(1000, 1e-5) == 1
    assert flips_accepted(1000, 1e-3) == 2
    assert flips_accepted(1000, 16 / 255) == 125


@pytest.mark.parametrize(("budget", "flips", "passes"), [(0.0, 1, False), (1e-4, 1, True), (1e-4, 2, False)])
def test_a_pass_with_a_budget_may_flip_a_choice(budget: float, flips: int, passes: bool) -> None:
    before = np.zeros((1, 1, 6, 10), np.int32)
    after = before.copy()
    after.ravel()[:flips] = 1
    if passes:
        assert compare([{"c": before}], [{"c": after}], Budget(budget, ""), "here").relative == 0
    else:
        with pytest.raises(OutputsDifferError, match="here moved output 'c'"):
            compare([{"c": before}], [{"c": after}], Budget(budget, ""), "here")


class Choosing:
    """A session that chooses k for the first `count` patches of 60."""

    def __init__(self, count: int) -> None:
        self.made: NDArray[np.int32] = np.zeros((1, 1, 6, 10), np.int32)
        self.made.ravel()[:count] = 1

    def run(self, feeds: Feeds) -> Outputs:
        return {"choice": self.made}


def test_bisection_looks_for_more_flips_than_may_be() -> None:
    def beside(count: int) -> _Beside:
        return _Beside("g", Choosing(0), Choosing(count), frozenset(), 1e-3, lambda _: None)  # type: ignore[arg-type]

    assert not beside(1).run({})["choice"].any()
    with pytest.raises(_WrongCallError):
        beside(2).run({})


def test_what_rewrites_and_engines_leave_alone(model: TemporalModel) -> None:
    assert state_pairs(model.program, "sharpen") == ()
    result = HoistFrames().run(model)
    assert result.model.graphs.keys() == model.graphs.keys()
    assert ("sharpen", "routed: its graphs see windows of their inputs") in [
        (site.node, site.detail) for site in result.applied.refused
    ]
