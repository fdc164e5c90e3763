"""Which engines make the program, from times alone."""

from __future__ import annotations

import pytest

from superlower.driver.race_choice import ESTIMATE_MARGIN, Time, candidates, ranked, worth_timing

CALLS = {"flow": 2.0, "trunk": 1.0}


def rounds(*ms: float) -> Time:
    return Time.of([m / 1000 for m in ms])


def test_a_time_is_the_median_of_its_rounds_by_count() -> None:
    time = Time.of([0.4, 0.1, 0.2], count=2)
    assert time.rounds == pytest.approx((200, 50, 100))
    assert time.ms == pytest.approx(100)


@pytest.mark.parametrize(
    ("own", "other", "beats"),
    [
        (rounds(1, 2, 3), rounds(2, 3, 4), True),
        (rounds(1, 2, 4), rounds(2, 3, 4), False),  # equal in one round
        (rounds(1, 1, 9), rounds(5, 5, 5), False),  # far faster, but not always
        (rounds(1, 2, 3), rounds(9), True),  # dropped after a call
        (rounds(9), rounds(1, 2, 3), False),
        (Time(1.0), Time(ESTIMATE_MARGIN + 0.01), True),
        (Time(1.0), Time(ESTIMATE_MARGIN - 0.01), False),
    ],
)
def test_faster_beyond_noise(own: Time, other: Time, beats: bool) -> None:
    assert own.beats(other) is beats


def test_a_graph_leaves_the_best_backend_only_for_one_that_is_faster_in_every_round() -> None:
    times = {
        "flow": {"a": rounds(10, 10, 10), "b": rounds(8, 8, 8)},
        "trunk": {"a": rounds(50, 50, 50), "b": rounds(49, 49, 51)},
    }
    singles, mixed = candidates(times, {"flow": 1, "trunk": 10})
    assert [one.name for one in singles] == ["b", "a"]
    assert mixed is None
    times["trunk"]["b"] = rounds(80, 80, 80)
    singles, mixed = candidates(times, CALLS)
    assert [(one.name, one.expected_ms) for one in singles] == [("a", 70), ("b", 96)]
    assert mixed is not None
    assert dict(mixed.backends) == {"flow": "b", "trunk": "a"}
    assert mixed.expected_ms == pytest.approx(66)


def test_the_fastest_of_several_that_beat_the_best() -> None:
    times = {
        "flow": {"a": rounds(10, 10), "b": rounds(8, 8), "c": rounds(5, 5)},
        "trunk": {"a": rounds(10, 10), "b": rounds(90, 90), "c": rounds(90, 90)},
    }
    _, mixed = candidates(times, CALLS)
    assert mixed is not None
    assert dict(mixed.backends) == {"flow": "c", "trunk": "a"}


def test_no_backend_alone_covers_every_graph() -> None:
    times = {"flow": {"a": rounds(1, 1)}, "trunk": {"b": rounds(9, 9), "c": rounds(3, 3)}}
    singles, mixed = candidates(times, CALLS)
    assert singles == []
    assert mixed is not None
    assert dict(mixed.backends) == {"flow": "a", "trunk": "c"}
    assert worth_timing(singles, mixed) == []
    order, reason = ranked(singles, mixed, {})
    assert order == [mixed]
    assert "no backend alone" in reason


def test_only_programs_near_the_fastest_are_timed_as_a_whole() -> None:
    times = {"trunk": {"a": rounds(10, 10), "b": rounds(14, 14), "c": rounds(16, 16)}}
    singles, mixed = candidates(times, {"trunk": 1})
    assert mixed is None
    assert [one.name for one in worth_timing(singles, mixed)] == ["a", "b"]
    assert worth_timing(singles[:1], None) == []


TIMES = {
    "flow": {"a": rounds(10, 10, 10), "b": rounds(8, 8, 8)},
    "trunk": {"a": rounds(50, 50, 50), "b": rounds(80, 80, 80)},
}


class TestRanked:
    def test_the_mix_is_taken_where_it_is_faster_as_a_whole(self) -> None:
        singles, mixed = candidates(TIMES, CALLS)
        whole = {"a": rounds(70, 71, 70), "mixed": rounds(66, 66, 60)}
        order, reason = ranked(singles, mixed, whole)
        assert [one.name for one in order] == ["mixed", "a", "b"]
        assert "flow on b a frame is 1.08 times as fast as on a alone" in reason
        assert "each of 3 rounds" in reason

    def test_and_else_the_best_backend_alone(self) -> None:
        singles, mixed = candidates(TIMES, CALLS)
        order, reason = ranked(singles, mixed, {"a": rounds(70, 65, 70), "mixed": rounds(66, 66, 60)})
        assert [one.name for one in order] == ["a", "b", "mixed"]
        assert "faster in 2 of 3 rounds, which is noise" in reason

    def test_whole_frames_decide_between_single_backends(self) -> None:
        times = {"trunk": {"a": rounds(10, 10), "b": rounds(11, 11)}}
        singles, mixed = candidates(times, {"trunk": 1})
        order, _ = ranked(singles, mixed, {"a": rounds(15, 15), "b": rounds(12, 12)})
        assert [one.name for one in order] == ["b", "a"]

    def test_an_estimated_mix_needs_no_timing(self) -> None:
        times = {
            "flow": {"a": Time(10.0), "b": Time(1.0)},
            "trunk": {"a": Time(50.0), "b": Time(80.0)},
        }
        singles, mixed = candidates(times, CALLS)
        order, reason = ranked(singles, mixed, {})
        assert order[0].name == "mixed"
        assert "estimated" in reason
