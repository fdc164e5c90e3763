"""SOF-VSR, of TIP and of ACCV: the networks against the reference outputs, programs against networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.torch_export import export_module
from superlower.frontends.zoo.checkpoint import seed_parameters
from superlower.frontends.zoo.layers_torch import Method, flow_warp
from superlower.frontends.zoo.sofvsr import SofVsr, SofVsrAccv
from superlower.frontends.zoo.sofvsr_accv_torch import SofVsrAccvNet
from superlower.frontends.zoo.sofvsr_torch import SofVsrNet, drafts, warp
from superlower.program.model import TemporalModel
from support.zoo import (
    PARITY,
    THROUGH_ONNX,
    assert_order_matters,
    assert_program_equals_network,
    keys_of,
    relative_error,
    request,
    run_program,
)

TIP = [(2, 945_729), (3, 1_179_329), (4, 1_047_617)]


@pytest.mark.parametrize("frontend", [SofVsr(), SofVsrAccv()], ids=["tip", "accv"])
def test_is_a_zoo_frontend(frontend: ZooFrontend) -> None:
    assert isinstance(frontend, ZooFrontend)


@pytest.mark.parametrize(("scale", "parameters"), TIP)
def test_names_and_shapes_of_tip_are_public(scale: int, parameters: int, oracles: Path) -> None:
    network = SofVsrNet(scale)
    found = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert found == keys_of(oracles, f"sofvsr_tip_x{scale}_ac_true")
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_names_and_shapes_of_accv_are_public(oracles: Path) -> None:
    network = SofVsrAccvNet()
    found = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert found == keys_of(oracles, "sofvsr_accv_x4_ac_false")
    assert sum(p.numel() for p in network.parameters()) == 1_639_676


@pytest.mark.parametrize(
    "scale", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_tip_equals_the_reference(scale: int, oracles: Path, caller) -> None:
    with np.load(oracles / "parity" / f"sofvsr_tip_x{scale}_ac_true.npz") as parity:
        frames, expected = list(parity["in0"][0][:, None]), parity["out0"]
    asked = request(*frames[0].shape[2:], options={"scale": str(scale)})
    assert relative_error(SofVsr().reference(asked)(frames)[1], expected) < PARITY
    found = run_program(SofVsr().export(asked), frames, caller)[1:2]
    assert relative_error(found, expected) < THROUGH_ONNX


@pytest.mark.slow
def test_accv_equals_the_reference(oracles: Path, caller) -> None:
    """The reference's sampler doesn't align corners, as today's default has it: the product's does."""
    with np.load(oracles / "parity" / "sofvsr_accv_x4_ac_false.npz") as parity:
        window, expected = torch.from_numpy(parity["in0"][0]), parity["out0"]
    network = SofVsrAccvNet(align_corners=False).eval()
    seed_parameters(network, 0)
    feeds = {f"x{i}": frame[None, None] for i, frame in enumerate(window)}
    with torch.no_grad():
        assert relative_error(network.upscale(*feeds.values()).numpy(), expected) < PARITY
    graph = export_module(Method(network, network.upscale), feeds, ["output"], name="upscale")
    program = SofVsrAccv().export(request(24, 32)).program
    call = caller(TemporalModel(program, {"upscale": graph}))
    found = call("upscale", {name: frame.numpy() for name, frame in feeds.items()})["output"]
    assert relative_error(found, expected) < THROUGH_ONNX


@pytest.mark.parametrize(
    ("frontend", "options", "scale"),
    [
        pytest.param(SofVsr(), {"scale": "2"}, 2, id="tip-x2", marks=pytest.mark.slow),
        pytest.param(SofVsr(), {"scale": "3"}, 3, id="tip-x3", marks=pytest.mark.slow),
        pytest.param(SofVsrAccv(), {}, 4, id="accv"),
    ],
)
def test_program_equals_the_network_over_a_clip(
    frontend: ZooFrontend, options: dict[str, str], scale: int, caller
) -> None:
    asked = request(15, 18, options=options)
    model = assert_program_equals_network(frontend, asked, 3, caller, shorter=[1])
    assert (model.program.frame.padded, model.program.frame.scale) == ((16, 18), scale)
    assert_order_matters(frontend, asked, model)


def test_warp_counts_in_half_patches() -> None:
    """With corners aligned, a flow of f is one of 15.5 f pixels, several flows are as many warps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 9, 12, generator=generator)
    flows = torch.randn(2, 1, 2, 9, 12, generator=generator) * 0.1
    found = warp(x, torch.cat(tuple(flows), dim=2))
    expected = [flow_warp(x, 15.5 * flow, padding="border") for flow in flows]
    # Positions up to 2, 15.5 pixels of 12 a unit, are rounded by 2^-24 a few times over.
    assert (found - torch.cat(expected, dim=2)).abs().max() < 1e-5


def test_drafts_are_one_warp_a_phase() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 6, 8, generator=generator)
    flow = torch.randn(1, 2, 12, 16, generator=generator) * 0.1
    found = drafts(x, flow, 2)
    expected = [warp(x, flow[:, :, i::2, j::2] / 2) for i in range(2) for j in range(2)]
    assert torch.equal(found, torch.cat(expected, dim=1))


def test_a_checkpoint_says_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(SofVsrNet(3).state_dict(), path)
    assert SofVsr()._network(request(16, 16, path)).scale == 3
    with pytest.raises(BadInputError, match=r"another architecture than SOF-VSR \(TIP\) x2"):
        SofVsr()._network(request(16, 16, path, {"scale": "2"}))
    with pytest.raises(BadInputError, match=r"another architecture than SOF-VSR \(ACCV\)"):
        SofVsrAccv()._network(request(16, 16, path))
