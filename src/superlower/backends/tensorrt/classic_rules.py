"""What classic TensorRT computes in which precision, by architecture and version, with the sources."""

from __future__ import annotations

from typing import Final, NamedTuple

import onnx_ir as ir

from superlower.backends.tensorrt.rules import Rule
from superlower.targets.base import Precision


class Since(NamedTuple):
    """From which architecture and version on, and why not before."""

    sm: int
    major: int
    why: str


PRECISIONS: Final = {
    Precision.BF16: Since(80, 9, "BF16 starts with Ampere (SM80) and TensorRT 9"),
    Precision.FP8: Since(89, 9, "FP8 starts with Ada (SM89) and TensorRT 9"),
}
"""Architectures: TensorRT 10.1 support matrix, table 2. Versions: onnx-tensorrt's changelog, 9.0 GA."""

LEVELS: Final = {"ampere_plus": 80, "same_compute_capability": 75}
"""First architecture that has a hardware compatibility level: the bindings' own documentation, 11.4."""

_FP8 = frozenset({ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2})

RULES: Final = (
    Rule(
        since=80,
        types=frozenset({ir.DataType.BFLOAT16}),
        reason="BF16 starts with Ampere (SM80)",
        cure=Precision.FP16,
    ),
    Rule(since=89, types=_FP8, reason="FP8 starts with Ada (SM89)"),
)


def unserved_precision(precision: Precision, sm: int, installed: str) -> str:
    """Why TensorRT doesn't compute in a precision on an architecture; "" if it does.

    Args:
        installed: version that is here; "" if none is, for what any version does.
    """
    since = PRECISIONS.get(precision)
    if since is None:
        return ""
    old = bool(installed) and int(installed.partition(".")[0]) < since.major
    return since.why if sm < since.sm or old else ""
