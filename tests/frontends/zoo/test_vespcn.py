"""VESPCN: the network against the reference output, its export against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.frontends.base import ZooFrontend
from superlower.frontends.torch_export import export_module
from superlower.frontends.zoo.checkpoint import seed_parameters
from superlower.frontends.zoo.layers_torch import Method
from superlower.frontends.zoo.vespcn import Vespcn
from superlower.frontends.zoo.vespcn_torch import VespcnNet, warp
from superlower.program import analysis
from superlower.program.model import Program, TemporalModel
from support.zoo import (
    PARITY,
    THROUGH_ONNX,
    assert_order_matters,
    assert_program_equals_network,
    keys_of,
    relative_error,
    request,
)


def test_is_a_zoo_frontend() -> None:
    assert isinstance(Vespcn(), ZooFrontend)


def test_names_and_shapes_are_those_of_public_checkpoints(oracles: Path) -> None:
    found = {k: tuple(v.shape) for k, v in VespcnNet().state_dict().items()}
    assert found == keys_of(oracles, "vespcn_c3_x4_egvsrport_valid_nn")


@pytest.mark.parametrize(("channels", "parameters"), [(3, 878_787), (1, 868_177)])
def test_parameters(channels: int, parameters: int) -> None:
    assert sum(p.numel() for p in VespcnNet(channels).parameters()) == parameters


def test_network_and_graph_equal_the_reference(oracles: Path, caller) -> None:
    """The reference is the published port: unpadded convolutions, and the frame after in both places."""
    with np.load(oracles / "parity" / "vespcn_c3_x4_egvsrport_valid_nn.npz") as parity:
        (_, x, following), expected = parity["in0"][:, None], parity["out0"]
    network = VespcnNet(padded=False).eval()
    seed_parameters(network, 0)
    feeds = {"previous": following, "x": x, "following": following}
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        assert relative_error(network.upscale(*tensors.values()).numpy(), expected) < PARITY
    graph = export_module(Method(network, network.upscale), tensors, ["output"], name="upscale")
    program = Program(
        name="port", frame=Vespcn().export(request(24, 32)).program.frame, streams={}, equations=()
    )
    found = caller(TemporalModel(program, {"upscale": graph}))("upscale", feeds)["output"]
    assert relative_error(found, expected) < THROUGH_ONNX


@pytest.mark.parametrize("channels", [pytest.param("1", marks=pytest.mark.slow), "3"])
def test_program_equals_the_network_over_a_clip(channels: str, caller) -> None:
    asked = request(17, 24, options={"channels": channels})
    model = assert_program_equals_network(Vespcn(), asked, 4, caller)
    assert model.program.frame.padded == (20, 24)
    assert model.program.frame.channels == int(channels)
    assert analysis.analyze(model.program).latency == 1
    assert_order_matters(Vespcn(), asked, model)


def test_a_checkpoint_says_its_channels(tmp_path: Path) -> None:
    path = tmp_path / "luma.pth"
    torch.save(VespcnNet(1).state_dict(), path)
    assert Vespcn()._network(request(16, 16, path)).channels == 1


@pytest.mark.parametrize(("axis", "size"), [(3, 12), (2, 9)])
def test_warp_by_nothing_stretches_about_the_middle(axis: int, size: int) -> None:
    """Pixel p is read at (p - m) n / (n - 1) + m, m the middle: a ramp becomes that, clamped to its ends."""
    ramp = torch.arange(9.0).view(1, 1, 9, 1) if axis == 2 else torch.arange(12.0).view(1, 1, 1, 12)
    found = warp(ramp.expand(1, 1, 9, 12), torch.zeros(1, 2, 9, 12))
    middle = (size - 1) / 2
    expected = ((ramp - middle) * size / (size - 1) + middle).clamp(0, size - 1)
    assert (found - expected).abs().max() < size * 2**-22


def test_warp_moves_by_the_flow() -> None:
    x = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 9, 12)
    zero = torch.zeros(1, 2, 9, 12)
    one = torch.cat((torch.ones(1, 1, 9, 12), torch.zeros(1, 1, 9, 12)), dim=1)
    moved = (warp(x, one) - warp(x, zero))[..., 1:-2]
    assert (moved - 1).abs().max() < 12 * 2**-22
