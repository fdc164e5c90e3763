"""Names and shapes of what a rewrite adds to a program."""

from __future__ import annotations

import re

from superlower.program.model import Program


def unused(stem: str, taken: set[str]) -> str:
    """A name that nothing has, taken from now on."""
    stem = re.sub(r"\W", "_", stem)
    name, count = stem, 2
    while name in taken:
        name, count = f"{stem}_{count}", count + 1
    taken.add(name)
    return name


def relative_shape(program: Program, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """A stream's shape: its last two sizes follow the frame's where they divide one another."""
    found: list[int | str] = list(shape)
    if len(shape) >= 4:
        for axis, side, size in zip((-2, -1), "HW", program.frame.padded, strict=True):
            found[axis] = _relative(shape[axis], side, size)
    return tuple(found)


def _relative(size: int, side: str, frame: int) -> int | str:
    if size == frame:
        return side
    if size and size % frame == 0:
        return f"{size // frame}*{side}"
    return f"{side}/{frame // size}" if size and frame % size == 0 else size
