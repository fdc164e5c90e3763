"""The improved EDVR: size and cost as published, its export against the network."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.cost_torch import count_macs
from superlower.frontends.zoo.edvr_improved import ImprovedEdvr
from superlower.frontends.zoo.edvr_improved_torch import ImprovedEdvrNet
from support.zoo import (
    PARITY,
    assert_order_matters,
    assert_program_equals_network,
    request,
)

TOLERANCE = PARITY / 10
"""Seeded, nearly all of an output is the frame itself, enlarged; neighbours' part is a few hundredths."""


def test_is_a_zoo_frontend() -> None:
    assert isinstance(ImprovedEdvr(), ZooFrontend)


def test_size_and_cost_are_the_published_ones() -> None:
    """3.5 M parameters; about 900 G multiply-accumulates a frame of 480x270, which is what the field's papers
    call FLOPs (BasicVSR's 338 are)."""
    with torch.device("meta"):
        network = ImprovedEdvrNet()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(3.5e6, abs=0.05e6)
    macs = count_macs(network.upscale, [(1, 3, 272, 480)] * 5)
    assert macs == pytest.approx(900e9, abs=50e9)


def test_program_equals_the_network_over_a_clip(caller) -> None:
    asked = request(11, 16, options={"blocks": "1", "frames": "3"})
    model = assert_program_equals_network(ImprovedEdvr(), asked, 3, caller, TOLERANCE, shorter=[1])
    operators = [node.op_type for node in model.graphs["upscale"].graph]
    assert operators.count("DeformConv") == 2 * 3
    volumes = [n for n in model.graphs["upscale"].graph if n.op_type == "Conv" and "volume" in str(n.name)]
    assert len(volumes) == 4
    assert_order_matters(ImprovedEdvr(), asked, model, TOLERANCE)


def test_a_checkpoint_says_its_form(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(ImprovedEdvrNet(7, 2).state_dict(), path)
    network = ImprovedEdvr()._network(request(16, 16, path))
    assert (network.frames, network.blocks) == (7, 2)
    with pytest.raises(BadInputError, match="frames=4 has no middle"):
        ImprovedEdvr()._network(request(16, 16, path, {"frames": "4"}))
