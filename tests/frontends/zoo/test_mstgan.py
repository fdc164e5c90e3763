"""MST-GAN: size and cost as published, its export against the network."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.cost_torch import count_macs
from superlower.frontends.zoo.layers_torch import flow_warp
from superlower.frontends.zoo.mstgan import MstGan
from superlower.frontends.zoo.mstgan_torch import MstGanNet
from superlower.program import analysis
from support.zoo import (
    PARITY,
    assert_order_matters,
    assert_program_equals_network,
    request,
)


def test_is_a_zoo_frontend() -> None:
    assert isinstance(MstGan(), ZooFrontend)


def test_size_and_cost_are_the_published_ones() -> None:
    """About 28 M parameters and 950 GFLOPs for a frame of 1280x720: to the digits given."""
    with torch.device("meta"):
        network = MstGanNet()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(28e6, abs=0.5e6)
    macs = count_macs(network.upscale, [(1, 3, 180, 320)] * 3)
    assert 2 * macs == pytest.approx(950e9, abs=5e9)


@pytest.mark.parametrize("alignment", ["multi", pytest.param("single", marks=pytest.mark.slow)])
def test_program_equals_the_network_over_a_clip(alignment: str, caller) -> None:
    asked = request(11, 16, options={"blocks": "1", "alignment": alignment})
    model = assert_program_equals_network(MstGan(), asked, 3, caller, shorter=[1])
    assert model.program.frame.padded == (12, 16)
    assert analysis.analyze(model.program).latency == 1
    assert_order_matters(MstGan(), asked, model)


def test_single_scale_alignment_enlarges_one_flow() -> None:
    network = MstGanNet(multiscale=False, blocks=1)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1.0
    network.align.estimate[0] = torch.nn.Identity()
    network.align.estimate[0].forward = lambda _: flow  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    levels = [torch.rand(1, 64, 12 >> i, 16 >> i, generator=generator) for i in range(3)]
    for i, found in enumerate(network.align(levels, levels)):
        moved = torch.zeros(1, 2, 12 >> i, 16 >> i)
        moved[:, 0] = 4 >> i
        expected = flow_warp(levels[i], moved, padding="border")
        assert (found - expected).abs().max() < PARITY


def test_a_checkpoint_says_its_form(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(MstGanNet(multiscale=False, blocks=2).state_dict(), path)
    network = MstGan().network(request(16, 16, path))
    assert (network.multiscale, network.blocks) == (False, 2)
