"""Deformable convolution: against its definition, and exported against ONNX Runtime's own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import onnxruntime as ort
import torch
from torch import Tensor, nn

from superlower import ir
from superlower.frontends.torch_deform import deform_conv2d
from superlower.frontends.torch_export import export_module

# 2^-24 a product; 9 taps of at most 8 channels and 4 corners each, on values of a few units.
ROUNDING = 9 * 8 * 4 * 2**-24 * 8


class Layer(nn.Module):
    def __init__(
        self, channels: int, outputs: int, kernel: tuple[int, int], padding: int, groups: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(outputs, channels, *kernel, generator=generator) / 4)
        self.bias = nn.Parameter(torch.randn(outputs, generator=generator))
        self.padding, self.groups = padding, groups

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d(
            x, offset, self.weight, self.bias, mask, padding=self.padding, groups=self.groups
        )


def inputs(layer: Layer, height: int, width: int, spread: float) -> dict[str, Tensor]:
    """A batch of two; offsets that reach out of the picture."""
    generator = torch.Generator().manual_seed(2)
    channels, kernel = layer.weight.shape[1], layer.weight.shape[2:]
    out = [n + 2 * layer.padding - k + 1 for n, k in zip((height, width), kernel, strict=True)]
    taps = layer.groups * kernel[0] * kernel[1]
    return {
        "x": torch.randn(2, channels, height, width, generator=generator),
        "offset": torch.randn(2, 2 * taps, *out, generator=generator) * spread,
        "mask": torch.rand(2, taps, *out, generator=generator),
    }


def defined(layer: Layer, x: Tensor, offset: Tensor, mask: Tensor) -> np.ndarray:
    """Every output by itself, in double precision: sum over taps of weight * mask * bilinear x."""
    weight, image, moves, scales = (t.detach().double().numpy() for t in (layer.weight, x, offset, mask))
    outputs, channels, rows, columns = weight.shape
    count, _, height, width = image.shape
    found = np.zeros((count, outputs, *moves.shape[2:]))

    def read(n: int, c: int, y: float, z: float) -> float:
        top, left = int(np.floor(y)), int(np.floor(z))
        total = 0.0
        for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= i < height and 0 <= j < width:
                total += image[n, c, i, j] * (1 - abs(y - i)) * (1 - abs(z - j))
        return total

    for n, row, column, c, i, j in np.ndindex(count, *moves.shape[2:], channels, rows, columns):
        tap = (c * layer.groups // channels) * rows * columns + i * columns + j
        y = row + i - layer.padding + moves[n, 2 * tap, row, column]
        z = column + j - layer.padding + moves[n, 2 * tap + 1, row, column]
        value = read(n, c, y, z) * scales[n, tap, row, column]
        found[n, :, row, column] += weight[:, c, i, j] * value
    return found + layer.bias.detach().double().numpy()[:, None, None]


CASES = [
    pytest.param(Layer(4, 5, (3, 3), 1, 2), 5, 7, 2.0, id="offsets"),
    pytest.param(Layer(8, 4, (3, 3), 1, 1), 6, 4, 0.4, id="one-group"),
    pytest.param(Layer(2, 3, (1, 3), 0, 2), 4, 5, 1.0, id="no-padding"),
    pytest.param(Layer(4, 4, (3, 3), 1, 4), 1, 6, 1.0, id="one-row"),
]


@pytest.mark.parametrize(("layer", "height", "width", "spread"), CASES)
def test_equals_its_definition(layer: Layer, height: int, width: int, spread: float) -> None:
    given = inputs(layer, height, width, spread)
    with torch.no_grad():
        found = layer(**given).numpy()
    assert np.abs(found - defined(layer, **given)).max() < ROUNDING


def test_without_offsets_it_is_a_convolution() -> None:
    layer = Layer(4, 5, (3, 3), 1, 2)
    given = inputs(layer, 6, 7, 0.0)
    given["mask"].fill_(1.0)
    with torch.no_grad():
        expected = torch.conv2d(given["x"], layer.weight, layer.bias, padding=1)
        assert (layer(**given) - expected).abs().max() < ROUNDING


@pytest.mark.parametrize(("layer", "height", "width", "spread"), CASES)
def test_exports_as_one_node_that_onnx_runtime_agrees_with(
    layer: Layer, height: int, width: int, spread: float
) -> None:
    given = inputs(layer, height, width, spread)
    model = export_module(layer, given, ["output"], name="layer")
    assert [node.op_type for node in model.graph] == ["DeformConv"]
    assert model.opset_imports == {"": ir.OPSET}
    session = ort.InferenceSession(ir.serialize(model), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    with torch.no_grad():
        assert np.abs(found - layer(**given).numpy()).max() < ROUNDING
