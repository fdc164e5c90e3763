"""What TensorRT-RTX 1.7.1.116 builds for which architecture: measured by building, one node at a time.

Its own support matrix (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html)
has the same SM numbers but 80: plans for it are built, running one is not supported by NVIDIA.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from superlower.backends.tensorrt.rules import KnownRefusal, Rule
from superlower.targets.base import Precision

ARCHITECTURES: Final = (75, 80, 86, 89, 120, 121)
"""SM numbers for which set_compute_capability returns True."""

BUILD_ONLY: Final = frozenset({80})
"""SM numbers built for, but absent from the support matrix."""

SINCE: Final = {Precision.BF16: 80, Precision.INT8: 80, Precision.FP8: 89}
"""First SM number that computes in a precision; the others do everywhere."""

WHY_NOT: Final = {
    Precision.BF16: "Turing has no BF16",
    Precision.INT8: "on Turing quantized convolutions silently run as FP32: use fp16, or force it",
    Precision.FP8: "FP8 starts with Ada (SM89)",
}

_NEVER = 1000
_BF16 = frozenset({ir.DataType.BFLOAT16})
_FLOAT = frozenset({ir.DataType.FLOAT})
_FP8 = frozenset(
    {
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)

RULES: Final = (
    Rule(
        since=80,
        types=_FLOAT,
        reason="FP32 matrix products are not built for Turing",
        ops=frozenset({"MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN"}),
        cure=Precision.FP16,
    ),
    Rule(
        since=80,
        types=_FLOAT,
        reason="FP32 3-D convolutions are not built for Turing",
        ops=frozenset({"Conv", "ConvTranspose"}),
        rank=5,
        cure=Precision.FP16,
    ),
    Rule(
        since=_NEVER,
        types=_BF16,
        reason="BF16 transposed convolutions are not built for any architecture",
        ops=frozenset({"ConvTranspose"}),
        cure=Precision.FP16,
    ),
    Rule(since=80, types=_BF16, reason="Turing has no BF16"),
    Rule(since=89, types=_FP8, reason="FP8 starts with Ada (SM89)"),
    Rule(
        since=80,
        types=frozenset({ir.DataType.INT8}),
        reason="quantized convolutions run as FP32 on Turing",
        ops=frozenset({"QuantizeLinear", "DequantizeLinear"}),
        silent=True,
    ),
)

_NO_RULE = "the parser has no rule for it"
_NO_PLUGINS = "the parser has no rule for it, and this SDK takes no plug-ins"

REFUSED: Final = (
    KnownRefusal("DeformConv", _NO_PLUGINS),
    KnownRefusal("Col2Im", _NO_PLUGINS),
    KnownRefusal("AffineGrid", _NO_PLUGINS),
    KnownRefusal("QLinearConv", _NO_RULE),
    KnownRefusal("ConvInteger", _NO_RULE),
    KnownRefusal("DynamicQuantizeLinear", _NO_RULE),
    KnownRefusal("NonZero", _NO_RULE),
    KnownRefusal("RoiAlign", _NO_RULE),
    KnownRefusal("ScatterElements", "reductions are refused", "reduction"),
    KnownRefusal("ScatterND", "reductions are refused", "reduction"),
    KnownRefusal("Resize", "antialias is refused", "antialias"),
    KnownRefusal(
        "Resize",
        "this coordinate transformation is refused",
        "coordinate_transformation_mode",
        frozenset({"half_pixel_symmetric", "tf_crop_and_resize"}),
    ),
    KnownRefusal("AveragePool", "dilations are refused", "dilations"),
)
"""Refusals by the parser, for machines without the SDK."""
