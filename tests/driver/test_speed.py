"""Contenders in turns: order, medians, ratios within a round, equations, threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superlower.bundle.bundle import Bundle
from superlower.driver import speed
from superlower.driver.speed import Contender, back_and_forth, contenders, engine_threads, race, take_turns


class Clock:
    """Stands in for the `time` module; time passes where a contender says so, and in rests."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        """Two threads, always busy."""
        return 2 * self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rests.append(seconds)

    def contender(self, *seconds: float) -> Contender:
        """Takes these seconds, one after the other."""
        coming = iter(seconds)

        def run() -> None:
            self.now += next(coming)

        return Contender(run)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(speed, "time", fake)
    return fake


class Watch:
    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.notes: list[str] = []

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append((title, total))

    def advance(self, note: str = "") -> None:
        self.notes.append(note)


class TestTurns:
    def test_all_go_once_a_round_to_and_fro(self, clock: Clock) -> None:
        order: list[str] = []

        def goes(name: str) -> Callable[[], int]:
            return lambda: order.append(name) or len(order)  # type: ignore[func-returns-value]

        watch = Watch()
        results = take_turns({n: goes(n) for n in "abc"}, rounds=2, warmup=1, progress=watch)
        assert "".join(order) == "abccbaabc"
        # The first round, results 1 to 3, is dropped.
        assert results == {"a": [6, 7], "b": [5, 8], "c": [4, 9]}
        assert watch.stages == [("timing", 9)]
        assert watch.notes == list("abccbaabc")
        assert len(clock.rests) == 9

    def test_a_failure_isnt_hidden(self, clock: Clock) -> None:
        def fails() -> None:
            raise RuntimeError("engine gone")

        with pytest.raises(RuntimeError, match="engine gone"):
            take_turns({"a": fails}, rounds=1)


class TestRace:
    def test_medians_and_ratios_within_a_round(self, clock: Clock) -> None:
        ready = {"slow": clock.contender(99, 1, 2, 6), "fast": clock.contender(77, 0.5, 4, 1.5)}
        slow, fast = race(ready, 2, rounds=3)
        # Rests and the first round aren't in it; two frames a clip.
        assert slow.rounds_ms == pytest.approx((500, 1000, 3000))
        assert fast.rounds_ms == pytest.approx((250, 2000, 750))
        assert (slow.ms, fast.ms) == pytest.approx((1000, 750))
        assert slow.ratios == pytest.approx((1, 1, 1))
        assert fast.ratios == pytest.approx((2, 0.5, 4))
        # Not the ratio of medians, 1.33.
        assert fast.ratio == pytest.approx(2)
        assert (slow.name, fast.name) == ("slow", "fast")
        assert slow.equations == {}

    def test_a_slow_spell_of_the_machine_leaves_ratios_alone(self, clock: Clock) -> None:
        ready = {"a": clock.contender(1, 2, 20, 2), "b": clock.contender(1, 1, 10, 1)}
        _, b = race(ready, 1, rounds=3)
        assert b.ratios == pytest.approx((2, 2, 2))
        assert max(b.rounds_ms) == pytest.approx(10_000)

    def test_equations_count_calls_of_counted_rounds_only(self, clock: Clock) -> None:
        seconds: dict[str, list[float]] = {"flow": [], "trunk": [], "never": []}
        flows, trunks = iter([50, 50, 1, 3, 2, 6]), iter([90, 4, 8])

        def run() -> None:
            seconds["flow"] += [next(flows), next(flows)]
            seconds["trunk"].append(next(trunks))
            clock.now += 1

        (row,) = race({"engine": Contender(run, 2, seconds)}, 2, rounds=2)
        assert row.threads == 2
        assert row.equations.keys() == {"flow", "trunk"}
        flow, trunk = row.equations["flow"], row.equations["trunk"]
        assert (flow.calls, trunk.calls) == (2, 1)
        assert (flow.ms, trunk.ms) == (2500, 6000)
        assert (flow.share, trunk.share) == (0.5, 0.5)


def test_back_and_forth_never_stands_still() -> None:
    frames = [np.full((1, 1, 1, 1), i, np.float32) for i in range(3)]
    assert [int(f.item()) for f in back_and_forth(frames, 8)] == [0, 1, 2, 1, 0, 1, 2, 1]
    assert [int(f.item()) for f in back_and_forth(frames, 2)] == [0, 1]
    assert [int(f.item()) for f in back_and_forth(frames[:2], 3)] == [0, 1, 0]


class TestContenders:
    def test_pytorch_gets_the_engines_threads_for_the_time_of_the_race(self, recurrent_bundle: Path) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch isn't installed")
        bundle = Bundle.open(recurrent_bundle)
        (variant,) = bundle.manifest.variants
        # The fixture compiles with one thread; another number before shows who sets it.
        assert engine_threads(variant) == 1
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            seen: list[int] = []

            def reference(frames: object) -> list[np.ndarray]:
                seen.append(torch.get_num_threads())
                return []

            clip = bundle.golden().frames[:2]
            with contenders(bundle, [variant], clip, reference) as ready:
                assert list(ready) == [speed.PYTORCH, variant.name]
                assert {each.threads for each in ready.values()} == {1}
                first, second = race(ready, len(clip), rounds=2)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert seen == [1, 1, 1]
        assert first.equations == {}
        assert second.equations["step"].calls == 2
        assert second.equations["step"].share == 1
        # A call is part of a frame: the runner's own work comes on top.
        assert second.equations["step"].ms > 0

    def test_engines_alone_need_no_pytorch(self, recurrent_bundle: Path) -> None:
        bundle = Bundle.open(recurrent_bundle)
        with contenders(bundle, bundle.manifest.variants, bundle.golden().frames[:2]) as ready:
            (row,) = race(ready, 2, rounds=1, warmup=0)
        assert row.ratio == 1
        assert row.ms > 0
