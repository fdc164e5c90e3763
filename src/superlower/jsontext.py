"""JSON that can say infinity, for which msgspec writes null: "nothing" where "anything but" is meant."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import msgspec

ENDLESS = ("inf", "-inf", "nan")
"""What stands for a number that is none."""


def encode(value: object, enc_hook: Callable[[object], object] | None = None) -> bytes:
    """A value as compact JSON in which a number that is none is one of the strings `ENDLESS`.

    Args:
        value: whatever msgspec can encode.
        enc_hook: makes something encodable of anything else, as for `msgspec.json.encode`.
    """
    return msgspec.json.encode(_sayable(msgspec.to_builtins(value, enc_hook=enc_hook)))


def _sayable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
