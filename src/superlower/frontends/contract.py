"""The frame contract and stream sizes of a model that is known by its graphs' shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from superlower.errors import BadInputError
from superlower.program.model import Frame

_COLORS = {3: "rgb", 1: "y"}


def frame_contract(given: Sequence[int], made: Sequence[int], *, name: str) -> Frame:
    """The contract of a model that makes frames shaped `made` from frames shaped `given`, both [1, C, H, W].

    Three channels are RGB and one is luma, in 0..1.

    Raises:
        BadInputError: not such shapes, or the sides don't grow by one whole factor; it names `name`.
    """
    for role, shape in (("input", given), ("output", made)):
        if len(shape) != 4 or shape[0] != 1 or shape[1] not in _COLORS:
            raise BadInputError(
                f"{name}: {role} is {shape_text(shape)}, not one frame of 1x3xHxW (RGB) or 1x1xHxW (luma)"
            )
    if given[1] != made[1]:
        raise BadInputError(f"{name}: {given[1]} channels go in and {made[1]} come out: they must be as many")
    height, width = given[2:]
    scale = made[2] // height
    if scale < 1 or (made[2], made[3]) != (scale * height, scale * width):
        raise BadInputError(
            f"{name}: {width}x{height} becomes {made[3]}x{made[2]}, which is no whole scale of both sides"
        )
    return Frame(height=height, width=width, channels=given[1], color=_COLORS[given[1]], scale=scale)


def stream_sizes(shape: Sequence[int], frame: Frame) -> tuple[int | str, ...]:
    """A static [N, C, k H, k W] shape in terms of the frame's sides H and W; any other as it is."""
    if len(shape) != 4 or shape[2] % frame.height or shape[3] % frame.width:
        return tuple(shape)
    times = shape[2] // frame.height
    if times == 0 or times != shape[3] // frame.width:
        return tuple(shape)
    prefix = f"{times}*" if times > 1 else ""
    return (shape[0], shape[1], f"{prefix}H", f"{prefix}W")


def shape_text(shape: Sequence[int]) -> str:
    """A shape for messages: 1x3x64x64, and ? where a size isn't known."""
    return "x".join("?" if size < 0 else str(size) for size in shape) or "a scalar"
