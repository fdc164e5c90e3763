from __future__ import annotations

from dataclasses import replace
from math import ceil, prod

import pytest

from superlower.driver.memory import HEADROOM, legalized, predict, video_bytes
from superlower.driver.memory_plan import CHUNKS, Plan, Request, plan_memory, sides, tilings
from superlower.errors import BadInputError
from superlower.program.tiles import spans, tiles
from support import models

BACKEND = "openvino"
SIZE = (288, 352)


@pytest.fixture(scope="module")
def whole() -> Request:
    """A program that sweeps backward, and a video larger than its export; no limit."""
    return Request(legalized(models.bidirectional(32, 32), BACKEND), BACKEND, SIZE, 2**60, 300, overlap=8)


def taken(request: Request, plan: Plan) -> int:
    return plan_memory(replace(request, limit=ceil(plan.peak.total / HEADROOM) + 1)).peak.total


@pytest.mark.parametrize(
    ("length", "overlap", "multiple"), [(352, 8, 1), (352, 32, 4), (97, 0, 1), (64, 40, 2)]
)
def test_sides_are_the_smallest_of_their_number(length: int, overlap: int, multiple: int) -> None:
    found = list(sides(length, overlap, multiple, 8))
    assert found[0] == (length, 1)
    assert [count for _, count in found] == sorted({count for _, count in found})
    for size, count in found[1:]:
        assert size % multiple == 0
        assert len(spans(length, size, overlap, multiple)) == count
        if size - multiple > 2 * overlap:
            assert len(spans(length, size - multiple, overlap, multiple)) > count


def test_tiles_no_graph_takes_arent_tried(whole: Request) -> None:
    program = whole.model.program
    found = tilings(program, SIZE, 8)
    assert found[0] == (SIZE, 1, 1), "the least work: no overlap"
    areas = [rows * columns * prod(tile) for tile, rows, columns in found]
    assert areas == sorted(areas)
    assert min(min(tile) for tile, _, _ in found) >= max(program.frame.minimum, 17)


def test_no_limit_means_the_whole_frame_and_clip(whole: Request) -> None:
    plan = plan_memory(whole)
    assert (plan.tile, plan.rows, plan.columns, plan.work) == (SIZE, 1, 1, 1.0)
    assert plan.cut.chunk is None
    assert plan.cut.tile_overlap is None
    engines = predict(whole.model, BACKEND, 300, SIZE)
    video = video_bytes(whole.model.program.frame, SIZE, SIZE, 300, 300)
    assert plan.peak == replace(engines, video=video)


def test_a_limit_is_kept_to_by_the_least_work(whole: Request) -> None:
    free = plan_memory(whole)
    before = free
    for share in (0.95, 0.8, 0.6):
        limit = round(free.peak.process + share * (free.peak.total - free.peak.process))
        plan = plan_memory(replace(whole, limit=limit))
        assert plan.peak.total <= limit
        assert plan.work >= before.work
        assert plan.cut.tiles == plan.rows * plan.columns
        laid = tiles(SIZE, plan.tile, 8)
        assert len(laid) == plan.cut.tiles
        if plan.cut.chunk is not None:
            assert plan.cut.chunk in CHUNKS
            assert plan.work > 1
        before = plan
    assert taken(whole, before) == before.peak.total, "what a plan takes is enough for it"


def test_what_cant_be_met_tells_what_can(whole: Request) -> None:
    with pytest.raises(
        BadInputError, match=r"at 288x352 through openvino takes ([0-9.]+) GB however it is cut"
    ) as no:
        plan_memory(replace(whole, limit=10**6))
    told = float(str(no.value).split("takes ")[1].split(" GB")[0])
    assert plan_memory(replace(whole, limit=round((told + 0.01) * 1e9))).peak.total <= (told + 0.01) * 1e9
    with pytest.raises(BadInputError, match="however it is cut"):
        plan_memory(replace(whole, limit=round((told - 0.01) * 1e9)))


def test_a_program_of_bounded_latency_streams(whole: Request) -> None:
    model = legalized(models.window(32, 32), BACKEND)
    plan = plan_memory(replace(whole, model=model, overlap=None))
    assert (plan.cut.chunk, plan.work) == (1, 1.0)


def test_an_encoder_holds_so_many_frames_and_no_more(whole: Request) -> None:
    frame = whole.model.program.frame
    few, many, more = (video_bytes(frame, SIZE, (64, 64), 4, frames) for frames in (5, 60, 600))
    assert few < many == more
