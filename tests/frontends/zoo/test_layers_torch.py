"""Warp and flow network: directions, edges and sizes, which a parity test at one size can't tell apart."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.frontends.zoo.layers_torch import SpyNet, flow_warp


def shift(x: int, y: int, height: int, width: int) -> torch.Tensor:
    return torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, height, width).contiguous()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, 0), (0, 3), (-1, 2)])
def test_whole_pixel_flow_is_a_shift_with_zeros_outside(dx: int, dy: int) -> None:
    height, width = 9, 13
    x = torch.arange(float(height * width)).view(1, 1, height, width) + 1
    expected = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            if 0 <= row + dy < height and 0 <= column + dx < width:
                expected[0, 0, row, column] = x[0, 0, row + dy, column + dx]
    found = flow_warp(x, shift(dx, dy, height, width))
    # A position is rounded by 2^-23 of the side at most, and neighbours differ by x's maximum at an edge.
    assert (found - expected).abs().max() < 2**-23 * (height + width) * float(x.max()) * 4


def test_border_padding_repeats_the_edge() -> None:
    x = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 4, 5)
    found = flow_warp(x, shift(100, 0, 4, 5), padding="border")
    assert (found - 4.0).abs().max() < 1e-5


def test_half_pixel_flow_is_the_mean_of_neighbours() -> None:
    x = torch.rand(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    found = flow_warp(x, shift(1, 0, 6, 8) / 2)
    assert (found[..., :-1] - (x[..., :-1] + x[..., 1:]) / 2).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(64, 96), (66, 75), (33, 40), (32, 32), (8, 8)])
def test_flow_is_rescaled_from_the_pyramid_size(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def estimate(_: SpyNet, refs: list[torch.Tensor], sups: list[torch.Tensor]) -> torch.Tensor:
        seen.append(tuple(refs[-1].shape[2:]))
        return torch.ones(1, 2, *refs[-1].shape[2:])

    monkeypatch.setattr(SpyNet, "_estimate", estimate)
    frame = torch.zeros(1, 3, height, width)
    flow = SpyNet()(frame, frame)
    (inner,) = seen
    assert inner == (-(-height // 32) * 32, -(-width // 32) * 32)
    assert flow.shape == (1, 2, height, width)
    assert torch.allclose(flow[0, 0], torch.tensor(width / inner[1]))
    assert torch.allclose(flow[0, 1], torch.tensor(height / inner[0]))
