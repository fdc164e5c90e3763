"""Half-precision graphs: products are summed in float32, as tensor cores and other SDKs do.

    conv2d(x: float16, w: float16) -> float16
    astype(conv2d(x, w, out_dtype=float32), float16)

TVM's importer leaves the sum in the operands' type; over the 576 products of a 3x3 convolution of 64 channels
a float16 sum loses up to 576 * 2^-11 of its size.
"""

from __future__ import annotations

from inspect import signature
from operator import attrgetter
from typing import Any

from superlower.backends.tvm.calls import rewritten

SUMMING = ("nn.conv1d", "nn.conv2d", "nn.conv3d", "nn.conv1d_transpose", "nn.conv2d_transpose", "matmul")


def accumulate_in_float32(module: Any) -> Any:
    """Rewrite every sum of float16 products in an IRModule's Relax functions."""
    from tvm import relax

    def widened(builder: Any, kind: str, call: Any) -> Any:
        if kind not in SUMMING or any(str(operand.ty.dtype) != "float16" for operand in call.args):
            return call
        make = attrgetter(kind)(relax.op)
        options = list(signature(make).parameters)[len(call.args) :]
        attributes = {name: getattr(call.attrs, name) for name in options}
        wide = make(*call.args, **{**attributes, "out_dtype": "float32"})
        return relax.op.astype(builder.normalize(wide), "float16")

    return rewritten(module, widened)
