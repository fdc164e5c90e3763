"""DeformConv: masks, biases, groups, strides, dilations and pads, at both of its definitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from superlower.probes.case import Case, Tolerance
from superlower.probes.cases._build import (
    FP32,
    POSITION,
    Fixed,
    Floats,
    Input,
    Kind,
    kinds,
    probe,
    uniform,
    weights,
)
from superlower.probes.cases._sampling import sample

_BATCH, _OUT = 2, 6
_HEIGHT, _WIDTH = 8, 10


@dataclass(frozen=True)
class _Form:
    """A convolution's attributes. `reach` is how far offsets go, in pixels."""

    setting: str
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    group: int = 1
    offset_group: int = 1
    mask: bool = True
    bias: bool = True
    reach: float = 2.0

    @property
    def channels(self) -> int:
        """Of the image: as few as the groups allow, for tolerances grow with them."""
        return max(2 * self.group, self.offset_group)

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.pads
        return tuple(  # type: ignore[return-value]
            (size + pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                (_HEIGHT, _WIDTH),
                (top + bottom, left + right),
                self.dilations,
                self.kernel,
                self.strides,
                strict=True,
            )
        )


_FORMS = (
    _Form("plain", mask=False, bias=False),
    _Form("bias", mask=False),
    _Form("mask", bias=False),
    _Form("mask-bias"),
    _Form("pointwise", kernel=(1, 1), pads=(0, 0, 0, 0)),
    _Form("far", reach=14.0),
    _Form("kernel5x3", kernel=(5, 3), pads=(2, 1, 2, 1)),
    _Form("uneven-pads", pads=(0, 2, 1, 0)),
    _Form("strides", strides=(2, 3)),
    _Form("dilations", dilations=(2, 3), pads=(2, 3, 2, 3)),
    _Form("groups", group=2),
    _Form("offset-groups", offset_group=2),
    _Form("all-groups", group=2, offset_group=4),
    _Form("all-groups-plain", group=2, offset_group=4, mask=False, bias=False),
    _Form(
        "everything",
        kernel=(3, 2),
        strides=(2, 1),
        dilations=(1, 2),
        pads=(1, 0, 2, 1),
        group=2,
        offset_group=2,
    ),
)


def cases() -> Iterator[Case]:
    """All of DeformConv's cases."""
    for opset in (19, 22):
        for kind in kinds("DeformConv", opset):
            for form in _FORMS:
                yield _case(form, opset, kind)


def _case(form: _Form, opset: int, kind: Kind) -> Case:
    taps = form.kernel[0] * form.kernel[1]
    weight = weights(kind, _OUT, form.channels // form.group, *form.kernel)
    bias = weights(kind, _OUT) if form.bias else None
    offsets = (_BATCH, form.offset_group * taps * 2, *form.output)
    masks = (_BATCH, form.offset_group * taps, *form.output)
    inputs: list[Input] = [
        uniform(kind, _BATCH, form.channels, _HEIGHT, _WIDTH, low=0.0),
        weight,
        uniform(kind, *offsets, low=-form.reach, high=form.reach),
        bias,
        uniform(kind, *masks, low=0.0) if form.mask else None,
    ]
    while inputs[-1] is None:
        inputs.pop()

    def reference(
        x: Floats, w: Floats, offset: Floats, b: Floats | None = None, mask: Floats | None = None
    ) -> Floats:
        return deform_conv(x, w, offset, b, mask, form.strides, form.dilations, form.pads, form.group)

    attributes = {
        "kernel_shape": form.kernel,
        "strides": form.strides,
        "dilations": form.dilations,
        "pads": form.pads,
        "group": form.group,
        "offset_group": form.offset_group,
    }
    return probe(
        "DeformConv",
        form.setting,
        opset,
        kind,
        inputs,
        reference,
        _tolerance(form, kind, weight, bias),
        attributes=attributes,
    )


def _tolerance(form: _Form, kind: Kind, weight: Fixed, bias: Fixed | None) -> Tolerance:
    values = weight.array.astype(np.float64)
    total = float(np.abs(values).reshape(_OUT, -1).sum(axis=1).max())
    terms = values[0].size
    # Four sums of numbers up to the frame's width and the offset's reach make a position.
    reach = _WIDTH + form.reach + max(form.pads)
    position = 4 * FP32.roundoff * reach if kind is FP32 else POSITION
    # A bilinear sample takes 12 roundings, the mask 1; the sum one a term and the bias.
    rounding = (terms + 14) * kind.roundoff * (total + 1.0 * (bias is not None))
    return Tolerance(
        rounding + total * 2 * position,
        f"{rounding:.1e} for {terms} terms whose |weights| sum to {total:.2g}, and samples {position:.1e} px "
        f"off along 2 axes of an image in [0, 1]",
    )


def deform_conv(
    x: Floats,
    weight: Floats,
    offset: Floats,
    bias: Floats | None,
    mask: Floats | None,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    group: int,
) -> Floats:
    """Deformable convolution by the text of ONNX's DeformConv-19.

    Args:
        x: [N, C, H, W].
        weight: [O, C/group, kH, kW].
        offset: [N, G * kH * kW * 2, oH, oW]: of each offset group and tap, down and then right, pixels.
        bias: [O].
        mask: [N, G * kH * kW, oH, oW]; ones if None.
        strides, dilations: down, right.
        pads: top, left, bottom, right.
        group: of the convolution.

    Returns:
        [N, O, oH, oW].
    """
    batch, channels = x.shape[:2]
    out_channels, _, rows, columns = weight.shape
    groups = offset.shape[1] // (2 * rows * columns)
    height, width = offset.shape[2:]
    moves = offset.reshape(batch, groups, rows, columns, 2, height, width)
    masks = np.ones((batch, groups, rows, columns, height, width))
    if mask is not None:
        masks = mask.reshape(masks.shape)
    down, right = np.mgrid[0:height, 0:width]
    # One image a batch and offset group, with the channels that share its offsets.
    images = x.reshape(batch * groups, channels // groups, *x.shape[2:])
    columns_of = np.empty((batch, channels, rows, columns, height, width))
    for i, j in np.ndindex(rows, columns):
        y = down * strides[0] - pads[0] + i * dilations[0] + moves[:, :, i, j, 0]
        z = right * strides[1] - pads[1] + j * dilations[1] + moves[:, :, i, j, 1]
        places = np.stack([z, y], axis=-1).reshape(batch * groups, height, width, 2)
        taken = sample(images, places, 2, "zeros", aligned=False)
        taken = taken.reshape(batch, groups, -1, height, width) * masks[:, :, None, i, j]
        columns_of[:, :, i, j] = taken.reshape(batch, channels, height, width)
    parts = columns_of.reshape(batch, group, channels // group, rows, columns, height, width)
    kernels = weight.reshape(group, out_channels // group, channels // group, rows, columns)
    out: Floats = np.einsum("ngcijhw,gocij->ngohw", parts, kernels)
    out = out.reshape(batch, out_channels, height, width)
    return out if bias is None else out + bias[:, None, None]
