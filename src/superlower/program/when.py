"""Predicates over the frame index t and the clip's length T: `t == 0`, `t % 5 == 0 or t == T - 1`."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache

from superlower.errors import BadInputError

Predicate = Callable[[int, int], bool]

_ALLOWED = (
    ast.Expression,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Mod,
    ast.FloorDiv,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
    ast.Load,
)


@lru_cache(maxsize=256)
def parse(text: str) -> Predicate:
    """Compile a predicate.

    The language: t, T, whole numbers, + - * // %, comparisons, and, or, not, true, false. // and % take a
    positive number on their right.

    Raises:
        BadInputError: anything else.
    """
    code = compile(_tree(text), "<when>", "eval")

    def holds(t: int, frames: int) -> bool:
        return bool(eval(code, {"__builtins__": {}}, {"t": t, "T": frames, "true": True, "false": False}))

    return holds


def constants(text: str) -> list[int]:
    """The whole numbers in a predicate: they bound where its behaviour can change."""
    return [
        n.value for n in ast.walk(_tree(text)) if isinstance(n, ast.Constant) and isinstance(n.value, int)
    ]


def moduli(text: str) -> list[int]:
    """The right-hand sides of % and // in a predicate: its periods."""
    return [
        node.right.value
        for node in ast.walk(_tree(text))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mod | ast.FloorDiv)
        and isinstance(node.right, ast.Constant)
        and isinstance(node.right.value, int)
    ]


def _tree(text: str) -> ast.Expression:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise _refuse(text, error.msg) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node.id not in {"t", "T", "true", "false"}:
                raise _refuse(text, f"unknown name '{node.id}'")
        elif isinstance(node, ast.Constant):
            if type(node.value) is not int:
                raise _refuse(text, f"{node.value!r} is not a whole number")
        elif not isinstance(node, _ALLOWED):
            raise _refuse(text, f"{type(node).__name__} is not allowed")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.FloorDiv):
            by = node.right
            if not (isinstance(by, ast.Constant) and type(by.value) is int and by.value > 0):
                raise _refuse(text, "% and // take a positive number on the right")
    return tree


def _refuse(text: str, reason: str) -> BadInputError:
    return BadInputError(f"when predicate '{text}': {reason}; write e.g. t == 0, t % 5 == 0 or t == T - 1")
