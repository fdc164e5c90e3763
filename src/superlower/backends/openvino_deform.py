"""The process's openvino.Core. It reads ONNX's DeformConv, which OpenVINO by itself (2026.4) can't."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def shared_core() -> Any:
    """The one openvino.Core of this process; what it reads and writes as IR, any other Core reads.

    On processors with AMX each Core gives the thread that makes it a stack for signal handlers, and puts
    the stack from before back when it goes (2026.4). Of two Cores of which the first goes first, the second
    puts back memory that is freed, and the next Ctrl-C ends the process with a segmentation fault.
    """
    import openvino
    from openvino.frontend import ConversionExtension

    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", _convert))
    return core


def is_plugged(device: str) -> bool:
    """Whether OpenVINO finds a device of this kind ("CPU", "GPU") here."""
    return device in {name.partition(".")[0] for name in shared_core().available_devices}


def _convert(node: Any) -> Any:
    """DeformConv-19 or -22 as DeformableConvolution-8: the same arithmetic, offsets before the weights.

    bilinear_interpolation_pad takes pixels outside the image as zeros one by one, as ONNX does; without it a
    position outside by any fraction would be zero as a whole.
    """
    import numpy as np
    from openvino import opset8

    x, weight, offset, *optional = (node.get_input(i) for i in range(node.get_input_size()))
    bias, mask = (*(_given(value) for value in optional), None, None)[:2]
    axes = len(x.get_partial_shape()) - 2
    ones, zeros = [1] * axes, [0] * (2 * axes)
    pads = list(node.get_attribute("pads", zeros))
    found = opset8.deformable_convolution(
        x,
        offset,
        weight,
        list(node.get_attribute("strides", ones)),
        pads[:axes],
        pads[axes:],
        list(node.get_attribute("dilations", ones)),
        mask=mask,
        group=int(node.get_attribute("group", 1)),
        deformable_group=int(node.get_attribute("offset_group", 1)),
        bilinear_interpolation_pad=True,
    )
    if bias is not None:
        shape = opset8.constant(np.array([1, -1, *[1] * axes]))
        found = opset8.add(found, opset8.reshape(bias, shape, False))
    return found.outputs()


def _given(value: Any) -> Any:
    """An optional input, None where it is left out."""
    return None if value.get_node().get_type_name() == "NullNode" else value
