"""Plans change when things are computed, not what; the fastest way beyond noise is kept, with all times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.check.crosscheck import check_variant
from superlower.driver import planning
from superlower.driver.building import Job
from superlower.driver.compile import Planning, compile_bundle
from superlower.driver.export import golden_for
from superlower.driver.upscale import upscale
from superlower.errors import BadInputError
from superlower.media.clip import open_clip
from superlower.program.model import TemporalModel
from superlower.program.plan import ExecutionPlan
from superlower.runtime.load import open_planned, open_runner
from superlower.runtime.runner import Runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.clips import save_video
from support.models import bidirectional, recurrent, window

Make = Callable[..., Bundle]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_video(tmp_path / "in.mp4", 9, 16, 16)


@pytest.fixture
def make(tmp_path: Path, clip: Path) -> Make:
    def made(model: TemporalModel, plan: ExecutionPlan | None = None, sdk: str = "onnxruntime") -> Bundle:
        job = Job(backend(sdk), target("cpu"), Precision.FP32)
        golden = golden_for(model, None, clip)
        output = tmp_path / "made.bundle"
        return compile_bundle(
            model, [job], golden, output, options=BuildOptions(threads=1), planning=Planning(plan)
        ).bundle

    return made


def pictures(folder: Path) -> list[np.ndarray]:
    with open_clip(folder) as found:
        return [picture.rgb for picture in found]


PLANS = {
    "overlap": (recurrent, ExecutionPlan(in_flight=2)),
    "tail": (recurrent, ExecutionPlan(tail_cut=True, in_flight=2)),
    "batched tails": (recurrent, ExecutionPlan(tail_cut=True, batch={"step_tail": 3})),
    "all": (
        recurrent,
        ExecutionPlan(tail_cut=True, batch={"step_tail": 2}, in_flight=2, pixels=True, threads=1),
    ),
    "whole clip": (bidirectional, ExecutionPlan(batch={"forth": 4}, pixels=True)),
    "window": (window, ExecutionPlan(batch={"step": 2}, in_flight=2)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_followed_and_gives_the_same_pictures(
    name: str, make: Make, clip: Path, tmp_path: Path
) -> None:
    build, plan = PLANS[name]
    bundle = make(build(), plan)
    variant = bundle.pick()
    assert variant.planned is not None
    assert variant.planned.plan == plan
    assert check_variant(bundle, variant, bundle.golden()).passed
    for way, planned in (("as-planned", True), ("plainly", False)):
        upscale(bundle, variant, clip, tmp_path / way, planned=planned)
    found, expected = pictures(tmp_path / "as-planned"), pictures(tmp_path / "plainly")
    assert len(found) == 9
    # Levels may round the other way where sums of the graphs' halves do.
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(found, expected, strict=True)) <= 1
    if name == "overlap":
        assert all(map(np.array_equal, found, expected))


def test_overlap_is_bit_equal(make: Make) -> None:
    bundle = make(recurrent(), ExecutionPlan(in_flight=2))
    clip = bundle.golden().frames
    with open_runner(bundle, bundle.pick()) as plain, open_planned(bundle, bundle.pick()) as planned:
        assert all(map(np.array_equal, plain.run(clip, total=8), planned.run(clip, total=8)))


def test_the_fastest_way_beyond_noise_is_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def lap(runner: Runner, _: Sequence[object]) -> float:
        # Batches save a lot, pixels within noise, all else costs.
        seconds = 1.0 + 0.1 * (runner._in_flight - 1) + 0.05 * (len(runner.seconds) - 1)
        return seconds - 0.4 * bool(runner._batches) - 0.01 * (runner.program.frame.pixels is not None)

    monkeypatch.setattr(planning, "_lap", lap)
    bundle = make(recurrent())
    planned = bundle.pick().planned
    assert planned is not None
    assert planned.plan == ExecutionPlan(tail_cut=True, batch={"step_tail": 4})
    assert planned.program == "variants/onnxruntime-cpu-fp32/plan/program.json"
    assert planned.engines.keys() == {"step", "step_tail"}
    assert planned.batched.keys() == {"step_tail"}
    rows = {one.name: one for one in planned.tried}
    assert rows["one call after another"].ms == pytest.approx(1000 / 8)
    assert rows["2 in flight"].out == "not beyond noise"
    assert rows["tail cut off, step_tail by 4"].out == ""
    assert rows["tail cut off, step_tail by 4, pixels in the graphs"].out == "not beyond noise"
    assert check_variant(bundle, bundle.pick(), bundle.golden()).passed


def test_nothing_pays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_lap", lambda *_: 1.0)
    bundle = make(recurrent())
    planned = bundle.pick().planned
    assert planned is not None
    assert planned.plan == ExecutionPlan()
    assert not planned.engines
    assert not list(bundle.folder.rglob("plan"))


def test_a_way_whose_outputs_differ_is_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_lap", lambda *_: 1.0)
    monkeypatch.setattr(planning.Planner, "_differs", lambda *_: "its outputs aren't the same, bit for bit")
    planned = make(recurrent()).pick().planned
    assert planned is not None
    (row,) = (one for one in planned.tried if one.name == "2 in flight")
    assert row.ms is None
    assert "bit for bit" in row.out


def test_a_target_that_isnt_here(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "why_not", lambda *_: "no such device")
    planned = make(recurrent()).manifest.variants[0].planned
    assert planned is not None
    assert planned.plan == ExecutionPlan()
    assert planned.reason == "not measured, so one call after another: no such device"


@pytest.mark.parametrize(
    ("model", "plan", "reason"),
    [
        (window, ExecutionPlan(tail_cut=True), "no tail to cut off"),
        (recurrent, ExecutionPlan(batch={"step": 2}), "can't be batched"),
        (recurrent, ExecutionPlan(states="engine"), "keeps no hidden states"),
    ],
)
def test_a_plan_that_cant_be_followed(
    make: Make, tmp_path: Path, model: Callable[[], TemporalModel], plan: ExecutionPlan, reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        make(model(), plan)
    assert not (tmp_path / "made.bundle").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no plan"),
        ('{"in_flights": 2}', "is no plan"),
        ('{"in_flight": 0}', "1 or more"),
        ('{"batch": {"step": 1}}', "a batch 2 or more"),
        ('{"states": "nowhere"}', "'host' or 'engine'"),
    ],
)
def test_files_that_hold_no_plan(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BadInputError, match=reason):
        planning.read_plan(tmp_path / "plan.json")
    with pytest.raises(BadInputError, match="can't read the plan"):
        planning.read_plan(tmp_path / "absent.json")
