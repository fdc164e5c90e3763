from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superlower.errors import BadInputError
from superlower.program.tiles import spans, tiles


@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 60), st.integers(0, 30))
def test_spans_cover_the_side_once_and_keep_their_distance(
    multiple: int, length: int, size: int, overlap: int
) -> None:
    length, size = multiple * max(length, size), multiple * size
    if size < length and (size - 2 * overlap) // multiple < 1:
        with pytest.raises(BadInputError, match="keep nothing"):
            spans(length, size, overlap, multiple)
        return
    found = spans(length, size, overlap, multiple)
    assert [p for span in found for p in span.kept] == list(range(length))
    for span in found:
        assert len(span.seen) == size
        assert span.seen.start % multiple == 0
        assert span.seen.start == 0 or span.kept.start - span.seen.start >= overlap
        assert span.seen.stop == length or span.seen.stop - span.kept.stop >= overlap
    # One fewer couldn't cover it.
    step = (size - 2 * overlap) // multiple * multiple
    assert (len(found) - 2) * step + size < length or len(found) == 1


def test_tiles_are_laid_row_by_row() -> None:
    found = tiles((48, 64), (32, 64), 8, 4)
    assert [(t.rows.seen, t.rows.kept) for t in found] == [
        (range(32), range(24)),
        (range(16, 48), range(24, 48)),
    ]
    assert {t.columns.kept for t in found} == {range(64)}


def test_a_tile_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(BadInputError, match="tiles of 32 pixels are larger than the frame's 16"):
        tiles((16, 64), (32, 64), 0)
