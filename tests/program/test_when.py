from __future__ import annotations

import pytest

from superlower.errors import BadInputError
from superlower.program import when


@pytest.mark.parametrize(
    ("text", "true_at"),
    [
        ("true", [0, 1, 2, 3, 4, 5, 6]),
        ("t == 0", [0]),
        ("t % 3 == 0 or t == T - 1", [0, 3, 6]),
        ("not (t < 2) and t < T - 2", [2, 3, 4]),
        ("0 < t <= 2", [1, 2]),
        ("t // 4 == 1", [4, 5, 6]),
        ("t == -1 + 3 * 2", [5]),
    ],
)
def test_holds_where_it_says(text: str, true_at: list[int]) -> None:
    holds = when.parse(text)
    assert [t for t in range(7) if holds(t, 7)] == true_at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t ==",
        "s == 0",
        "t == 0.5",
        "__import__('os')",
        "t.real",
        "t % T == 0",
        "t % 0 == 0",
        "[t]",
        "t ** 2",
        "'a'",
    ],
)
def test_refuses_anything_else(text: str) -> None:
    with pytest.raises(BadInputError, match="when predicate"):
        when.parse(text)
