"""Weights as the GPU schedules read them: a convolution's output channels side by side in memory.

    conv2d(x, w: OIHW)
    conv2d(x, transpose(w): IHWO, kernel_layout="IHWO")

Threads of a block load neighbouring weights, and a thread's own channels are one vector.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from superlower.backends.tvm.calls import rewritten

AXES = {"nn.conv1d": "OIW", "nn.conv2d": "OIHW", "nn.conv3d": "OIDHW"}


def weights_channels_last(module: Any) -> Any:
    """Rewrite every ungrouped convolution of constant weights in an IRModule's Relax functions."""
    import numpy as np
    import tvm
    from tvm import relax

    def transposed(_: Any, kind: str, call: Any) -> Any:
        axes = AXES.get(kind)
        if axes is None or call.attrs.kernel_layout != axes or int(call.attrs.groups) != 1:
            return call
        data, weight = call.args
        if not isinstance(weight, tvm.ir.expr.GenericConst):
            return call
        last = np.ascontiguousarray(np.moveaxis(weight.value.numpy(), 0, -1))
        make = getattr(relax.op.nn, kind.removeprefix("nn."))
        options = list(signature(make).parameters)[len(call.args) :]
        attributes = {name: getattr(call.attrs, name) for name in options}
        attributes["kernel_layout"] = axes[1:] + axes[0]
        return make(data, relax.const(last, str(last.dtype)), **attributes)

    return rewritten(module, transposed)
