"""Convolutions on tensor cores: what MetaSchedule needs to draw such schedules, and builds to repeat them.

A convolution of half-precision operands, summed in float32, becomes a product of matrices of 16x16 tiles: its
pixels along one side, its output channels along the other, summed over input channels and taps (Feng et al.,
"TensorIR: An Abstraction for Automatic Tensorized Program Optimization", ASPLOS 2023, section 4).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from superlower.backends.tvm import wmma

FIRST = 70
"""Compute capability of the oldest GPUs that have them: Volta."""
TENSORIZE = '"Tensorize"'
"""The step of a schedule's trace, as JSON, that puts a loop nest on tensor cores."""
USED = "superlower.tensor_cores"
"""Attribute of a function that is scheduled so."""
OUTER, INNER = "SSSRRSRS", 4
BINDS = ("blockIdx.y", "blockIdx.x", "threadIdx.y")
_PACKAGE = "tvm.s_tir.tensor_intrin"


def have(attributes: Mapping[str, Any]) -> bool:
    """Whether the GPU of TVM's target dictionary has tensor cores."""
    return int(str(attributes.get("arch", "sm_0")).removeprefix("sm_")) >= FIRST


def leave_intrinsics() -> None:
    """Keep TVM from parsing the tensor intrinsics of every processor, which takes 19 s: `wmma` has ours."""
    import tvm

    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(Path(tvm.__file__).parent / "s_tir" / "tensor_intrin")]
        sys.modules[_PACKAGE] = package


def rule() -> Any:
    """MetaSchedule's rule for them: operands and sums pass through shared memory, in 16x16x16 products.

    Its own choice of shared memory is of a size known at launch, which TVM 0.27 then merges, float32 over
    float16, and fails on.
    """
    from tvm.s_tir.meta_schedule.schedule_rule import MultiLevelTilingTensorCore, ReuseType

    groups = [wmma.intrinsics(transposed) for transposed in (False, True)]
    return MultiLevelTilingTensorCore(
        groups,
        OUTER,
        list(BINDS),
        INNER,
        [1, 2, 4, 8],
        ReuseType("must", [4], "shared"),
        ReuseType("must", [2], "shared"),
        False,
    )


def marked(function: Any, trace: str) -> Any:
    """A function scheduled by a trace, told apart if that puts it on tensor cores."""
    return function.with_attr(USED, True) if TENSORIZE in trace else function


def using(module: Any) -> list[str]:
    """Names of a module's functions that are marked."""
    from tvm import tirx

    return [
        str(name.name_hint)
        for name, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc) and USED in (function.attrs or {})
    ]
