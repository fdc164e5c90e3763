"""Backends race graph by graph. Paces are slept, so that which engine is fastest doesn't depend on luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from superlower.backends.base import Artifact, BuildOptions, Feeds, Outputs, Session
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.bundle.choices import RaceRecord
from superlower.bundle.manifest import MIXED, Variant
from superlower.check.bisect import bisect
from superlower.check.crosscheck import check_variant
from superlower.driver import race_timing
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle
from superlower.driver.export import golden_for
from superlower.errors import BadInputError, BuildFailedError, OutputsDifferError
from superlower.program.model import TemporalModel
from superlower.runtime.load import open_runner
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target
from support.clips import save_folder
from support.command import superlower
from support.models import bidirectional, recurrent, save_program
from support.wrong import Wrong

MS = 0.001


@dataclass(frozen=True)
class Paced(Wrong):
    """Right by default, and as slow at each graph as it is told; may fail to build some, or run nowhere."""

    factor: float = 1.0
    pace: dict[str, float] = field(default_factory=dict, hash=False)
    fails: tuple[str, ...] = ()
    absent: str = ""

    def compile(self, model: object, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        if workdir.name in self.fails:
            raise BuildFailedError(f"{self.name} has no kernel for {workdir.name}")
        return super().compile(model, target, options, workdir)

    def load(self, artifact: Artifact, folder: Path) -> Session:
        return Sleeping(super().load(artifact, folder), self.pace.get(folder.name, 0.0))

    def runnable(self, target: Target) -> str | None:
        return self.absent or None


@dataclass
class Sleeping:
    session: Session
    seconds: float

    def run(self, feeds: Feeds) -> Outputs:
        time.sleep(self.seconds)
        return self.session.run(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        return self.session.submit(feeds)

    def reset(self) -> None:
        self.session.reset()

    def close(self) -> None:
        self.session.close()


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_timing, "ROUNDS", 3)
    monkeypatch.setattr(race_timing, "SHORTEST_S", 0.0)


@pytest.fixture
def run(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> Callable[..., Variant]:
    """Race backends over a model; the one variant of the bundle."""

    def raced(model: TemporalModel, *entrants: Wrong, precision: Precision = Precision.FP32) -> Variant:
        for entrant in entrants:
            install_backend(entrant)
        jobs = [Job(backend(e.name), target("cpu"), precision, named=False) for e in entrants]
        golden = golden_for(model, None, None)
        made = compile_bundle(
            model, jobs, golden, tmp_path / "bundle", options=BuildOptions(threads=1), racing=True
        )
        (variant,) = made.bundle.manifest.variants
        assert variant.name == f"auto-cpu-{precision}"
        return variant

    return raced


def record(variant: Variant) -> RaceRecord:
    assert variant.race is not None
    return variant.race


def makers(variant: Variant) -> dict[str, str]:
    return {graph: engine.backend for graph, engine in variant.engines.items()}


SWIFT_BACK = {"back": 1 * MS, "forth": 40 * MS}
SWIFT_FORTH = {"back": 40 * MS, "forth": 1 * MS}


def test_each_graph_goes_to_its_fastest(run: Callable[..., Variant], tmp_path: Path) -> None:
    variant = run(bidirectional(), Paced(name="one", pace=SWIFT_BACK), Paced(name="two", pace=SWIFT_FORTH))
    assert variant.backend == MIXED
    assert makers(variant) == {"back": "one", "forth": "two"}
    assert variant.measured is not None
    assert variant.measured.within(variant.tolerance)
    race = record(variant)
    assert race.basis == "measured"
    assert race.device == target("cpu").title
    assert race.reason.startswith("mixed: with ")
    times = {(g, e.backend): e.ms for g, engines in race.graphs.items() for e in engines}
    assert times["back", "one"] < 10 < times["back", "two"]
    assert times["forth", "two"] < 10 < times["forth", "one"]
    whole = {p.name: p for p in race.programs}
    assert whole["mixed"].ms < whole["one"].ms
    assert [name for name, one in whole.items() if not one.out] == ["mixed"]
    bundle = Bundle.open(tmp_path / "bundle")
    assert variant.backends == ("one", "two")
    assert bundle.why_not(variant) is None
    assert check_variant(bundle, variant, bundle.golden()).passed
    assert bisect(bundle, variant, bundle.golden()) is None
    assert bundle.pick(backend_name=MIXED) == variant
    with open_runner(bundle, variant) as runner:
        assert len(list(runner.run(bundle.golden().frames, total=8))) == 8
    assert sorted(p.name for p in (tmp_path / "bundle" / "variants").iterdir()) == [variant.name]


def test_one_backend_that_is_best_everywhere_makes_a_variant_of_its_own(run: Callable[..., Variant]) -> None:
    slow = Paced(name="one", pace={"back": 30 * MS, "forth": 30 * MS})
    variant = run(bidirectional(), slow, Paced(name="two"))
    assert variant.backend == "two"
    assert makers(variant) == {"back": "two", "forth": "two"}
    assert "no other is faster at any graph beyond noise" in record(variant).reason


def test_a_fast_engine_that_computes_wrongly_is_out(run: Callable[..., Variant]) -> None:
    wrong = Paced(name="one", factor=1.05)
    variant = run(recurrent(), wrong, Paced(name="two", pace={"step": 5 * MS}))
    assert variant.backend == "two"
    (engines,) = record(variant).graphs.values()
    out = {e.backend: e for e in engines}
    assert out["one"].error == pytest.approx(0.05, rel=0.9)
    assert "over 0.001" in out["one"].out
    assert out["two"].out == ""


@dataclass(frozen=True)
class Overfitted(Paced):
    """Right about the first frame it is ever called with, and off by a twentieth about all others."""

    def load(self, artifact: Artifact, folder: Path) -> Session:
        session = super().load(artifact, folder)
        known: list[Feeds] = []

        def run(feeds: Feeds) -> Outputs:
            known.append(feeds)
            factor = np.float32(1 if np.array_equal(feeds["x"], known[0]["x"]) else 1.05)
            return {name: factor * found for name, found in Sleeping.run(session, feeds).items()}

        session.run = run
        return session


def test_what_fails_the_check_gives_way_to_the_next(run: Callable[..., Variant]) -> None:
    fast = Overfitted(name="one")
    variant = run(recurrent(), fast, Paced(name="two", pace={"step": 5 * MS}))
    assert variant.backend == "two"
    race = record(variant)
    assert {p.name: p.out for p in race.programs}["one"].startswith("leaves tolerance over the golden clip")
    assert race.reason.startswith("two: one leaves tolerance")


def test_a_backend_without_one_graph_still_serves_the_others(run: Callable[..., Variant]) -> None:
    partial = Paced(name="one", fails=("forth",))
    variant = run(bidirectional(), partial, Paced(name="two", pace={"back": 30 * MS}))
    assert makers(variant) == {"back": "one", "forth": "two"}
    out = {(g, e.backend): e.out for g, engines in record(variant).graphs.items() for e in engines}
    assert out["forth", "one"] == "one has no kernel for forth"


def test_no_engine_for_a_graph_is_the_first_backends_failure(run: Callable[..., Variant]) -> None:
    with pytest.raises(BuildFailedError, match="one has no kernel for step"):
        run(recurrent(), Paced(name="one", fails=("step",)), Paced(name="two", fails=("step",)))


def test_nobody_right_is_an_error_that_names_the_graph(run: Callable[..., Variant], tmp_path: Path) -> None:
    with pytest.raises(OutputsDifferError, match=r"graph step can be taken: one: off by .*; two: off by"):
        run(recurrent(), Paced(name="one", factor=1.05), Paced(name="two", factor=0.9))
    assert not any(tmp_path.iterdir())


def test_far_slower_engines_are_called_once_and_told_of(
    run: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race_timing, "SURE_S", 0.1)
    variant = run(recurrent(), Paced(name="one", pace={"step": 0.3}), Paced(name="two"))
    (engines,) = record(variant).graphs.values()
    times = {e.backend: e for e in engines}
    assert len(times["one"].rounds_ms) == 1
    assert times["one"].ms >= 300
    assert len(times["two"].rounds_ms) == 3


def test_engines_that_cannot_run_here_are_out_if_others_can(run: Callable[..., Variant]) -> None:
    variant = run(recurrent(), Paced(name="one", absent="no card"), Paced(name="two", pace={"step": 5 * MS}))
    assert variant.backend == "two"
    (engines,) = record(variant).graphs.values()
    assert {e.backend: e.out for e in engines}["one"] == "can't be run here: no card"


def test_where_none_runs_figures_decide_and_say_so(run: Callable[..., Variant]) -> None:
    # The cpu target has no figures at all: the backends' order decides.
    variant = run(recurrent(), Paced(name="one", absent="no card"), Paced(name="two", absent="no card"))
    assert variant.backend == "one"
    assert variant.measured is None
    assert variant.unchecked == "no card"
    assert record(variant).basis == "unknown"


def test_states_inside_engines_are_refused(tmp_path: Path) -> None:
    job = Job(backend("onnxruntime"), target("cpu"), Precision.FP32)
    with pytest.raises(BadInputError, match="leave out --state engine"):
        compile_bundle(
            recurrent(),
            [job],
            golden_for(recurrent(), None, None),
            tmp_path / "bundle",
            options=BuildOptions(threads=1),
            states_inside=True,
            racing=True,
        )


class TestCommandLine:
    def test_the_verbs_take_a_mixed_variant(self, run: Callable[..., Variant], tmp_path: Path) -> None:
        run(bidirectional(), Paced(name="one", pace=SWIFT_BACK), Paced(name="two", pace=SWIFT_FORTH))
        bundle = tmp_path / "bundle"
        assert superlower("check", bundle).code == 0
        shown = superlower("inspect", bundle)
        assert "auto-cpu-fp32 is mixed: with " in shown.stderr
        speed = superlower("bench", "speed", bundle, "--rounds", 1, "-b", "mixed", "--quick", "--json")
        assert speed.code == 0, speed.stderr
        assert [row["name"] for row in speed.json["results"]] == ["auto-cpu-fp32"]
        clip = save_folder(tmp_path / "clip", 3, 16, 16)
        made = superlower("upscale", bundle, "-i", clip, "-o", tmp_path / "made")
        assert made.code == 0, made.stderr
        assert len(list((tmp_path / "made").iterdir())) == 3

    def test_auto_stands_alone(self, tmp_path: Path) -> None:
        model = save_program(recurrent(), tmp_path / "program")
        outcome = superlower("compile", model, "-o", tmp_path / "b", "-t", "cpu", "-b", "auto", "-b", "tvm")
        assert outcome.code == 2
        assert "--backend auto races every backend" in outcome.stderr

    def test_a_dry_run_names_the_variant(self, tmp_path: Path) -> None:
        model = save_program(recurrent(), tmp_path / "program")
        outcome = superlower("compile", model, "-o", tmp_path / "b", "-t", "cpu", "-b", "auto", "--dry-run")
        assert outcome.code == 0
        assert "would choose auto-cpu-fp32" in outcome.stderr
