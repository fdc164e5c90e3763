from __future__ import annotations

import pytest

from superlower.driver.progress import received


class Told:
    """What a progress was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.steps = 0

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append((title, total))

    def advance(self, note: str = "") -> None:
        self.steps += 1


@pytest.mark.parametrize(
    ("calls", "total", "steps"),
    [
        ((400_000, 999_999), 2_500_000, 0),
        ((1_000_000,), 2_500_000, 1),
        ((400_000, 2_400_000), 2_500_000, 2),
        ((400_000, 2_400_000, 2_500_000), 2_500_000, 3),
        ((3_000_000,), 3_000_000, 3),
        ((20_000,), 20_000, 1),
        ((1_900_000, 4_000_000), None, 4),
    ],
)
def test_a_download_is_a_stage_in_megabytes(calls: tuple[int, ...], total: int | None, steps: int) -> None:
    told = Told()
    on_bytes = received(told, "fetching weights")
    assert told.stages == []
    for done in calls:
        on_bytes(done, total)
    assert told.stages == [("fetching weights, MB", None if total is None else (total + 999_999) // 10**6)]
    assert told.steps == steps
