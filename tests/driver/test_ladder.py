"""The ladder: rungs as data, rows from what was measured, refusals in a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from superlower.bundle.bundle import Bundle
from superlower.driver import ladder as driver
from superlower.driver import side_by_side
from superlower.driver.entrants import Checkpoint, Kind
from superlower.driver.ladder_build import Asked, Built, build
from superlower.driver.ladder_plan import Group, Ladder, Rung, groups, parse, stored
from superlower.driver.progress import Silent
from superlower.driver.side_by_side import Placed
from superlower.driver.speed import Lap, SpeedRow
from superlower.errors import BadInputError, BuildFailedError, MissingSdkError
from superlower.report import ladder_pages
from superlower.targets.base import Precision

ASKED = Asked(model="lone", whole=Checkpoint(weights="random:0"), height=16, width=16)


class TestPlan:
    def test_our_own_begins_with_pytorch_and_stands_beside_every_published_stage(self) -> None:
        ladder = stored()
        assert (ladder.rung[0].backend, ladder.rung[0].precision) == ("pytorch", Precision.FP32)
        assert ladder.published is not None
        stages = [stage.name for stage in ladder.published.stage]
        assert {rung.beside for rung in ladder.rung if rung.beside} == set(stages)
        ratios = [round(ladder.published.ratio(name), 2) for name in stages]
        assert ratios == [1.0, 1.48, 2.0, 2.54, 4.24]

    def test_rungs_of_one_network_and_passes_share_a_bundle(self) -> None:
        a, b = Rung(name="a", backend="openvino"), Rung(name="b", backend="openvino", clips=2)
        c = Rung(name="c", backend="openvino", passes=("truncate-flow-levels",))
        d = Rung(name="d", backend="openvino", pruned=True)
        assert [[r.name for r in of] for of in groups([a, c, b, d]).values()] == [["a", "b"], ["c"], ["d"]]
        assert Group(passes=c.passes).name == "whole-truncate-flow-levels"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[[rung]", "is no ladder"),
            ("", "is no ladder"),
            ("rung = []", r"has no \[\[rung\]\]"),
            ('[[rung]]\nname = "a"\nbackend = "x"\nclip = 2', "unknown field `clip`"),
            ('[[rung]]\nname = "a"\nbackend = "x"\nprecision = "int7"', "int7"),
            ('[[rung]]\nname = "a"\nbackend = "x"\nclips = 0', "clips or in_flight under 1"),
            ('[[rung]]\nname = "a"\nbackend = "pytorch"\nclips = 2', "PyTorch eager, which has no passes"),
            ('[[rung]]\nname = "a"\nbackend = "x"\nbeside = "base"', "published stage of rung 'a'"),
            (2 * '[[rung]]\nname = "a"\nbackend = "x"\n', "two rungs named 'a'"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, said: str) -> None:
        with pytest.raises(BadInputError, match=said):
            parse(text, "mine.toml")


class TestBuild:
    def test_reasons_stand_in_the_rows(self, tmp_path: Path) -> None:
        rungs = [
            Rung(name="a", backend="openvno"),
            Rung(name="b", backend="onnxruntime", precision=Precision.INT8),
            Rung(name="c", backend="onnxruntime", precision=Precision.FP8),
        ]
        built = build(ASKED, Group(), rungs, tmp_path / "whole", Silent())
        assert not built.bundles
        assert "unknown backend 'openvno'" in built.reason(rungs[0])
        assert "--calibrate" in built.reason(rungs[1])
        assert built.reason(rungs[2])
        pruned = build(ASKED, Group(pruned=True), [replace_rung(rungs[0], pruned=True)], tmp_path, Silent())
        assert "--pruned" in pruned.reason(rungs[0])
        assert list(tmp_path.iterdir()) == []

    def test_engines_are_taken_from_a_bundle_of_the_same_weights_and_size(
        self, upscaler_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = Bundle.open(upscaler_bundle)
        monkeypatch.setattr("superlower.driver.export.frontend", lambda _: None)
        fetched = type("Fetched", (), {"sha256": ""})()
        monkeypatch.setattr("superlower.driver.ladder_build.fetch_weights", lambda *_: fetched)
        known = bundle.program.provenance.get("weights")
        asked = Asked(
            model=bundle.manifest.model,
            whole=Checkpoint(weights=known or "random:0"),
            height=bundle.program.frame.height,
            width=bundle.program.frame.width,
        )
        rung = Rung(name="a", backend="onnxruntime")
        other = msgspec.structs.replace(asked, height=asked.height + 1)
        if known:
            assert build(asked, Group(), [rung], tmp_path, Silent(), [bundle]).bundle(rung) is bundle
        monkeypatch.setattr(
            "superlower.driver.ladder_build._compile",
            lambda *_: (_ for _ in ()).throw(BuildFailedError("no")),
        )
        assert build(other, Group(), [rung], tmp_path / "x", Silent(), [bundle]).reason(rung) == "no"


def replace_rung(rung: Rung, **changes: object) -> Rung:
    return msgspec.structs.replace(rung, **changes)


class TestClimb:
    @pytest.fixture
    def measured(self, upscaler_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Ladder:
        """A ladder over a lone upscaler's bundle, with scores and times as given."""
        bundle = Bundle.open(upscaler_bundle)
        there = Built({"onnxruntime-cpu-fp32": bundle}, {"openvino-cpu-int8": "no clip"})
        monkeypatch.setattr(
            driver, "build", lambda asked, group, *_: there if not group.pruned else Built(why="-")
        )
        monkeypatch.setattr(driver, "_parameters", lambda *_: 1_500_000)
        scores = {"a": (30.0, 32.0), "b": (30.0, 31.5)}

        def score(wanted: object, rung: Rung, *_: object) -> driver.Scores:
            return driver.Scores(psnr=scores[rung.name], ssim=(0.9, 0.9))

        monkeypatch.setattr(driver, "_score", score)

        def place(
            entries: list, *, rounds: int, quick: bool, progress: object
        ) -> tuple[list[Placed], list[object]]:
            assert [e.entrant.kind for e in entries] == [Kind.EAGER, Kind.VARIANT]
            assert [e.entrant.clips for e in entries] == [1, 2]
            times = {"a": (8.0, 10.0), "b": (4.0, 2.0)}
            ratios = {"a": (1.0, 1.0), "b": (2.0, 5.0)}
            return [
                Placed(n, Precision.FP32, SpeedRow(n, 1.0, times[n], sum(ratios[n]) / 2, ratios[n]))
                for n in times
            ], []

        monkeypatch.setattr(driver, "place", place)
        text = """
            [published]
            name = "paper"
            source = "there"
            base = "one"
            stage = [
              { name = "one", parameters = 2e6, gflops = 4, ms = 9, megabytes = 3 },
              { name = "two", parameters = 1e6, gflops = 2, ms = 3, megabytes = 3 },
            ]
            rung = [
              { name = "a", backend = "pytorch" },
              { name = "b", backend = "onnxruntime", clips = 2, beside = "two" },
              { name = "c", backend = "openvino", precision = "int8" },
              { name = "d", backend = "openvino", pruned = true },
            ]
        """
        lines = text.split("rung = [")
        return parse("rung = [" + lines[1] + "\n" + lines[0], "test")

    def test_rows(self, measured: Ladder, tmp_path: Path) -> None:
        asked = msgspec.structs.replace(ASKED, truth=("clips/city",))
        found = driver.climb(
            asked, measured, tmp_path, clip_frames=4, scored_frames=2, rounds=2, progress=Silent()
        )
        a, b, c, d = found.steps
        assert (a.lost_db, a.change_db) == (0, {"city": 0})
        assert b.change_db == {"city": -0.25}
        assert b.lost_db == 0.25
        assert b.published_ratio == 3
        assert b.gflop is not None
        assert (c.why, d.why) == ("no clip", "-")
        assert c.placed is None
        page = ladder_pages.Page("title", found, measured.published, "system", {})
        text = page.markdown()
        assert "| b | 1.50 M |" in text
        assert "3.50 (2.00 to 5.00) |  | 3.00 (two) | -0.250 |" in text
        assert "not run: no clip" in text
        assert "| two | 1 M | 2 | 3 | 333.3 | 3 MB | 3.00 |" in text
        assert "3.50x, -0.25 dB" in page.plot()
        # Scores of the same engines aren't taken again.
        assert (tmp_path / driver.SCORES_FILE).is_file()

    def test_without_the_first_rung_there_is_no_ladder(self, measured: Ladder, tmp_path: Path) -> None:
        wrong = msgspec.structs.replace(measured, rung=measured.rung[2:])
        with pytest.raises(MissingSdkError, match="the first rung, c, can't be had: no clip"):
            driver.climb(ASKED, wrong, tmp_path, clip_frames=4, scored_frames=2, rounds=2, progress=Silent())


def test_one_that_fails_in_its_process_says_why_and_the_first_must_not(
    upscaler_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(upscaler_bundle)
    entrant = side_by_side.Entrant(
        name="a", kind=Kind.VARIANT, bundle=str(upscaler_bundle), variant="onnxruntime-cpu-fp32"
    )
    frames = list(bundle.golden().frames[:2])
    good = side_by_side.Entry(entrant, Precision.FP32, bundle, frames, 1.0)
    bad = replace(good, entrant=msgspec.structs.replace(entrant, name="b"))

    def fresh(entrant: object, count: int) -> object:
        if entrant.name == "b":  # type: ignore[attr-defined]
            raise BuildFailedError("no\ncompiler")
        return side_by_side.Fresh(load_ms=1, first_ms=2, peak_bytes=3)

    monkeypatch.setattr(side_by_side, "measure_fresh", fresh)
    monkeypatch.setattr(side_by_side, "fastest", lambda *_: None)
    placed, peaks = side_by_side.place([good, bad], rounds=1)
    assert peaks == []
    assert [one.why for one in placed] == ["", "no compiler"]
    assert placed[0].speed is not None
    assert placed[1].speed is None
    with pytest.raises(BuildFailedError):
        side_by_side.place([bad, good], rounds=1)


def test_laps_of_clips_side_by_side_count_all_their_frames() -> None:
    from superlower.driver.speed import Contender, rows

    contenders = {"one": Contender(lambda: None), "two": Contender(lambda: None)}
    laps = {name: [Lap(2.0, {})] for name in contenders}
    one, two = rows(contenders, laps, {"one": 4, "two": 8})
    assert (one.ms, two.ms, two.ratio) == (500, 250, 2)
