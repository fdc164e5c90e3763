"""Convolutions in bfloat16: what stays in float32, and gradients are those of float32 but for roundings."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

import torch

from superlower.frontends import bfloat16_torch
from superlower.frontends.bfloat16_torch import fast_convolutions, has_tiles
from superlower.frontends.zoo.checkpoint import seed_parameters
from superlower.frontends.zoo.layers_torch import Trunk, flow_warp


def gradients(trunk: Trunk, x: torch.Tensor, flow: torch.Tensor, fast: bool) -> list[torch.Tensor]:
    """Of the square of a state warped and run through the trunk once more."""
    trunk.zero_grad()
    none = torch.zeros_like(x[:, :1]).repeat(1, 8, 1, 1)
    if fast:
        with fast_convolutions():
            state = trunk(torch.cat((x, none), 1))
            state = trunk(torch.cat((x, flow_warp(state, flow)), 1))
    else:
        state = trunk(torch.cat((x, none), 1))
        state = trunk(torch.cat((x, flow_warp(state, flow)), 1))
    state.float().square().mean().backward()
    return [p.grad.clone() for p in trunk.parameters() if p.grad is not None]


@pytest.mark.skipif(not has_tiles(), reason="this CPU has no AMX tiles: nothing is computed in bfloat16")
def test_gradients_are_those_of_float32_but_for_roundings() -> None:
    draw = torch.Generator().manual_seed(0)
    trunk = Trunk(11, 8, 3)
    seed_parameters(trunk, 0)
    x, flow = torch.rand(2, 3, 16, 16, generator=draw), torch.randn(2, 2, 16, 16, generator=draw)
    exact, fast = gradients(trunk, x, flow, False), gradients(trunk, x, flow, True)
    assert len(exact) == len(list(trunk.parameters()))
    for one, other in zip(exact, fast, strict=True):
        assert other.dtype == torch.float32
        # Some thirty roundings to 8 bits on the way there and back, in quadrature: sqrt(30) * 2^-9 = 0.011.
        assert float((one - other).norm() / one.norm()) < 0.03
    assert any(not torch.equal(one, other) for one, other in zip(exact, fast, strict=True))


def test_warps_are_in_float32_whatever_is_warped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns beyond 256 have no bfloat16 of their own."""
    monkeypatch.setattr(bfloat16_torch, "has_tiles", lambda: True)
    x = torch.arange(300.0).repeat(1, 1, 2, 1)
    flow = torch.full((1, 2, 2, 300), 0.25)
    flow[:, 1] = 0
    with fast_convolutions():
        found = flow_warp(x.bfloat16(), flow)
    assert found.dtype == torch.float32
    expected = flow_warp(x.bfloat16().float(), flow)
    assert torch.equal(found, expected)
