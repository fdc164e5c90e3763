from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path

import msgspec

from superlower.jsontext import ENDLESS, encode


@dataclass(frozen=True)
class Row:
    values: tuple[float, ...]
    name: str = "inf"


class Held(msgspec.Struct):
    rows: list[Row]
    by_name: dict[str, float]
    note: str | None = None


def test_numbers_without_end_are_strings_and_all_else_is_as_msgspec_has_it() -> None:
    held = Held([Row((1.5, inf, 1e300)), Row((-inf, nan, 0.0))], {"a": nan, "b": 2})
    assert json.loads(encode(held)) == {
        "rows": [
            {"values": [1.5, "inf", 1e300], "name": "inf"},
            {"values": ["-inf", "nan", 0.0], "name": "inf"},
        ],
        "by_name": {"a": "nan", "b": 2},
        "note": None,
    }
    finite = Held([Row((0.1, 2.0))], {"a": 1e-9}, "x")
    assert encode(finite) == msgspec.json.encode(finite)


def test_the_strings_are_read_as_the_numbers() -> None:
    assert json.loads(encode([inf, -inf, nan])) == list(ENDLESS)
    assert [repr(float(text)) for text in ENDLESS] == [repr(inf), repr(-inf), repr(nan)]


def test_other_types_are_the_callers() -> None:
    assert encode({"x": Path("a") / "b", "y": inf}, str) == b'{"x":"a/b","y":"inf"}'
