"""Deformable convolution in plain PyTorch, exported as ONNX's own DeformConv. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from onnxscript import opset19
from torch import Tensor

Translations = Mapping[Callable[..., object], Callable[..., object]]


@torch.library.custom_op("superlower::deform_conv", mutates_args=())
def _deform_conv(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, padding: int, groups: int
) -> Tensor:
    count, channels, height, width = x.shape
    outputs, _, kernel_height, kernel_width = weight.shape
    taps = kernel_height * kernel_width
    out_height, out_width = offset.shape[2:]
    rows = torch.arange(kernel_height, device=x.device).repeat_interleave(kernel_width) - padding
    columns = torch.arange(kernel_width, device=x.device).repeat(kernel_height) - padding
    moved = offset.reshape(count * groups, taps, 2, out_height, out_width)
    y = moved[:, :, 0] + rows.view(-1, 1, 1) + torch.arange(out_height, device=x.device).view(-1, 1)
    x_position = moved[:, :, 1] + columns.view(-1, 1, 1) + torch.arange(out_width, device=x.device)
    # A pixel's centre p of n is (2 p + 1) / n - 1: defined for a side of one pixel too.
    grid = torch.stack(((2 * x_position + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    sampled = F.grid_sample(
        x.reshape(count * groups, channels // groups, height, width),
        grid.reshape(count * groups, taps * out_height, out_width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    sampled = sampled.reshape(count, groups, channels // groups, taps, out_height * out_width)
    sampled = sampled * mask.reshape(count, groups, 1, taps, out_height * out_width)
    flat = weight.reshape(outputs, channels * taps)
    out = flat @ sampled.reshape(count, channels * taps, out_height * out_width)
    return out.reshape(count, outputs, out_height, out_width) + bias.view(-1, 1, 1)


@_deform_conv.register_fake
def _shape(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, padding: int, groups: int
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])


def deform_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, *, padding: int, groups: int
) -> Tensor:
    """Modulated deformable convolution of stride 1 (Zhu et al., Deformable ConvNets v2, CVPR 2019, eq. 1).

    Each tap of the kernel reads `x` at its place moved by an offset, bilinearly, zeros outside, and scales
    what it reads.

    Args:
        x: [N, C, H, W].
        offset: [N, groups * kh * kw * 2, H', W'] in pixels, y then x for each tap (ONNX's order).
        weight: [C', C, kh, kw].
        bias: [C'].
        mask: [N, groups * kh * kw, H', W'].
        padding: pixels around `x`, so that H' = H + 2 padding - kh + 1.
        groups: parts of the channels, each with offsets and mask of its own.

    Returns:
        [N, C', H', W'].
    """
    out: Tensor = _deform_conv(x, weight, offset, bias, mask, padding, groups)
    return out


def translations() -> Translations:
    """What the exporter has to know: our operator -> a function that writes ONNX for it."""
    return {torch.ops.superlower.deform_conv.default: _to_onnx}


def _to_onnx(x: Any, weight: Any, offset: Any, bias: Any, mask: Any, padding: int, groups: int) -> object:
    return opset19.DeformConv(x, weight, offset, bias, mask, pads=[padding] * 4, offset_group=groups)
